"""The smallest encoder of series that keeps the contract of views and encodings.

What is under test here are objectives: the views are as plain as can be, a few lines each, and
the encoder is one linear layer over patches with one mixing layer over tokens.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from unlabel.core import Batch, Encoding, View, ViewSpec, uniform
from unlabel.objectives import (
    CMC,
    CPC,
    DINO,
    IBOT,
    MAE,
    S4L,
    SLA,
    VAE,
    AdversarialAutoencoder,
    AlignUniform,
    Autoencoder,
    Backcast,
    BarlowTwins,
    BEiT,
    BiGAN,
    ContextEncoder,
    Debiased,
    Decoupled,
    DeepInfoMax,
    DeepMIM,
    Exemplar,
    FlatNCE,
    FlowPrior,
    Forecast,
    HardNegatives,
    HierarchicalContrast,
    InstanceContrast,
    InstDisc,
    InvariantSpread,
    LocalAggregation,
    MaskedHistory,
    MaskedValues,
    NextStep,
    PatchContrast,
    ReorderPrediction,
    SensorContrast,
    ShuffledHistory,
    SimMIM,
    Sum,
    SupCon,
    SwAV,
    TimeContrast,
    VICReg,
)

SWAV: dict[str, Any] = {"prototypes": 6, "width": 8, "hidden": 16, "crops": 2, "frozen": 0}
PROTOTYPES: dict[str, Any] = {**SWAV, "momentum": 0.9}
BANK: dict[str, Any] = {"width": 8, "temperature": 0.2}
SERIES = {
    "masked_values": lambda: MaskedValues(),
    "masked_steps": lambda: MaskedValues(unit="step", ratio=1 / 16, loss="l1", before="scaling"),
    "forecast": lambda: Forecast(horizon=8),
    "forecast_quantiles": lambda: Forecast(
        horizon=5, quantiles=(0.1, 0.5, 0.9), after="token_cutoff"
    ),
    "forecast_values": lambda: Forecast(horizon=8, values=True, after="token_cutoff"),
    "masked_history": lambda: MaskedHistory(horizon=8, ratio=0.3),
    "shuffled_history": lambda: ShuffledHistory(horizon=8, unit="segment"),
    "backcast": lambda: Backcast(horizon=8, loss="huber"),
    "masked_jittered": lambda: MaskedValues(unit="span", after="jitter", loss="huber"),
    "mae": lambda: MAE(ratio=0.5, hidden=16, layers=1, heads=2),
    "simmim_series": lambda: SimMIM(ratio=0.3),
    "beit_series": lambda: BEiT(codes=8, hidden=16),
    "deep_mim_series": lambda: DeepMIM(ratio=0.5, hidden=16, layers=1, heads=2),
    "cpc": lambda: CPC(steps=3),
    "cpc_gru": lambda: CPC(steps=2, context="gru", width=8, normalize=True, temperature=0.2),
    "time_contrast": lambda: TimeContrast(near=1, far=2, width=8),
    "sensor_contrast": lambda: SensorContrast(width=8),
    "cmc_bank": lambda: CMC(sides=({"name": "plain"}, "sensor"), bank=True, **BANK),
    "ts2vec": lambda: HierarchicalContrast(),
    "reorder": lambda: ReorderPrediction(segments=3),
    "simclr": lambda: InstanceContrast(width=8, augment="crop+jitter", args={"jitter.high": 0.3}),
    "simclr_v2": lambda: InstanceContrast(width=8, layers=3),
    "debiased": lambda: Debiased(width=8, tau_plus=0.05),
    "hard_negatives": lambda: HardNegatives(width=8, tau_plus=0.05, beta=0.5),
    "decoupled": lambda: Decoupled(width=8),
    "flat_nce": lambda: FlatNCE(width=8),
    "inva_spread": lambda: InvariantSpread(width=8),
    "instdisc": lambda: InstDisc(width=8, temperature=0.2),
    "instdisc_nce": lambda: InstDisc(loss="nce", noise=20, width=8, temperature=0.5),
    "local_aggregation": lambda: LocalAggregation(
        width=8, temperature=0.2, neighbours=20, clusters=6, every=0.1
    ),
    "deep_infomax": lambda: DeepInfoMax(width=8, prior_weight=0.0),
    "deep_infomax_dv": lambda: DeepInfoMax(bound="dv", width=8, prior_weight=0.0),
    "deep_infomax_nce": lambda: DeepInfoMax(bound="nce", width=8, prior_weight=0.2),
    "align_uniform": lambda: AlignUniform(width=8),
    "barlow": lambda: BarlowTwins(width=4),
    "vicreg": lambda: VICReg(width=8),
    "sum_uncertainty": lambda: Sum(
        {"near": InstanceContrast(width=8), "mask": MaskedValues()}, balance="uncertainty"
    ),
    "sum_gradient": lambda: Sum(
        {"near": InstanceContrast(width=8), "mask": MaskedValues()},
        {"near": [(0, 1.0), (4, 0.5)]},
        balance="gradient",
    ),
    # Later on its targets follow earlier projections, which 20 large steps leave far behind.
    "swav": lambda: SwAV(**SWAV, queue=20, queue_after=30),
    "dino": lambda: DINO(**PROTOTYPES, first_temperature=0.06, warm_steps=9, momentum_steps=50),
    "ibot": lambda: IBOT(**PROTOTYPES),
    "forecast_sum": lambda: Sum(
        {"ahead": Forecast(horizon=8), "back": Backcast(horizon=6), "mask": MaskedValues()}
    ),
    # Two players, and labels.
    "context_encoder": lambda: ContextEncoder(unit="span", hidden=8, heads=2, adversarial=0.1),
    "s4l": lambda: S4L(pretext=InstanceContrast(width=8), weight=0.5, classes=3),
    "s4l_reorder": lambda: S4L(pretext=ReorderPrediction(), classes=3),
    "sla": lambda: SLA(classes=3, temperature=2.0),
    "adversarial_autoencoder": lambda: AdversarialAutoencoder(width=16, hidden=64, weight=0.01),
    "bigan": lambda: BiGAN(width=4, hidden=8, heads=2),
    "patch_contrast": lambda: PatchContrast(places=5, width=8, temperature=0.3),
    # Generative.
    "autoencoder": lambda: Autoencoder(hidden=16),
    "denoising": lambda: Autoencoder(hidden=16, after="jitter", loss="huber"),
    "vae": lambda: VAE(width=8, hidden=64, beta=0.1),
    "vae_fixed": lambda: VAE(width=4, hidden=16, deviation=0.5, beta=0.1, before="scaling"),
    "next_step": lambda: NextStep(),
    "next_step_l1": lambda: NextStep(loss="l1"),
    "flow_prior": lambda: FlowPrior(width=6, hidden=32, steps=2, beta=0.1),
    "exemplar_triplet": lambda: Exemplar(copies=3, width=8),
    "supcon": lambda: SupCon(width=8, temperature=0.3),
    "exemplar_classes": lambda: Exemplar(copies=2, loss="classes"),
}


SAMPLES = 64  # of the data set that a batch here is from


@dataclass
class Window:
    values: Tensor
    observed: Tensor
    hidden: Tensor
    asked: Tensor
    future: Tensor | None = None
    future_observed: Tensor | None = None
    target: Tensor | None = None
    keep: Tensor | None = None
    drop: bool = False
    asks: bool = False
    clean: tuple[Tensor, Tensor] | None = None


class TinySeries(nn.Module):
    """Patches of P steps through a linear layer, then through one over the tokens so far, or all.

    Args:
        causal: a token sees itself and earlier ones only.
    """

    def __init__(
        self,
        *,
        channels: int = 2,
        patch: int = 2,
        context: int = 16,
        width: int = 16,
        causal: bool = True,
        dropout: float = 0.0,
        seed: int = 0,
    ):
        super().__init__()
        torch.manual_seed(seed)
        self.channels, self.patch, self.context, self.width = channels, patch, context, width
        self.token_values, self.length = patch * channels, context // patch
        self.layer_width, self.grid = width, (self.length,)
        self.gives = frozenset(
            "pooled tokens times layers values future sensor length visible_only turned".split()
        ) | ({"causal"} if causal else set())
        self.views = frozenset(LINKS)
        self.usual = "crop+jitter"
        self.local = ViewSpec("crop+jitter", args=(("crop.sigma", 0.5),))
        self.turned = (ViewSpec("plain"), ViewSpec("reverse"))
        self.causal = causal
        self.embed = nn.Linear(self.token_values, width)
        self.flags = nn.Linear(self.token_values, width, bias=False)
        self.place = nn.Parameter(torch.randn(self.length, width) / 4)
        self.mix, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def view(self, batch: Batch, spec: ViewSpec) -> View:
        """Run the links of the chain, normalise by what is seen, and cut into patches."""
        inputs = batch.inputs if spec.partner is None else batch.partners[spec.partner]
        values, observed = inputs["values"], inputs["observed"]
        none = torch.zeros_like(observed)
        window = Window(values, observed, none, none)
        for part in spec.parts():
            window = LINKS[part.name](window, batch, part, self, **dict(part.args))
        return self.finish(window)

    def finish(self, w: Window) -> View:
        """From steps to tokens."""
        if w.future is None:
            cut = {k: getattr(w, k)[:, : self.context] for k in ("values", "observed", "hidden")}
            w = replace(w, **cut, asked=w.asked[:, : self.context])
        seen = w.observed & ~w.hidden
        count = seen.sum(1, keepdim=True).clamp(min=1)
        loc = (w.values * seen).sum(1, keepdim=True) / count
        scale = (((w.values - loc) * seen).square().sum(1, keepdim=True) / count + 1e-5).sqrt()
        patched = lambda x: rearrange(x, "b (l p) c -> b l p c", p=self.patch)  # noqa: E731
        flat = lambda x: rearrange(patched(x), "b l p c -> b l (p c)")  # noqa: E731
        normal = (w.values - loc) / scale
        length = normal.shape[1] // self.patch
        positions = torch.arange(self.length - length, self.length).expand(len(normal), -1)
        view = View(
            {
                "values": patched(normal * seen),
                "observed": patched(seen),
                "positions": positions,
            },
            patched(torch.ones_like(seen)).any(3).any(2),
        )
        if w.keep is not None:
            view.keep_positions = rearrange(w.keep, "b (l p) -> b l p", p=self.patch).all(2)
        if w.asks or w.asked.any():
            view.target, view.is_target = flat(normal * w.observed), flat(w.asked & w.observed)
        if w.clean is not None:
            values, there = w.clean
            view.target, view.is_target = flat((values - loc) / scale * there), flat(there)
        if w.drop:
            gone = flat(w.hidden).any(2)
            kept = gone.int().argsort(dim=1, stable=True)[:, : int((~gone).sum(1).min())]
            rows = torch.arange(len(kept))[:, None]
            view.inputs = {k: v[rows, kept] for k, v in view.inputs.items()}
            view.mask = view.mask[rows, kept]
        if w.future is not None:
            view.target, view.is_target = (w.future - loc) / scale, w.future_observed
        if w.target is not None:
            view.target, view.is_target = w.target, torch.ones_like(w.target, dtype=torch.bool)
        return view

    def forward(self, view: View, *, want: frozenset[str] = frozenset()) -> Encoding:
        x, seen = view.inputs["values"], view.inputs["observed"]
        patched = "b l p c -> b l (p c)"
        weight = self.embed.weight
        embedded = self.embed(rearrange(x, patched).to(weight.dtype))
        embedded = embedded + self.flags(rearrange(~seen, patched).to(weight.dtype))
        if view.keep_positions is not None:
            embedded = embedded * view.keep_positions[:, :, None]
        # Places come after the cut: tokens that are cut would tie under a maximum over tokens.
        embedded = self.dropout(embedded) + self.place[view.inputs["positions"]]
        real = view.mask[:, :, None].to(weight.dtype)
        if self.causal:
            seen_so_far = (embedded * real).cumsum(1) / real.cumsum(1).clamp(min=1)
        else:
            seen_so_far = (embedded * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        tokens = self.out(torch.tanh(embedded + self.mix(seen_so_far)))
        pooled = (tokens * real).sum(1) / real.sum(1).clamp(min=1)
        layers = (embedded, tokens) if "layers" in want else None
        return Encoding(pooled, tokens, view.mask, layers)


def _draw(batch: Batch, spec: ViewSpec, count: int, use: int = 0) -> Tensor:
    return uniform(batch.seed, batch.ordinal, 8 * spec.stream + use, count)


def _plain(w: Window, batch, spec, encoder, **_: Any) -> Window:
    return w


def _whole(w: Window, batch, spec, encoder, **_: Any) -> Window:
    t = encoder.context
    return replace(w, clean=(w.values[:, :t], w.observed[:, :t]))


def _mask_values(w, batch, spec, encoder, unit="patch", ratio=0.4, mean_length=3.0, drop=False):
    t = encoder.context
    size = encoder.patch if unit in ("patch", "span") else 1
    chosen = _draw(batch, spec, t // size)
    count = max(1, round(ratio * (t // size))) if ratio else 0
    hidden = (chosen.argsort(1).argsort(1) < count).repeat_interleave(size, 1)[:, :, None]
    hidden = hidden.expand(-1, -1, w.values.shape[2])
    cut = {k: getattr(w, k)[:, :t] for k in ("values", "observed")}
    return replace(w, **cut, hidden=hidden, asked=hidden, drop=drop, asks=True)


def _future(w, batch, spec, encoder, horizon):
    t = encoder.context
    return replace(
        w,
        values=w.values[:, :t],
        observed=w.observed[:, :t],
        hidden=w.hidden[:, :t],
        asked=w.asked[:, :t],
        future=w.values[:, t : t + horizon],
        future_observed=w.observed[:, t : t + horizon],
    )


def _past(w, batch, spec, encoder, horizon):
    turned = {k: getattr(w, k).flip(1) for k in ("values", "observed", "hidden", "asked")}
    return _future(replace(w, **turned), batch, spec, encoder, horizon)


def _reverse(w, batch, spec, encoder):
    parts = ("values", "observed", "hidden", "asked")
    return replace(w, **{k: getattr(w, k)[:, : encoder.context].flip(1) for k in parts})


def _hide(w, batch, spec, encoder, ratio, mean_length):
    return replace(w, hidden=(_draw(batch, spec, w.values.shape[1]) < ratio)[:, :, None] | w.hidden)


def _shuffle(w, batch, spec, encoder, unit="window", **_: Any):
    order = _draw(batch, spec, w.values.shape[1]).argsort(1)[:, :, None].expand_as(w.values)
    return replace(w, values=w.values.gather(1, order), observed=w.observed.gather(1, order))


def _jitter(w, batch, spec, encoder, low=0.1, high=0.1):
    noise = _draw(batch, spec, w.values[0].numel()).view_as(w.values) - 0.5
    return replace(w, values=w.values + high * 3**0.5 * 2 * noise)


def _scaling(w, batch, spec, encoder, sigma=0.1):
    return replace(w, values=w.values * (1 + sigma * (_draw(batch, spec, 1)[:, :, None] - 0.5)))


def _token_cutoff(w, batch, spec, encoder, ratio=0.1):
    keep = _draw(batch, spec, w.values.shape[1] // encoder.patch) >= ratio
    return replace(w, keep=keep.repeat_interleave(encoder.patch, 1))


def _reorder(w, batch, spec, encoder, segments=3, ask=False):
    from itertools import permutations

    orders = torch.tensor(list(permutations(range(segments))))
    which = (_draw(batch, spec, 1) * len(orders)).long()
    size = encoder.context // segments
    place = orders[which[:, 0]].repeat_interleave(size, 1) * size + torch.arange(size).repeat(
        segments
    )
    rest = torch.arange(size * segments, encoder.context).expand(len(place), -1)
    order = torch.cat([place, rest], 1)[:, :, None].expand(-1, -1, w.values.shape[2])
    return replace(
        w,
        values=w.values.gather(1, order),
        observed=w.observed.gather(1, order),
        hidden=w.hidden[:, : encoder.context],
        asked=w.asked[:, : encoder.context],
        target=which if ask else None,
    )


def _overlap(w, batch, spec, encoder, side="left", ratio=0.5):
    # Both crops have three quarters of the window; they share the half in its middle.
    t, p = encoder.context, encoder.patch
    size, away = t * 3 // 4, t // 4
    start = 0 if side == "left" else away
    cut = {
        k: getattr(w, k)[:, start : start + size] for k in ("values", "observed", "hidden", "asked")
    }
    first = (away - start) // p
    places = torch.arange(first, first + (size - away) // p).expand(len(w.values), -1)
    return replace(w, **cut, target=places)


LINKS = {
    "plain": _plain,
    "whole": _whole,
    "mask_values": _mask_values,
    "future": _future,
    "past": _past,
    "reverse": _reverse,
    "hide": _hide,
    "shuffle": _shuffle,
    "jitter": _jitter,
    "scaling": _scaling,
    "crop": _scaling,  # some random change of the window
    "random_conv": _scaling,  # like it, a linear map of window and future alike
    "token_cutoff": _token_cutoff,
    "reorder": _reorder,
    "overlap": _overlap,
}


def make_series(encoder: TinySeries, rows: int = 8, first: int = 0, horizon: int = 8) -> Batch:
    """Waves of many phases with noise, a second channel beside the first, some values missing."""
    index = torch.arange(first, first + rows)
    t = torch.arange(encoder.context + horizon)
    phase = uniform(1, index, 1, encoder.channels)[:, None, :] * 6.3
    noise = uniform(1, index, 2, t.numel() * encoder.channels).view(rows, -1, encoder.channels)
    values = torch.sin(0.7 * t[None, :, None] + phase) + noise
    missing = uniform(1, index, 3, values[0].numel()).view_as(values) < 0.1
    one = {"values": values * ~missing, "observed": ~missing}
    other = {"values": values.flip(2) + 0.3, "observed": torch.ones_like(missing)}
    mask = torch.ones(rows, t.numel(), dtype=torch.bool)
    return Batch(
        inputs=one,
        mask=mask,
        index=index,
        ordinal=index,
        seed=3,
        label=torch.where(index % 4 == 3, -1, index % 3),
        partners={"sensor": {**other, "mask": mask}},
    )
