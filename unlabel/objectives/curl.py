"""CURL: a query finds its moving-average key among the batch's by a bilinear product."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View
from unlabel.objectives.chains import chain
from unlabel.objectives.contrastive import in_batch
from unlabel.objectives.moments import exact
from unlabel.objectives.objective import Objective, Term
from unlabel.objectives.state import Teacher


class CURL(Objective):
    """CURL: a crop finds another crop of its sample among the batch's, by a bilinear product.

    `-ln exp(q_i W k_i) / sum_j exp(q_i W k_j)`, mean over i; the keys of all ranks are made by a
    moving average of encoder and projector, W is learned and starts evenly from 0 to 1, nothing has
    length 1. W = 0 gives ln N. A stack of frames is a clip, whose frames have one crop. To help an
    agent, both losses reach one encoder, see `examples/curl.py`.

    Args:
        momentum: of the moving average, kept as it is.
        width: of the projection, a linear layer and layer norm.
        augment: views that are drawn twice, joined by `+`.
        args: their arguments; the paper's crops of pictures, 84 of 100 pixels, are
            `{"crop.low": 0.7056, "crop.high": 0.7056, "crop.aspect": 1.0}`.

    Raises:
        ValueError: an argument of a view that is not there.

    Reference: Srinivas et al. 2020, arXiv 2004.04136, section 4 and algorithm 1; authors' code
    `curl_sac.py`.
    """

    paper = "CURL (Srinivas et al. 2020, arXiv 2004.04136)"
    needs_others = True

    def __init__(
        self,
        *,
        momentum: float = 0.95,
        width: int = 50,
        augment: str = "crop",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        query, key = (chain(augment, draw=draw, args=args) for draw in (0, 1))
        self.views = (query, replace(key, encoder="teacher"))
        self.teacher_momentum, self.width = momentum, width

    def build(self, encoder: Encoder) -> None:
        """Make the projector, its moving average, and W."""
        self.projector = nn.Sequential(
            nn.Linear(encoder.width, self.width), nn.LayerNorm(self.width)
        )
        self.key_projector = Teacher(self.projector, momentum=self.teacher_momentum or 0.0)
        self.bilinear = nn.Parameter(torch.rand(self.width, self.width))

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `contrast`."""
        query = self.compared(self.projector(encodings[0].pooled))
        keys = self.key_projector(encodings[1].pooled)
        plain: dict[str, Any] = {"temperature": 1.0, "normalize": False}
        loss, n = in_batch(query, keys, batch.same, **plain)
        return {"contrast": Term(loss, chance=log(n))}

    def compared(self, query: Tensor) -> Tensor:
        """`q W`, as exact as the loss."""
        with torch.autocast(query.device.type, enabled=False):
            return exact(query) @ exact(self.bilinear)


__all__ = ["CURL"]
