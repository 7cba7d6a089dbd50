"""Unpadded text: the real tokens of a batch as one row, which the attention alone takes apart."""

from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from unlabel.core import View

NAME = "unlabel_unpadded"
TOLERANCE = 1e-4  # relative; float32 differs by about 1e-6

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    VARLEN = None
else:
    # Its first versions had neither heads in groups nor a window.
    has_all = {"scale", "window_size", "enable_gqa"} <= signature(varlen_attn).parameters.keys()
    VARLEN: Any = varlen_attn if has_all else None


@dataclass(frozen=True, eq=False)
class Row:
    """Where the tokens of a row stand in their sentences.

    Attributes:
        mask: True where a token is real, `(batch, length)`.
        places: of the row's tokens in the batch laid flat, `(tokens,)`.
        first: position of a sentence's first token.
    """

    mask: Bool[Tensor, "batch length"]
    places: Int[Tensor, "tokens"]
    first: int

    @classmethod
    def of(cls, mask: Bool[Tensor, "batch length"], first: int) -> "Row":
        """The row of all real tokens, sentence after sentence."""
        return cls(mask, mask.flatten().nonzero()[:, 0], first)

    def take(self, x: Shaped[Tensor, "batch length *rest"]) -> Shaped[Tensor, "one tokens *rest"]:
        """The real places of a batch as one row."""
        return x.flatten(0, 1).index_select(0, self.places)[None]

    def put(self, x: Shaped[Tensor, "one tokens *rest"]) -> Shaped[Tensor, "batch length *rest"]:
        """The row as a batch again, 0 at padding."""
        frame = x.new_zeros(self.mask.numel(), *x.shape[2:])
        return frame.index_copy(0, self.places, x[0]).unflatten(0, self.mask.shape)

    def inputs(self, inputs: dict[str, Tensor]) -> dict[str, Any]:
        """What a model takes for the row, of the inputs of the padded batch."""
        taken: dict[str, Any] = {k: self.take(x) for k, x in inputs.items()}
        taken["position_ids"] = (self.places % self.mask.shape[1] + self.first)[None]
        # Four dimensions: transformers hands such a mask on as it is and builds none.
        taken["attention_mask"] = torch.zeros(1, 1, 1, 1, device=self.mask.device)
        return {**taken, "unpadded": self}

    def sees(self, *, causal: bool, window: int | None) -> Bool[Tensor, "batch 1 queries keys"]:
        """True where a token sees another of its sentence; the window counts padding too."""
        real, length = self.mask[:, None, None, :], self.mask.shape[1]
        seen = real | ~real.any(-1, keepdim=True)  # a softmax of nothing has no value
        if causal or (window is not None and window < length):
            place = torch.arange(length, device=self.mask.device)
            apart = place[:, None] - place[None, :]
            near = torch.ones_like(apart, dtype=torch.bool)
            if causal:
                near = apart >= 0
            if window is not None:
                near = near & (apart.abs() < window)
            seen = (seen & near) | (apart == 0)
        return seen


def attend(
    module: nn.Module,
    query: Float[Tensor, "batch heads length width"],
    key: Float[Tensor, "batch heads_k length width"],
    value: Float[Tensor, "batch heads_k length width"],
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    unpadded: Row | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "batch length heads width"], None]:
    """Attention of transformers' interface; within the sentences of the row `unpadded`, if given.

    Raises:
        ValueError: the model adds a bias of its own to the scores of a row.
    """
    if unpadded is None:
        given = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal}
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, **given, **kwargs
        )
        return out, None
    if kwargs.get("position_bias") is not None or kwargs.get("softcap") is not None:
        raise ValueError("its attention changes the scores, which a row of sentences cannot follow")
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    parts = [x.transpose(1, 2) for x in (query, key, value)]  # (1, tokens, heads, width)
    short = sliding_window is None or sliding_window >= unpadded.mask.shape[1]
    settings: dict[str, Any] = {"scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
    if short and dropout == 0 and (varlen := _varlen(query)) is not None:
        ends = F.pad(unpadded.mask.sum(1).cumsum(0), (1, 0)).to(torch.int32)
        longest, window = unpadded.mask.shape[1], (-1, 0 if causal else -1)
        row = [x[0] for x in parts]
        out = varlen(*row, ends, ends, longest, longest, window_size=window, **settings)
        return out[None], None
    seen = unpadded.sees(causal=causal, window=sliding_window)
    framed = [unpadded.put(x).transpose(1, 2) for x in parts]
    out = F.scaled_dot_product_attention(*framed, attn_mask=seen, dropout_p=dropout, **settings)
    return unpadded.take(out.transpose(1, 2)), None


def _varlen(query: Tensor) -> Any:
    """Torch's attention of sentences in a row, None where the device or number type has none."""
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16):
        return None
    # Its kernels take widths of a head in eights, up to 256; nobody pads them here.
    if query.shape[-1] % 8 or query.shape[-1] > 256:
        return None
    if torch.cuda.get_device_capability(query.device)[0] < 8:
        return None
    return VARLEN


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def unpad(encoder: Any) -> None:
    """From now on a text encoder runs unpadded, if two sentences of unlike length come out equal.

    Raises:
        ValueError: they do not.
    """
    probe = _probe(encoder)
    was_training, why = encoder.training, ""
    encoder.eval()
    try:
        with torch.no_grad():
            padded = encoder(probe).tokens[probe.mask]
            encoder.model.set_attn_implementation(NAME)
            encoder.first_position = first_position(encoder.model)
            apart = (encoder(probe).tokens[probe.mask] - padded).norm() / padded.norm()
        if not apart <= TOLERANCE:
            why = f"its vectors would be {float(apart):.1e} off"
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        why = str(error).strip().partition("\n")[0]
    encoder.train(was_training)
    if why:
        raise ValueError(
            f"{type(encoder.model).__name__} does not run unpadded ({why}); leave out unpadded."
        )


def _probe(encoder: Any) -> View:
    """A sentence of the greatest length and one of a third of it, of all kinds of words."""
    length, words = encoder.max_length, encoder.vocabulary
    known = [i for i in range(words.size) if i not in words.special_ids]
    device = next(encoder.parameters()).device
    ids = torch.tensor(known, device=device).repeat(2 * length)[: 2 * length].view(2, length)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, length // 3 + 1 :] = False
    return View({"input_ids": ids}, mask)


def first_position(model: PreTrainedModel) -> int:
    """Where a model's positions begin: RoBERTa's kin keep the first rows of theirs for padding."""
    tables = (m for n, m in model.named_modules() if n.endswith("position_embeddings"))
    kept = (getattr(table, "padding_idx", None) for table in tables)
    return next((k + 1 for k in kept if k is not None), 0)


__all__ = ["NAME", "TOLERANCE", "Row", "attend", "first_position", "unpad"]
