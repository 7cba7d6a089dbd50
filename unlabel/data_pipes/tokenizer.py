"""Train a BERT-like tokenizer on one's own text."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_tokenizer(
    sentences: Sequence[str],
    *,
    vocab_size: int = 8192,
    lowercase: bool = True,
    min_frequency: int = 2,
    max_characters: int = 1000,
    model_max_length: int = 512,
) -> PreTrainedTokenizerFast:
    """Train a BERT-like WordPiece tokenizer; the same sentences give the same tokenizer.

    Args:
        sentences: to learn from; they are read two or three times.
        vocab_size: pieces at most, the five special tokens among them.
        lowercase: lower the case and strip accents, as BERT's uncased models do.
        min_frequency: of a pair of pieces that is to be merged.
        max_characters: about how many characters are kept, the commonest; the others are `[UNK]`.
        model_max_length: tokens a model can take, special ones included.

    Raises:
        ValueError: when there is nothing to learn from, or no room for the characters.
    """
    if isinstance(sentences, str):
        raise ValueError("A tokenizer learns from a list of sentences, but one string came.")
    learner = _word_piece(None, lowercase)
    learner.train_from_iterator(sentences, _trainer(0, (), None, 0))
    limit = _character_limit(learner, sentences, max_characters)
    if limit is not None:
        learner.train_from_iterator(sentences, _trainer(0, (), limit, 0))
    alphabet = sorted(learner.get_vocab())
    if not alphabet:
        raise ValueError("A tokenizer learns from sentences, but came none with a character in it.")
    if vocab_size < len(SPECIAL) + len(alphabet):
        raise ValueError(
            f"vocab_size={vocab_size} has no room for the {len(alphabet)} pieces of one character; "
            f"take at least {len(SPECIAL) + len(alphabet)}, or a lower max_characters."
        )
    # The trainer numbers the one-character pieces in the order of a hash table, which changes with
    # every run, and breaks ties between merges by these numbers. Handing it the pieces in a fixed
    # order (as special tokens, the only way in) makes the run repeatable; they are plain pieces
    # again in a tokenizer built anew from the vocabulary.
    first = (*SPECIAL, *alphabet)
    learner.train_from_iterator(sentences, _trainer(vocab_size, first, limit, min_frequency))
    vocab = learner.get_vocab()
    return _wrap(_word_piece(vocab, lowercase), vocab, lowercase, model_max_length)


def _trainer(
    size: int, first: tuple[str, ...], characters: int | None, min_frequency: int
) -> trainers.WordPieceTrainer:
    limited: dict[str, Any] = {} if characters is None else {"limit_alphabet": characters}
    return trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=min_frequency,
        special_tokens=list(first),
        show_progress=False,
        **limited,
    )


def _character_limit(
    learner: Tokenizer, sentences: Sequence[str], max_characters: int
) -> int | None:
    """How many characters to keep so that no two of equal count fall on both sides of the cut."""
    if sum(len(piece) == 1 for piece in learner.get_vocab()) <= max_characters:
        return None
    counts: Counter[str] = Counter()
    for sentence in sentences:
        counts.update(learner.normalizer.normalize_str(sentence))  # pyright: ignore
    counts = Counter({c: n for c, n in counts.items() if not c.isspace()})
    bar = counts.most_common(max_characters + 1)[-1][1]
    return sum(n > bar for n in counts.values())


def _word_piece(vocab: dict[str, int] | None, lowercase: bool) -> Tokenizer:
    known: dict[str, Any] = {} if vocab is None else {"vocab": vocab}
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", **known))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)  # pyright: ignore
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # pyright: ignore
    tokenizer.decoder = decoders.WordPiece()  # pyright: ignore
    return tokenizer


def _wrap(
    tokenizer: Tokenizer, vocab: Mapping[str, int], lowercase: bool, length: int
) -> PreTrainedTokenizerFast:
    tokenizer.post_processor = TemplateProcessing(  # pyright: ignore
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=length,
        model_input_names=["input_ids", "attention_mask"],
        do_lower_case=lowercase,
        **dict(zip(names, SPECIAL, strict=True)),
    )
