"""Views of series, made on the device for a whole batch at once.

A view function takes and gives a `Window`. Every random choice comes from `uniform(seed, ordinal,
stream)`, so it belongs to the sample and not to the batch, worker or rank that the sample met.
Links before `future` or `past` act on history and future together, so that what is predicted
belongs to what is seen; links after it act on the history alone.
"""

from unlabel.modalities.series_masks import (
    future,
    mask_values,
    plain,
)
from unlabel.modalities.series_window import Window, finish

VIEWS = {
    "plain": plain,
    "mask_values": mask_values,
    "future": future,
    "past": future,
}
# Links that cut the window into history and future; `past` turns it round first.
SPLITS = ("future", "past")

__all__ = ["SPLITS", "VIEWS", "Window", "finish"]
