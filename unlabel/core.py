"""The words every room shares: Batch, View, Encoding, and randomness that belongs to a sample.

Nothing here knows a modality or an objective. See DESIGN: raw files -> Batch -> views -> encoder
-> Encoding -> heads -> kernel.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def _to(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Batch):
        return value.to(device)
    if isinstance(value, Mapping):
        return {k: _to(v, device) for k, v in value.items()}
    return value


@dataclass
class Batch:
    """Raw samples as tensors, all on one device.

    Attributes:
        inputs: what the modality's views start from, each `(batch, ...)`.
        mask: True where a position holds real data, `(batch, length)`.
        index: the sample's place in the data set, `(batch,)`.
        ordinal: the sample's place in the whole run (`epoch * len(data) + index`), `(batch,)`;
            every augmentation of the sample draws its randomness from it.
        seed: the run's seed, the other half of that randomness.
        label: class of the sample, -1 for none, `(batch,)`.
        partners: further inputs that belong to the same sample (a paired sentence, a hard
            negative), each a dict like `inputs` with its `mask` inside.
        sides: the same samples as other kinds of data (a clip and its caption), a batch each, by
            name; `inputs` is then empty.
        alike: a number that samples have in common which the data calls alike, `(batch,)`; None
            where each is like itself alone.
        lacks: of `index` and `ordinal`, what the samples came without; such a batch can be encoded
            but not trained on: all its samples would be the same one.
    """

    inputs: dict[str, Tensor]
    mask: Bool[Tensor, "batch length"]
    index: Int[Tensor, "batch"]
    ordinal: Int[Tensor, "batch"]
    seed: int = 0
    label: Int[Tensor, "batch"] | None = None
    partners: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    sides: "dict[str, Batch]" = field(default_factory=dict)
    alike: Int[Tensor, "batch"] | None = None
    lacks: tuple[str, ...] = ()

    @property
    def same(self) -> Int[Tensor, "batch"]:
        """Samples of equal numbers are no negatives of each other."""
        return self.index if self.alike is None else self.alike

    @classmethod
    def of(
        cls,
        samples: Sequence[Mapping[str, Any]],
        inputs: dict[str, Tensor],
        mask: Bool[Tensor, "batch length"],
        *,
        seed: int,
        partners: dict[str, dict[str, Tensor]],
    ) -> "Batch":
        """Tensors made of samples, with their own `index`, `ordinal`, `label` and `alike`."""
        as_tensor = lambda key, default: torch.tensor(  # noqa: E731
            [int(s.get(key, default)) for s in samples], dtype=torch.int64
        )
        return cls(
            inputs=inputs,
            mask=mask,
            index=as_tensor("index", -1),
            ordinal=as_tensor("ordinal", 0),
            seed=seed,
            label=as_tensor("label", -1),
            partners=partners,
            alike=as_tensor("alike", -1) if any("alike" in s for s in samples) else None,
            lacks=tuple(k for k in ("index", "ordinal") if not all(k in s for s in samples)),
        )

    def __len__(self) -> int:
        """Number of samples."""
        return self.index.shape[0]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        moved = {k: _to(v, device) for k, v in self.__dict__.items()}
        return replace(self, **moved)

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory (called by torch's DataLoader)."""
        pin = lambda v: (  # noqa: E731
            v.pin_memory()
            if isinstance(v, Tensor | Batch)
            else {k: pin(x) for k, x in v.items()}
            if isinstance(v, dict)
            else v
        )
        return replace(self, **{k: pin(v) for k, v in self.__dict__.items()})


@dataclass(frozen=True)
class ViewSpec:
    """Which view an objective asks the modality for.

    Two equal specs are one view: it is made once and encoded once, whoever asked for it.

    Args:
        name: a name in the modality's `views`, such as `"plain"` or `"token_cutoff"`; several
            joined by `+` are applied in that order (`"jitter+crop"`).
        draw: tells apart two random draws of the same view (SimCSE's two dropout views).
        args: keyword arguments of the view, as sorted pairs so that a spec can be compared; in a
            chain `"jitter.sigma"` names the argument of one part.
        encoder: `"online"`, or `"teacher"` for the moving average.
        partner: encode this partner of the sample, or this side of it, instead of the sample
            itself.

    Raises:
        ValueError: an argument for a part that is not in the chain.
    """

    name: str
    draw: int = 0
    args: tuple[tuple[str, Any], ...] = ()
    encoder: str = "online"
    partner: str | None = None
    # The stream of randomness that is this view's own; its arguments do not change the draw.
    stream: int = field(init=False)

    # The links of a chain, made once: torch.compile cannot follow how a stream is named.
    links: "tuple[ViewSpec, ...]" = field(init=False, repr=False, compare=False)
    # The same view of the sample itself, likewise; None where there is no partner.
    alone: "ViewSpec | None" = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "stream", stream_of(self.name, self.draw, self.partner))
        object.__setattr__(self, "links", self._links())
        alone = None if self.partner is None else replace(self, partner=None)
        object.__setattr__(self, "alone", alone)

    def parts(self) -> "list[ViewSpec]":
        """The links of the chain, each with its own arguments and its own stream."""
        return list(self.links) or [self]

    def _links(self) -> "tuple[ViewSpec, ...]":
        names = self.name.split("+")
        if len(names) == 1:
            return ()
        own: dict[str, dict[str, Any]] = {name: {} for name in names}
        for key, value in self.args:
            name, _, arg = key.partition(".")
            if name not in own or not arg:
                raise ValueError(
                    f"{key!r} is no argument of a part of the view {self.name!r}; write "
                    f"{names[0]}.{arg or key}."
                )
            own[name][arg] = value
        # The place in the chain keeps apart two parts of one name.
        return tuple(
            view(name, self.draw * 64 + i, encoder=self.encoder, partner=self.partner, **own[name])
            for i, name in enumerate(names)
        )


def view(
    name: str, draw: int = 0, *, encoder: str = "online", partner: str | None = None, **args: Any
) -> ViewSpec:
    """Shorthand: `view("token_cutoff", 1, ratio=0.1)`."""
    return ViewSpec(name, draw, tuple(sorted(args.items())), encoder, partner)


@dataclass
class View:
    """What the encoder is to see.

    Attributes:
        inputs: tensors by the name the model's forward gives them, each `(batch, ...)`.
        mask: True where the encoder may attend, `(batch, length)`.
        is_target: True where the objective compares, `(batch, places, ...)`; None where it does
            not. The places are the encoder's tokens, or the steps of a future it does not see.
        target: what it compares with there, `(batch, places, ...)`.
        weight: how much each target counts, where not all count alike, `(batch, 1, channels)`.
        keep_positions: False where the embedding layer's output is zeroed, `(batch, length)`.
        keep_features: False for the embedding columns zeroed, `(batch, width)`.
        places: where each token lies in the sample, its middle and its extent along each axis, in
            shares of the sample, `(batch, places, axes, 2)`. The axes are time for a sequence,
            rows and columns for pictures, and all three for a clip; None where it is not known.
        attend: True where a place (first) may see another, `(batch, length, length)`; None where
            each sees all that `mask` shows.
        label: a class that the view gave the sample, `(batch, 1)`, beside targets of its places.
        side: the encoder that sees it, by name, where there is one for each kind of data.
    """

    inputs: dict[str, Tensor]
    mask: Bool[Tensor, "batch length"]
    is_target: Bool[Tensor, "batch places *rest"] | None = None
    target: Tensor | None = None
    weight: Float[Tensor, "batch 1 channels"] | None = None
    keep_positions: Bool[Tensor, "batch length"] | None = None
    keep_features: Bool[Tensor, "batch width"] | None = None
    places: Float[Tensor, "batch places axes two"] | None = None
    attend: Bool[Tensor, "batch length length"] | None = None
    label: Int[Tensor, "batch 1"] | None = None
    side: str | None = None


@dataclass
class Encoding:
    """What an encoder gives back for one view.

    Attributes:
        pooled: one vector a sample, `(batch, width)`.
        tokens: one vector a position, `(batch, length, width)`.
        mask: True where a token is real, `(batch, length)`.
        layers: hidden states by layer, embedding layer first, `(batch, length, layer_width)`; None
            unless asked for.
        table: the encoder's own token vectors, for a head tied to them, `(vocabulary, width)`.
        likelihood: ln p of what the encoder sees, in nats, `(batch,)`, where it gives that.
    """

    pooled: Float[Tensor, "batch width"]
    tokens: Float[Tensor, "batch length width"]
    mask: Bool[Tensor, "batch length"]
    layers: tuple[Float[Tensor, "batch length layer_width"], ...] | None = None
    table: Float[Tensor, "vocabulary width"] | None = None
    likelihood: Float[Tensor, "batch"] | None = None


class Encoder(Protocol):
    """What the layers above ask of a modality's adapter (an `nn.Module`).

    Attributes:
        width: of pooled and token vectors.
        gives: what an objective may need, such as `tokens`, `table`, `values`, `causal`.
        views: names of the views it makes.
        usual: those that two views of a sample are usually made by, joined by `+`.
        local: the view that usually shows a small part of a sample, of smaller inputs where the
            model takes them; None where there is none.
        layer_width: of the hidden states, where it gives `layers`.
        turned: views that can be told apart and keep a sample's class, the first one plain; where
            it gives `turned`.
        table_size: rows and columns of the token table, where it gives `table`.
        token_values: numbers that one token stands for, where it gives `values`.
        channels: numbers of one step, likewise.
        length: tokens of a whole view, where every view has as many (`length`).
        level_bits: bits a value that a density in units of its views lacks to one of the data's own
            levels, once `dequantize` made those continuous; of data that has levels.
        grid: how the tokens of a whole view lie, time first: `(length,)` of a sequence,
            `(times, rows, columns)` of a clip; `tokens` count through it in that order.
    """

    width: int
    layer_width: int
    gives: frozenset[str]
    views: frozenset[str]
    usual: str
    local: ViewSpec | None
    turned: tuple[ViewSpec, ...]
    table_size: tuple[int, int]
    token_values: int
    channels: int
    length: int
    level_bits: float
    grid: tuple[int, ...]

    @property
    def model(self) -> Any:
        """The transformers model inside; with an `inverse` where it gives `likelihood`."""
        ...

    def view(self, batch: Batch, spec: ViewSpec) -> View:
        """Make the view of `batch` that `spec` names."""
        ...

    def target_values(self, link: ViewSpec) -> int:
        """Numbers of a token's target; asked of who has a view that makes features."""
        ...

    def token_head(self) -> Any:
        """A pretrained head over the token table, or None; asked of who gives `table`."""
        ...

    @property
    def frame(self) -> tuple[int, int, int]:
        """Tokens that begin and end a sample, and padding; asked of who gives `token_ids`."""
        ...

    def of_values(self, values: Shaped[Tensor, "batch length *values"]) -> View:
        """The view of whole samples; asked of who gives `values`, or `token_ids` that they are."""
        ...

    def restored(self, values: Shaped[Tensor, "batch length *values"]) -> np.ndarray:
        """The samples themselves, in the data's own units where those are known; likewise."""
        ...

    def __call__(self, view: View, *, want: frozenset[str] = frozenset()) -> Encoding:
        """Encode one view, with the extras named in `want`."""
        ...


def lengthen(x: Tensor, length: int) -> Tensor:
    """Pad dimension 1 to `length` with zeros (False), which lie outside every mask."""
    missing = length - x.shape[1]
    return x if missing <= 0 else F.pad(x, (0, 0) * (x.dim() - 2) + (0, missing))


def cat_views(views: Sequence[View]) -> View:
    """Views of one side and of any lengths as one, so that its encoder is called once for all."""
    length = max(v.mask.shape[1] for v in views)

    def join(fields: list[Tensor | None], fill: int, least: int = 0) -> Tensor | None:
        given = [f for f in fields if f is not None]
        if not given:
            return None
        longest = max(least, *(f.shape[1] for f in given))
        even = [f if f is None else lengthen(f, longest) for f in fields]
        like = next(f for f in even if f is not None)
        whole = [
            like.new_full((len(v.mask), *like.shape[1:]), fill) if f is None else f
            for v, f in zip(views, even, strict=True)
        ]
        return torch.cat(whole)

    def whole(v: View, key: str) -> Tensor:
        # What has another second dimension (static covariates) does not run along the positions.
        x = v.inputs[key]
        return lengthen(x, length) if x.shape[1] == v.mask.shape[1] else x

    # A view that lacks a field keeps every position and feature, and compares nothing.
    return View(
        inputs={k: torch.cat([whole(v, k) for v in views]) for k in views[0].inputs},
        mask=torch.cat([lengthen(v.mask, length) for v in views]),
        is_target=join([v.is_target for v in views], 0),
        target=join([v.target for v in views], 0),
        weight=join([v.weight for v in views], 1),
        keep_positions=join([v.keep_positions for v in views], 1, length),
        keep_features=join([v.keep_features for v in views], 1),
        places=join([v.places for v in views], 0),
        attend=_cat_attend(views, length),
        label=join([v.label for v in views], -1),
        side=views[0].side,
    )


def _cat_attend(views: Sequence[View], length: int) -> Bool[Tensor, "batch length length"] | None:
    if all(v.attend is None for v in views):
        return None
    square = [
        v.mask[:, None, :].expand(-1, v.mask.shape[1], -1) if v.attend is None else v.attend
        for v in views
    ]
    return torch.cat([F.pad(a, (0, length - a.shape[2], 0, length - a.shape[1])) for a in square])


def over_time(
    tokens: Float[Tensor, "batch length width"],
    mask: Bool[Tensor, "batch length"],
    grid: Sequence[int],
) -> tuple[Float[Tensor, "batch times width"], Bool[Tensor, "batch times"]]:
    """One vector for each time: the mean over the real tokens of that time.

    Args:
        tokens: of a view that has whole times of the grid, and any number of them.
        mask: True at real tokens.
        grid: of the encoder, time first; a sequence has one token a time and comes back as it is.
    """
    places = math.prod(grid[1:])
    if places == 1:
        return tokens, mask
    real = mask.unflatten(1, (-1, places))
    kept = tokens.unflatten(1, (-1, places)) * real[..., None]
    return kept.sum(2) / real.sum(2).clamp(min=1)[..., None], real.any(2)


def cat_batches(batches: Sequence[Batch]) -> Batch:
    """Micro-batches as the one batch that they are parts of."""
    if len(batches) == 1:
        return batches[0]
    first = batches[0]
    length = max(b.mask.shape[1] for b in batches)
    labels = [b.label for b in batches if b.label is not None]
    alike = [b.alike for b in batches if b.alike is not None]
    return Batch(
        inputs={
            k: torch.cat([lengthen(b.inputs[k], length) for b in batches]) for k in first.inputs
        },
        mask=torch.cat([lengthen(b.mask, length) for b in batches]),
        index=torch.cat([b.index for b in batches]),
        ordinal=torch.cat([b.ordinal for b in batches]),
        seed=first.seed,
        label=torch.cat(labels) if labels else None,
        sides={k: cat_batches([b.sides[k] for b in batches]) for k in first.sides},
        alike=torch.cat(alike) if alike else None,
    )


def split_encoding(encoding: Encoding, rows: Sequence[int]) -> list[Encoding]:
    """Undo `cat_views` on what the encoder gave back."""
    layers = [layer.split(list(rows)) for layer in encoding.layers or ()]
    nats = encoding.likelihood
    likelihoods = [None] * len(rows) if nats is None else nats.split(list(rows))
    return [
        Encoding(
            pooled,
            tokens,
            mask,
            tuple(layer[i] for layer in layers) or None,
            encoding.table,
            likelihoods[i],
        )
        for i, (pooled, tokens, mask) in enumerate(
            zip(
                encoding.pooled.split(list(rows)),
                encoding.tokens.split(list(rows)),
                encoding.mask.split(list(rows)),
                strict=True,
            )
        )
    ]


def cat_encodings(encodings: Sequence[Encoding]) -> Encoding:
    """Encodings of micro-batches as one."""
    length = max(e.mask.shape[1] for e in encodings)
    layers = zip(*(e.layers or () for e in encodings), strict=True)
    nats = [e.likelihood for e in encodings if e.likelihood is not None]
    return Encoding(
        pooled=torch.cat([e.pooled for e in encodings]),
        tokens=torch.cat([lengthen(e.tokens, length) for e in encodings]),
        mask=torch.cat([lengthen(e.mask, length) for e in encodings]),
        layers=tuple(torch.cat([lengthen(x, length) for x in layer]) for layer in layers) or None,
        table=encodings[0].table,
        likelihood=torch.cat(nats) if nats else None,
    )


def stream_of(*names: object) -> int:
    """A number for a named stream of randomness, the same on every machine and in every run."""
    return zlib.crc32("/".join(map(str, names)).encode())


def _mix(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    # The finaliser of splitmix64 (Steele et al. 2014). int64 wraps on overflow; a right shift of
    # a negative number is arithmetic in torch, so the sign bits are cleared.
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def uniform(
    seed: int, ordinal: Int[Tensor, "batch"], stream: int, count: int
) -> Float[Tensor, "batch count"]:
    """Random numbers in [0, 1) that depend on (seed, ordinal, stream, column) and nothing else.

    A counter-based generator: the same sample gets the same draw whatever batch, worker, rank or
    device it meets, so that resuming a run needs only its place in the data.

    Args:
        seed: of the run.
        ordinal: the samples' places in the run.
        stream: which use of randomness this is, see `stream_of`.
        count: how many numbers a sample gets.
    """
    columns = torch.arange(count, device=ordinal.device, dtype=torch.int64)
    golden = -7046029254386353131  # 2**64 / golden ratio, as int64
    # Filled on the device: a number copied there would make the host wait for it.
    key = torch.full((), seed * 1_000_003 + stream, dtype=torch.int64, device=ordinal.device)
    start = _mix(key * golden)
    row = _mix(start + ordinal.to(torch.int64) * golden)
    bits = _mix(row[:, None] + (columns[None, :] + 1) * golden)
    return ((bits >> 40) & 0xFFFFFF).to(torch.float32) / float(1 << 24)


def normal(
    seed: int, ordinal: Int[Tensor, "batch"], stream: int, count: int
) -> Float[Tensor, "batch count"]:
    """Numbers of the standard normal distribution, likewise."""
    # The draws are multiples of 2**-24; the smallest is 0, which would be minus infinity.
    return torch.special.ndtri(uniform(seed, ordinal, stream, count).clamp(min=2.0**-25))
