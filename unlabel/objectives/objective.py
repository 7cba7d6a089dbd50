"""Objective: views, heads, target and kernel; and the weighted sum, which is an objective too."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from jaxtyping import Shaped
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View, ViewSpec
from unlabel.objectives.chains import usual
from unlabel.objectives.state import Ramp, State


class Term(NamedTuple):
    """One named part of a loss.

    Attributes:
        loss: scalar.
        weight: its factor in the sum, a number or a tensor that may be learned.
        chance: the value of a model that knows nothing (ln N for N candidates), a number or a
            tensor; None if unknown.
    """

    loss: Tensor
    weight: float | Tensor = 1.0
    chance: float | Tensor | None = None


class Objective(nn.Module):
    """What a method is: the views it wants, the heads it trains, and its terms.

    A method sets `views` and `needs`, makes its heads in `build`, and computes its terms in
    `forward`. It never calls the encoder, gathers nothing but rows, and knows no modality.

    Attributes:
        views: the views it wants encoded, in the order `forward` gets them.
        needs: what it asks of an encoding (`pooled`, `tokens`, `layers`, `table`).
        teacher_momentum: set where a view wants the `teacher` encoder; a `Ramp` where it changes.
        needs_others: whether the other samples of the batch are all that it tells a sample from, so
            that it learns nothing of one by itself.
        settles: its argument that says in how many steps at the beginning a part of it settles.
        horizon: steps after the encoder's view that it wants of each sample, to predict them.
        samples: of the data set, where their number is known.
        classes: of its labels, where it has any.
        paper: reference.
        pictured: what `filled` gives, in words, where that is not the target itself.
        given: the arguments it was made with, as they came, so that a recipe can say them.
    """

    given: tuple[tuple[Any, ...], dict[str, Any]]
    views: tuple[ViewSpec, ...] = ()
    needs: frozenset[str] = frozenset({"pooled"})
    teacher_momentum: float | Ramp | None = None
    needs_others: bool = False
    settles: str = ""
    horizon: int = 0
    samples: int | None = None
    classes: int | None = None
    paper: str = ""
    pictured: str = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Note the arguments, whatever a method makes of them."""
        made = super().__new__(cls)
        made.__dict__["given"] = (args, kwargs)
        return made

    def meet(
        self,
        encoder: Encoder | type[Encoder],
        samples: int | None = None,
        classes: int | None = None,
    ) -> None:
        """Learn what it will train: the encoder's own views, how many samples and classes.

        A number of classes that it was given as an argument stays.
        """
        named = (usual(spec, encoder) for spec in self.views)
        self.views = tuple(spec for spec in named if spec is not None)
        self.samples, self.classes = samples, self.classes or classes

    def build(self, encoder: Encoder) -> None:
        """Make the heads, now that the encoder's sizes are known."""

    def rewrite(self, views: Sequence[View], batch: Batch) -> Sequence[View]:
        """The views as the encoder is to see them, changed by what the method has learned.

        It must be the same for a sample whenever it is called between two steps: random choices
        come from `uniform`. No gradient goes through it. Here nothing is changed.

        Args:
            views: one for each of `self.views`, as the kind of data made them; not to be changed
                in place.
            batch: the samples.
        """
        return views

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """The method's terms for one batch.

        Args:
            encodings: one for each of `self.views`, in that order.
            views: what the encoder saw, likewise.
            batch: index and label of the samples.
        """
        raise NotImplementedError

    def filled(self, encodings: Sequence[Encoding], views: Sequence[View]) -> list[View | None]:
        """For pictures: each view with what the heads predict in place of its target.

        None where they predict nothing that could be looked at.
        """
        return [None] * len(views)

    def drawn(
        self, encoder: Encoder, count: int, *, seed: int = 0, temperature: float = 1.0
    ) -> Shaped[Tensor, "count length *values"] | None:
        """New samples, in units of the view `whole` or as token ids; None where it draws nothing.

        Args:
            encoder: that it trained, in evaluation mode.
            count: how many; none depends on the others.
            seed: of the noise.
            temperature: factor of the noise (of tokens: what ln p is divided by); 0 gives the
                likeliest of each draw, again and again.
        """
        return None

    def surprise(self, encoding: Encoding, seen: View) -> Tensor | None:
        """For anomaly scores: how far each value of a view is from what the model expects.

        Args:
            encoding: of `seen`.
            seen: made by the view `whole`, which asks for everything.

        Returns:
            One number for each value, `(batch, length, values)`, or for each sample, `(batch,)`;
            None where the method expects nothing.
        """
        return None

    def figures(self) -> dict[str, float]:
        """For the log: what is known of the method's own state, by name."""
        return {}

    def step(self) -> None:
        """Move memories, clusters and teachers; called once after each optimizer step."""
        for part in self.modules():
            if isinstance(part, State):
                part.step()


def total(terms: Mapping[str, Term]) -> Tensor:
    """The loss: the weighted sum of the terms."""
    return sum((t.weight * t.loss for t in terms.values()), start=0.0)  # type: ignore[return-value]
