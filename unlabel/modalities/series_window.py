"""The window of a series that view functions pass along, and how it becomes a view.

A window is in steps and in raw units. Every window has `history` steps, whatever the sample's own
length (shorter samples are padded at the left), so that a sample's draws and transforms are the
same in every batch. `finish` normalises it by what the encoder may see and cuts it into tokens.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unlabel.core import View
from unlabel.modalities.visible import visible_only

NORMS = ("standard", "last", "none")
# A window whose std is under this share of its root mean square is constant but for rounding.
_CONSTANT = 1e-5


@dataclass
class Window:
    """Steps of a batch on their way through a chain of views.

    Attributes:
        values: in raw units, 0 where missing, `(batch, steps, channels)`.
        observed: True where a value was measured, likewise.
        mask: True at steps that exist, `(batch, steps)`.
        is_hidden: True where the encoder is not shown the value.
        is_asked: True where it is hidden and to be predicted.
        asks: a link of the chain asks for hidden values.
        keeps: tokens that a view without hidden tokens has; None leaves them in.
        history: steps that the encoder may see; later ones are there until a link splits them off.
        future: what follows the history, `(batch, horizon, channels)`, after a link split it off.
        future_observed: likewise.
        keep_steps: False at steps zeroed after the input projection, `(batch, steps)`.
        keep_features: False for embedding columns zeroed, `(batch, width)`.
        clean: values of the history that are asked for as they were, whatever later links showed
            of them, and True where there are any, `(batch, history, channels)` each.
        target: one that is no value: a class or places of tokens, `(batch, places)`.
        is_target: True where that one counts; None for everywhere.
        weigh: the future's steps count `scale**weigh` times.
        covariates: known beside every step, `(batch, steps, kinds)`.
        static: known of the series, `(batch, kinds)`.
        places: where each step lies in the history as it came, from 0 to 1, `(batch, steps)`.
        loc: what `finish` subtracted, `(batch, 1, channels)`.
        scale: what `finish` then divided by.
    """

    values: Float[Tensor, "batch steps channels"]
    observed: Bool[Tensor, "batch steps channels"]
    mask: Bool[Tensor, "batch steps"]
    is_hidden: Bool[Tensor, "batch steps channels"]
    is_asked: Bool[Tensor, "batch steps channels"]
    history: int
    asks: bool = False
    keeps: int | None = None
    future: Float[Tensor, "batch horizon channels"] | None = None
    future_observed: Bool[Tensor, "batch horizon channels"] | None = None
    keep_steps: Bool[Tensor, "batch steps"] | None = None
    keep_features: Bool[Tensor, "batch width"] | None = None
    clean: tuple[Tensor, Tensor] | None = None
    target: Tensor | None = None
    is_target: Tensor | None = None
    weigh: int = 0
    covariates: Float[Tensor, "batch steps kinds"] | None = None
    static: Float[Tensor, "batch kinds"] | None = None
    places: Float[Tensor, "batch steps"] | None = None
    loc: Float[Tensor, "batch 1 channels"] | None = None
    scale: Float[Tensor, "batch 1 channels"] | None = None

    @classmethod
    def of(
        cls, inputs: dict[str, Tensor], mask: Tensor, *, context: int, history: int, horizon: int
    ) -> "Window":
        """The first `context + horizon` steps of each sample, brought to `history + horizon`.

        Shorter samples are padded at the left; where `history` is less than `context` (whole
        tokens only) the oldest steps go.
        """
        fit = lambda x: _fit(x, mask, context + horizon)[:, context - history :]  # noqa: E731
        observed = fit(inputs["observed"]) & fit(mask)[:, :, None]
        nothing = torch.zeros_like(observed)
        covariates = inputs.get("covariates")
        steps = torch.arange(history + horizon, device=mask.device)
        return cls(
            # A missing value may be NaN, which no product with 0 would take away.
            values=torch.where(observed, fit(inputs["values"]), 0),
            observed=observed,
            mask=fit(mask),
            is_hidden=nothing,
            is_asked=nothing,
            history=history,
            covariates=None if covariates is None else fit(covariates),
            static=inputs.get("static"),
            places=((steps + 0.5) / history).expand(len(mask), -1),
        )

    @property
    def visible(self) -> Bool[Tensor, "batch steps channels"]:
        """True where the encoder sees a measured value (or would, if it is not in the future)."""
        return self.observed & ~self.is_hidden

    @property
    def known(self) -> Bool[Tensor, "batch steps channels"]:
        """True where statistics may look: visible, and no later than the history."""
        steps = torch.arange(self.values.shape[1], device=self.values.device)
        return self.visible & (steps < self.history)[None, :, None]

    def change(self, values: Tensor) -> "Window":
        """New values where the encoder sees one; what is hidden and asked stays as it was."""
        return replace(self, values=torch.where(self.visible, values, self.values))

    def take(self, index: Int[Tensor, "batch steps"], *, clock: bool = True) -> "Window":
        """Whole steps in another order: `out[t] = in[index[t]]`, all channels together.

        Args:
            index: where each step comes from.
            clock: take the covariates along.
        """

        def pick(x: Tensor | None) -> Tensor | None:
            if x is None:
                return x
            return x.gather(1, index.reshape(*index.shape, *(1,) * (x.dim() - 2)).expand_as(x))

        names = ["values", "observed", "mask", "is_hidden", "is_asked", "keep_steps", "places"]
        names += ["covariates"] if clock else []
        return replace(self, **{n: pick(getattr(self, n)) for n in names})

    def split(self) -> "Window":
        """History and future as two."""
        now = self.history
        names = ["values", "observed", "mask", "is_hidden", "is_asked", "keep_steps", "places"]
        names += ["covariates"]
        first = {n: None if (x := getattr(self, n)) is None else x[:, :now] for n in names}
        return replace(
            self, **first, future=self.values[:, now:], future_observed=self.observed[:, now:]
        )


def _fit(x: Tensor, mask: Bool[Tensor, "batch steps"], steps: int) -> Tensor:
    """The first `steps` steps that exist, with zeros (False) before them where there are fewer."""
    spare = x.shape[1] - steps
    if spare <= 0:
        return F.pad(x, (0, 0) * (x.dim() - 2) + (-spare, 0))
    # A longer sample of the batch moved the others to the right.
    first = mask.long().argmax(1, keepdim=True).clamp(max=spare)
    return x.take_along_dim(
        (first + torch.arange(steps, device=x.device)).reshape(-1, steps, *(1,) * (x.dim() - 2)), 1
    )


def mean_and_std(
    values: Float[Tensor, "batch steps channels"], known: Bool[Tensor, "batch steps channels"]
) -> tuple[Float[Tensor, "batch 1 channels"], Float[Tensor, "batch 1 channels"]]:
    """Mean and a scale that is safe to divide by, over the known values of each channel.

    The scale is the standard deviation. A channel that does not vary (but for rounding) is scaled
    by its root mean square, and one of zeros by 1.
    """
    count = known.sum(1, keepdim=True).clamp(min=1)
    mean = torch.where(known, values, 0).sum(1, keepdim=True) / count
    apart = torch.where(known, values - mean, 0)
    power = apart.square().sum(1, keepdim=True) / count
    level = torch.where(known, values, 0).square().sum(1, keepdim=True) / count
    power = torch.where(power > _CONSTANT**2 * level, power, level)
    # The inner `where` keeps the root's gradient finite at 0.
    return mean, torch.where(power > 0, torch.where(power > 0, power, 1).sqrt(), 1)


def statistics(window: Window, norm: str) -> tuple[Tensor, Tensor]:
    """What to subtract from the values and what to divide by, `(batch, 1, channels)` each.

    They come from visible values of the history alone. A channel of which nothing is visible
    (hidden as a whole) has its own: they reach its target, and no input.
    """
    if norm == "none":
        zero = torch.zeros_like(window.values[:, :1])
        return zero, zero + 1
    visible = window.visible[:, : window.history]
    known = torch.where(visible.any(1, keepdim=True), visible, window.observed)
    loc, scale = mean_and_std(window.values, known)
    if norm == "last":
        steps = torch.arange(1, known.shape[1] + 1, device=known.device)
        newest = (known * steps[:, None]).argmax(1, keepdim=True)
        loc = torch.where(known.any(1, keepdim=True), window.values.gather(1, newest), 0)
    return loc, scale


def finish(window: Window, *, norm: str, patch: int) -> View:
    """Normalise a window and cut it into tokens; leaves `loc` and `scale` in the window.

    Where they are there already, it takes them.

    Args:
        window: with as many steps as its history.
        norm: `standard` (mean and std), `last` (newest value and std) or `none`.
        patch: steps a token.
    """
    if window.loc is None or window.scale is None:
        window.loc, window.scale = statistics(window, norm)
    loc, scale = window.loc, window.scale
    visible = window.visible
    scaled = (window.values - loc) / scale
    tokens = lambda x: rearrange(x, "b (l p) c -> b l p c", p=patch)  # noqa: E731
    inputs = {"values": tokens(torch.where(visible, scaled, 0)), "observed": tokens(visible)}
    rows, count = inputs["values"].shape[:2]
    places = torch.arange(count, device=scaled.device)
    inputs["positions"] = repeat(places, "l -> b l", b=rows)
    if window.covariates is not None:
        inputs["covariates"] = tokens(window.covariates)
    if window.static is not None:
        inputs["static"] = window.static
    is_target, target = _target(window, scaled, patch)
    keep = window.keep_steps
    view = View(
        inputs=inputs,
        mask=rearrange(window.mask, "b (l p) -> b l p", p=patch).any(2),
        is_target=is_target,
        target=target,
        weight=scale**window.weigh if window.weigh else None,
        keep_positions=None
        if keep is None
        else rearrange(keep, "b (l p) -> b l p", p=patch).all(2),
        keep_features=window.keep_features,
        places=_places(window, patch),
    )
    if window.keeps is None:
        return view
    is_hidden = rearrange(window.is_hidden, "b (l p) c -> b l (p c)", p=patch).any(2)
    return visible_only(view, view.mask & ~is_hidden, window.keeps, pad="left", apart="static")


def _places(window: Window, patch: int) -> Float[Tensor, "batch length 1 2"] | None:
    """Middle and extent of each token in the history, see `View.places`."""
    if window.places is None:
        return None
    steps = rearrange(window.places, "b (l p) -> b l 1 p", p=patch)
    first, last = steps.amin(3), steps.amax(3)
    return torch.stack([(first + last) / 2, last - first + 1 / window.history], 3)


def _target(window: Window, scaled: Tensor, patch: int) -> tuple[Tensor | None, Tensor | None]:
    if window.target is not None:
        everywhere = torch.ones_like(window.target, dtype=torch.bool)
        return everywhere if window.is_target is None else window.is_target, window.target
    if window.future is not None and window.future_observed is not None:
        assert window.loc is not None and window.scale is not None  # by `finish`
        # Without any history there is no unit to measure the future in.
        is_target = window.future_observed & window.observed.any(1, keepdim=True)
        return is_target, torch.where(is_target, (window.future - window.loc) / window.scale, 0)
    flat = lambda x: rearrange(x, "b (l p) c -> b l (p c)", p=patch)  # noqa: E731
    if window.clean is not None:
        assert window.loc is not None and window.scale is not None  # by `finish`
        values, is_target = window.clean
        scaled = (values - window.loc) / window.scale
        return flat(is_target), flat(torch.where(is_target, scaled, 0))
    if window.asks:
        is_target = window.is_asked & window.observed
        return flat(is_target), flat(torch.where(is_target, scaled, 0))
    return None, None


__all__ = [
    "NORMS",
    "Window",
    "finish",
    "mean_and_std",
    "statistics",
]
