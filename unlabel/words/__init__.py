"""Word vectors: word2vec by negative sampling, and files of vectors that other tools read."""

from unlabel.words.vectors import WordVectors
from unlabel.words.word2vec import train_word2vec

__all__ = ["WordVectors", "train_word2vec"]
