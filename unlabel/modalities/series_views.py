"""Views of series, made on the device for a whole batch at once.

A view function takes and gives a `Window`. Every random choice comes from `uniform(seed, ordinal,
stream)`, so it belongs to the sample and not to the batch, worker or rank that the sample met.
Links before `future` or `past` act on history and future together, so that what is predicted
belongs to what is seen; links after it act on the history alone.
"""

from unlabel.modalities.dequantize import spread_window
from unlabel.modalities.series_augment import (
    frequency_mask,
    frequency_mix,
    jitter,
    random_conv,
    scaling,
)
from unlabel.modalities.series_cuts import (
    channel_cutoff,
    crop,
    feature_cutoff,
    overlap,
    span_cutoff,
    token_cutoff,
)
from unlabel.modalities.series_masks import future, hide, mask_values, plain
from unlabel.modalities.series_order import reorder, reverse, shuffle, triple
from unlabel.modalities.series_sides import derivative, spectrum
from unlabel.modalities.series_window import Window, finish
from unlabel.modalities.whole import whole_window

VIEWS = {
    "plain": plain,
    "mask_values": mask_values,
    "hide": hide,
    "future": future,
    "past": future,
    "shuffle": shuffle,
    "reorder": reorder,
    "reverse": reverse,
    "random_conv": random_conv,
    "jitter": jitter,
    "scaling": scaling,
    "frequency_mask": frequency_mask,
    "frequency_mix": frequency_mix,
    "derivative": derivative,
    "spectrum": spectrum,
    "token_cutoff": token_cutoff,
    "span_cutoff": span_cutoff,
    "channel_cutoff": channel_cutoff,
    "feature_cutoff": feature_cutoff,
    "crop": crop,
    "overlap": overlap,
    "triple": triple,
    "whole": whole_window,
    "dequantize": spread_window,
}
# Links that cut the window into history and future; `past` turns it round first.
SPLITS = ("future", "past")

__all__ = ["SPLITS", "VIEWS", "Window", "finish"]
