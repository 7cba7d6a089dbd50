from typing import Any

import pytest
import torch

from unlabel.objectives.logsumexp import _ExpSums
from unlabel.objectives.tried import works


class _Wrong(_ExpSums):
    """Blocks whose sums by column are a little off."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Any:
        by_row, by_col, positive = _ExpSums.forward(ctx, *given)
        return by_row, 1.03 * by_col, positive


class _Broken:
    @staticmethod
    def apply(*given: Any) -> Any:
        raise RuntimeError("no such\ninstruction")


@pytest.mark.parametrize(
    ("sums", "why"),
    [(_Wrong, "off by 3.0e-02"), (_Broken, "RuntimeError: no such instruction"), (_ExpSums, "")],
)
def test_kernels_are_tried_once_and_used_only_if_they_work(caplog, sums, why) -> None:
    for _ in range(2):
        with torch.inference_mode():
            assert works(sums, torch.device("cpu")) == (not why)
    assert caplog.text.count("do not work on this device") == bool(why)
    assert why in caplog.text
