"""Text: sentences as batches of token ids, and any Hugging Face encoder behind one door."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from unlabel.checks import check_above_0
from unlabel.core import Batch, Encoding, View, ViewSpec
from unlabel.core import view as named
from unlabel.modalities.configs import (
    new_config,
    save_settings,
    saved_config,
    saved_settings,
)
from unlabel.modalities.dropout import set_dropout
from unlabel.modalities.pooling import pool
from unlabel.modalities.text_collator import TextCollator
from unlabel.modalities.text_folder import bare, sentence_transformer, transformer_folder
from unlabel.modalities.text_head import TokenHead, saved_token_head
from unlabel.modalities.text_orders import VIEWS as ORDERS
from unlabel.modalities.text_show import shown
from unlabel.modalities.text_views import VIEWS as WHOLE
from unlabel.modalities.text_views import Vocabulary
from unlabel.modalities.unpadded import Row, first_position, unpad

POOLINGS = ("cls", "mean", "first_last")
VIEWS = WHOLE | ORDERS
_LONGEST = 512  # tokens of a sentence, where a folder does not say


class TextEncoder(nn.Module):
    """A Hugging Face text encoder that sees views and gives pooled and token vectors.

    Args:
        model: a bidirectional encoder (BERT and its kin), without its language-model head.
        tokenizer: the fast tokenizer that belongs to it.
        pooling: how tokens become a sentence: `cls` (first token), `mean` (over real tokens), or
            `first_last` (mean over the outputs of the first and the last block).
        max_length: longest sentence in tokens, special tokens included.
        unpadded: real tokens alone go through the model, as one row; attention keeps to sentences.
        multiple_of: pad lengths of batches up to a multiple, at most to `max_length`.

    Raises:
        ValueError: unknown pooling, or a model this class cannot drive, or not unpadded.
    """

    gives = frozenset({"pooled", "tokens", "times", "layers", "token_ids", "table", "pair"})
    views = frozenset(VIEWS)
    usual = "plain"
    local = named("crop", low=0.3, high=0.7)
    turned = ()

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pooling: str = "mean",
        max_length: int = 64,
        unpadded: bool = False,
        multiple_of: int = 1,
    ):
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"Pooling {pooling!r} is not one of {', '.join(POOLINGS)}.")
        self.model, self.tokenizer, self.pooling = model, tokenizer, pooling
        self.multiple_of = multiple_of
        places = getattr(model.config, "max_position_embeddings", None)
        limit = max_length if places is None else places - first_position(model)
        self.max_length = min(max_length, limit)
        self.width: int = model.config.hidden_size
        self.layer_width, self.grid = self.width, (self.max_length,)
        table = _table(model)
        self.table_size: tuple[int, int] = (table.shape[0], table.shape[1])
        self.vocabulary = Vocabulary.of(tokenizer)
        if len(tokenizer) > len(table):
            raise ValueError(
                f"The tokenizer knows {len(tokenizer)} tokens but the model only {len(table)}; "
                "use the tokenizer saved with it."
            )
        self._keep: Tensor | None = None
        self._origin: tuple[str, bool] | None = None
        # GPT-2 sums its vectors itself; what it then drops out is all that a block sees.
        layers = (getattr(model, name, None) for name in ("embeddings", "drop"))
        if embedding := next(filter(None, layers), None):
            embedding.register_forward_hook(self._cut_embeddings)
        self._cuts = embedding is not None
        self.first_position: int | None = None  # where it runs unpadded: its sentences begin here
        if unpadded:
            unpad(self)

    # -- making, loading and saving ---------------------------------------------------------

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        tokenizer: PreTrainedTokenizerBase,
        *,
        dropout: float | None = None,
        **settings: Any,
    ) -> "TextEncoder":
        """An untrained encoder from a transformers configuration and a tokenizer.

        Args:
            config: keys of the configuration, `model_type` among them (default `bert`).
            tokenizer: gives the vocabulary size and the padding id.
            dropout: sets every dropout probability of the model; None leaves them alone.
            settings: `pooling`, `max_length` and so on, as for the class.
        """
        keys = dict(config)
        kind = keys.pop("model_type", "bert")
        own = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        made = new_config(kind, keys, defaults=own, dropout=dropout)
        return cls(bare(lambda **kw: AutoModel.from_config(made, **kw)), tokenizer, **settings)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        pooling: str | None = None,
        max_length: int | None = None,
        dropout: float | None = None,
        local_files_only: bool = False,
        **settings: Any,
    ) -> "TextEncoder":
        """An encoder from a folder (ours, transformers' or sentence-transformers') or a hub name.

        It comes in evaluation mode, as transformers' own do.

        Args:
            path: folder or hub name.
            pooling: default is what the folder says, else `mean`.
            max_length: default is what the folder says, else 512 tokens or the model's limit.
            dropout: sets every dropout probability of the model; None leaves them alone.
            local_files_only: never ask the hub.
            settings: `unpadded` and `multiple_of`, as for the class; no folder holds them.

        Raises:
            FileNotFoundError: the folder holds no model.
        """
        folder = Path(path)
        said = saved_settings(folder) or sentence_transformer(folder)
        path = transformer_folder(folder) if folder.is_dir() else path
        config = saved_config(path, dropout=dropout, local_files_only=local_files_only)
        model = bare(
            lambda **kw: AutoModel.from_pretrained(
                str(path),
                config=config,
                dtype=torch.float32,
                local_files_only=local_files_only,
                **kw,
            )
        )
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=local_files_only)
        encoder = cls(
            model,
            tokenizer,
            pooling=pooling or said.get("pooling", "mean"),
            max_length=max_length or said.get("max_length", _LONGEST),
            **settings,
        )
        encoder._origin = (str(path), local_files_only)
        return encoder.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a plain transformers folder, with our pooling beside it in `unlabel.json`."""
        folder = Path(folder)
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        save_settings(folder, self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """What a transformers folder cannot say of this encoder."""
        return {"modality": "text", "pooling": self.pooling, "max_length": self.max_length}

    def token_head(self) -> TokenHead | None:
        """The head over tokens that the pretrained model was saved with, None where it has none."""
        if self._origin is None:
            return None
        return saved_token_head(self._origin[0], local_files_only=self._origin[1])

    @property
    def frame(self) -> tuple[int, int, int]:
        """Tokens that begin and end a sentence, and padding.

        Raises:
            ValueError: the tokenizer does not put one before and one behind each sentence.
        """
        ends, pad = self.tokenize([""])[0], self.tokenizer.pad_token_id
        if len(ends) != 2 or not isinstance(pad, int):
            raise ValueError(
                f"Sentences are drawn between two tokens, but {type(self.tokenizer).__name__} "
                f"frames them by {len(ends)}; train with a tokenizer such as BERT's."
            )
        return ends[0], ends[1], pad

    # -- views and encoding -----------------------------------------------------------------

    def collator(self, *, seed: int = 0) -> TextCollator:
        """The collator that fits this encoder's tokenizer."""
        pad_id: Any = self.tokenizer.pad_token_id
        return TextCollator(
            pad_id or 0, seed=seed, multiple_of=self.multiple_of, limit=self.max_length
        )

    def view(self, batch: Batch, spec: ViewSpec) -> View:
        """Make a view of the batch (or of one of its partners) on its device.

        Raises:
            ValueError: no view of that name, or no partner of that name in the data.
        """
        for link in spec.parts():
            if link.name not in VIEWS:
                has = ", ".join(sorted(VIEWS))
                raise ValueError(f"Text has no view {link.name!r}; it has {has}.")
        inputs, mask = batch.inputs, batch.mask
        if spec.partner is not None:
            if spec.partner not in batch.partners:
                raise ValueError(
                    f"The objective wants a {spec.partner!r} sentence beside each sample, but the "
                    f"data has {sorted(batch.partners) or 'single sentences'}. Name the columns, "
                    "for example columns: [anchor, positive, negative]."
                )
            partner = batch.partners[spec.partner]
            inputs, mask = {"input_ids": partner["input_ids"]}, partner["mask"]
        made = View(inputs, mask)
        knows: dict[str, Any] = {"vocabulary": self.vocabulary, "width": self.table_size[1]}
        knows["length"] = self.max_length
        knows["segments"] = getattr(self.model.config, "type_vocab_size", 0) > 1
        for link in spec.parts():
            made = VIEWS[link.name](made, batch, link, **knows)
        return made

    def forward(self, view: View, *, want: frozenset[str] = frozenset()) -> Encoding:
        """Encode one view; `want` may name `layers` and `table`.

        Raises:
            ValueError: the view cuts embeddings but the model keeps its embedding layer elsewhere.
        """
        keep = _kept(view)
        if keep is not None and not self._cuts:
            raise ValueError(
                f"{type(self.model).__name__} has no module of embeddings whose output could be "
                "cut; use an encoder of the BERT or GPT-2 family, or an objective without cutoff."
            )
        first = self.first_position
        row = None if first is None or view.attend is not None else Row.of(view.mask, first)
        if row is None:
            inputs: dict[str, Any] = {**view.inputs, "attention_mask": self._attention(view)}
        else:
            inputs = row.inputs(view.inputs)
            keep = None if keep is None else row.take(keep.expand(*view.mask.shape, -1))
        self._keep = keep
        try:
            out = self.model(
                **inputs, output_hidden_states="layers" in want or self.pooling == "first_last"
            )
        finally:
            self._keep = None
        tokens: Tensor = out.last_hidden_state
        layers = out.get("hidden_states")
        if row is not None:
            tokens = row.put(tokens)
            layers = layers and tuple(row.put(x) for x in layers)
        return Encoding(
            pooled=pool(tokens, view.mask, self.pooling, layers),
            tokens=tokens,
            mask=view.mask,
            layers=layers if "layers" in want else None,
            table=_table(self.model) if "table" in want else None,
        )

    def _attention(self, view: View) -> Tensor:
        """What transformers takes: real tokens, or what is added to the scores of every pair."""
        if view.attend is None:
            return view.mask.to(torch.int64)
        # A place that is padding sees itself, as a softmax of nothing has no value.
        itself = torch.eye(view.mask.shape[1], dtype=torch.bool, device=view.mask.device)
        like = next(self.model.parameters())
        shut = torch.full((), torch.finfo(like.dtype).min, dtype=like.dtype, device=like.device)
        return torch.where(view.attend | itself, torch.zeros_like(shut), shut)[:, None]

    def _cut_embeddings(self, module: nn.Module, args: Any, out: Tensor) -> Tensor:
        # The embedding layer's output is the sum of token, position and segment vectors, so a
        # zero here cuts the three together (Shen et al. 2020, section 3.1).
        return out if self._keep is None else out * self._keep

    # -- use ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode(
        self, sentences: Sequence[str], *, batch_size: int = 64, normalize: bool = False
    ) -> Float[np.ndarray, "sentences width"]:
        """Embed sentences, in batches of like length; the result is in the order given.

        Args:
            sentences: any number of strings.
            batch_size: sentences a forward pass.
            normalize: scale every embedding to length 1.

        Raises:
            ValueError: one string instead of a list, or batches of nothing.
        """
        check_above_0(batch_size=batch_size)
        was_training, device = self.training, next(self.parameters()).device
        self.eval()
        try:
            ids = self.tokenize(sentences)
            order = np.argsort([-len(i) for i in ids], kind="stable")
            collate = self.collator()
            out = np.empty((len(ids), self.width), dtype=np.float32)
            for start in range(0, len(ids), batch_size):
                rows = order[start : start + batch_size]
                inputs, mask = collate.pad([ids[r] for r in rows])
                seen = View({"input_ids": inputs.to(device)}, mask.to(device))
                out[rows] = self(seen).pooled.float().cpu().numpy()
        finally:
            self.train(was_training)
        if normalize:
            out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
        return out

    def of_values(self, values: Int[Tensor, "batch length"]) -> View:
        """The view of sentences of these tokens."""
        return View({"input_ids": values}, values != self.collator().pad_id)

    def restored(self, values: Int[Tensor, "batch length"]) -> np.ndarray:
        """The sentences, each on one line."""
        found = self.tokenizer.batch_decode(values, skip_special_tokens=True)
        return np.array([" ".join(sentence.split()) for sentence in found], dtype=object)

    def show(self, view: View, rows: int) -> dict[str, Any]:
        """The first rows of a view as tokens, each `seen`, `cut` or `masked`, for the report."""
        return {"sentences": [shown(view, row, self.tokenizer) for row in range(rows)]}

    def tokenize(self, sentences: Sequence[str]) -> list[list[int]]:
        """Token ids of each sentence, special tokens included, cut at `max_length`."""
        if isinstance(sentences, str):
            raise ValueError("A list of sentences is wanted, but one string came; wrap it in [ ].")
        sentences = list(sentences)
        if not sentences:
            return []
        how: dict[str, Any] = {"truncation": True, "max_length": self.max_length}
        try:
            return self.tokenizer(sentences, verbose=False, **how)["input_ids"]
        except (TypeError, ValueError) as error:
            wrong = next((i for i, s in enumerate(sentences) if not _is_text(s)), None)
            if wrong is None:
                raise
            raise ValueError(
                f"Sentence {wrong} is {sentences[wrong]!r}, which is no text; leave it out."
            ) from error


def _is_text(value: Any) -> bool:
    """True for a string; halves of surrogate pairs are none."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _kept(view: View) -> Tensor | None:
    """True where the embedding layer's output stays, of 3 dimensions; None where all of it does."""
    places, features = view.keep_positions, view.keep_features
    if places is None or features is None:
        whole = places[:, :, None] if places is not None else None
        return features[:, None, :] if features is not None else whole
    return places[:, :, None] & features[:, None, :]


def _table(model: PreTrainedModel) -> Tensor:
    """The token vectors, `(vocabulary, width)`."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return weight


__all__ = ["POOLINGS", "TextCollator", "TextEncoder", "set_dropout"]
