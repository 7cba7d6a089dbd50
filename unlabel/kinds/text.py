"""Text in a run: its options, and how data, encoder and samples are made from them."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from unlabel.data_pipes.docstrings import docstring_corpus
from unlabel.data_pipes.labels import kept_labels
from unlabel.data_pipes.sampling import StreamBatches
from unlabel.data_pipes.text import TextData, TextStream, read_documents, read_text
from unlabel.data_pipes.tokens import TokenStore, train_tokenizer
from unlabel.kinds.prepared import Prepared, is_named, stream_bytes
from unlabel.modalities.text import TextEncoder
from unlabel.objectives import Objective
from unlabel.objectives.gather import world
from unlabel.training.arguments import TrainingArguments

logger = logging.getLogger(__name__)

# A BERT that two cores can train: 4 blocks, 256 wide, 4 heads.
SMALL_BERT = {
    "model_type": "bert",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 128,
}


@dataclass
class TextOptions:
    """Text: how to read it, and which encoder to train on it.

    Args:
        pretrained: folder or hub name to start from; None starts from random weights. `{seed}`
            in it becomes the run's seed, so that each seed continues its own earlier run.
        config: transformers configuration of a new encoder (default: a small BERT).
        vocabulary: token ids of the tokenizer trained on the corpus, for a new encoder.
        lowercase: the new tokenizer ignores case.
        tokenizer_sentences: sentences that the new tokenizer is trained on at most.
        pooling: `cls`, `mean` or `first_last`; None takes the pretrained folder's, else `mean`.
        max_length: longest sentence in tokens.
        dropout: sets every dropout probability; None leaves the model's own.
        unpadded: padding goes through no layer but attention; for models that allow it.
        multiple_of: pad lengths of batches up to a multiple (8 suits a GPU and torch.compile).
        column: the column of a table that holds the text.
        columns: several columns instead: anchor, positive and perhaps hard negative.
        label_column: the column of classes beside them.
        labels: share of the labels of each class that training sees (`s4l` uses them).
        documents: plain text with an empty line between documents; each sentence gets the next one
            and one of another document beside it.
        limit: records read at most.
        min_words: shorter sentences are left out.
        streaming: read while training and hold nothing in memory (needs `max_steps`).
    """

    corpus: ClassVar[str] = "docstrings"  # the data that needs no download, and the default

    pretrained: str | None = None
    config: dict[str, Any] = field(default_factory=lambda: dict(SMALL_BERT))
    vocabulary: int = 16_000
    lowercase: bool = True
    tokenizer_sentences: int = 200_000
    pooling: str | None = None
    max_length: int = 32
    dropout: float | None = None
    unpadded: bool = False
    multiple_of: int = 1
    column: str | None = None
    columns: list[str] | None = None
    label_column: str | None = None
    labels: float = 1.0
    documents: bool = False
    limit: int | None = None
    min_words: int = 1
    streaming: bool = False

    def prepare(
        self,
        data: Any,
        objective: Objective,
        args: TrainingArguments,
        begun: Path | None,
    ) -> Prepared:
        """Read the data, make the encoder and its samples.

        Args:
            data: what `read_text` takes, or `docstrings`.
            objective: what is trained.
            args: of the training.
            begun: folder of the encoder as the run began, where it is resumed.

        Raises:
            ValueError: the data cannot be read, or a stream came without `max_steps`.
        """
        if self.streaming and args.max_steps <= 0:
            raise ValueError("A stream has no end that is known: give --training.max_steps.")
        return self.prepared(self._read(data, args.seed), args, begun)

    def prepared(
        self, source: TextData | TextStream, args: TrainingArguments, begun: Path | None
    ) -> Prepared:
        """The same for text that was read."""
        encoder = self.encoder(source, args.seed, begun)
        store = _store(source, encoder, args)
        samples = len(store) if isinstance(store, TokenStore) else None
        classes = len(getattr(source, "classes", ())) or None
        size = stream_bytes(source) if isinstance(source, TextStream) else None
        content = store.fingerprint if isinstance(store, TokenStore) else None
        return Prepared(encoder, store, _told(source), samples, classes, size, content)

    def _read(self, data: Any, seed: int) -> TextData | TextStream:
        if is_named(data, self.corpus):
            return docstring_corpus(limit=self.limit, progress=True)
        if self.documents:
            if self.streaming or self.column or self.columns:
                raise ValueError("documents are plain text read at once: no stream, no columns.")
            found = read_documents(data, limit=self.limit, min_words=self.min_words)
            logger.info("%s", found.report.summary())
            return found
        source = read_text(
            data,
            column=self.column,
            columns=self.columns,
            label_column=self.label_column,
            limit=self.limit,
            min_words=self.min_words,
            streaming=self.streaming,
        )
        logger.info("%s", _told(source))
        if isinstance(source, TextData) and source.labels is not None:
            source.labels = kept_labels(source.labels, self.labels, seed=seed)
        return source

    def encoder(self, source: TextData | TextStream, seed: int, begun: Path | None) -> TextEncoder:
        """The encoder alone, of this text: as the run began, a pretrained one, or a new one."""
        how: dict[str, Any] = {"dropout": self.dropout, "unpadded": self.unpadded}
        how["multiple_of"] = self.multiple_of
        if begun is not None:
            # The tokenizer and configuration of the run as it began; the weights come after.
            return TextEncoder.from_pretrained(begun, **how)
        if self.pretrained is not None:
            return TextEncoder.from_pretrained(
                self.pretrained.replace("{seed}", str(seed)),
                pooling=self.pooling,
                max_length=self.max_length,
                **how,
            )
        texts: list[str] = []
        for record in source:
            texts.extend(record.values())
            if len(texts) >= self.tokenizer_sentences:
                break
        tokenizer = train_tokenizer(
            texts,
            vocab_size=self.vocabulary,
            lowercase=self.lowercase,
            model_max_length=self.max_length,
        )
        is_bert = self.config.get("model_type", "bert") == "bert"
        return TextEncoder.from_config(
            {**(SMALL_BERT if is_bert else {}), **self.config},
            tokenizer,
            pooling=self.pooling or "mean",
            max_length=self.max_length,
            **how,
        )


def _told(source: TextData | TextStream) -> str:
    begins = "a stream that begins with " if isinstance(source, TextStream) else ""
    return begins + source.report.summary()


def _store(
    source: TextData | TextStream, encoder: TextEncoder, args: TrainingArguments
) -> TokenStore | StreamBatches:
    if isinstance(source, TextStream):
        rank, size = world()
        return StreamBatches(
            source,
            encoder.tokenize,
            args.per_device_train_batch_size,
            seed=args.seed,
            window=args.length_window,
            rank=rank,
            world_size=size,
            passes=None,
        )
    names: list[str] = ["positive", "negative"]
    partners = dict(zip(names, source.partners.values(), strict=False))
    return TokenStore(
        source.texts,
        encoder.tokenizer,
        max_length=encoder.max_length,
        partners=partners,
        labels=source.labels,
    )
