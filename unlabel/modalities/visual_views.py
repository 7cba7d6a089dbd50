"""Views of frames and clips, made on the device for a whole batch at once.

A view function takes and gives a `Clip`. Every random choice comes from `uniform(seed, ordinal,
stream)`, so it belongs to the sample and not to the batch, worker or rank that the sample met, and
is one for all frames of a clip.
"""

from unlabel.modalities.dequantize import spread_clip
from unlabel.modalities.visual_background import background
from unlabel.modalities.visual_colors import channel_cutoff, colors, gray, jitter, lab, solarize
from unlabel.modalities.visual_features import hog_target
from unlabel.modalities.visual_geometry import blur, crop, flip, plain, rotate
from unlabel.modalities.visual_masks import feature_cutoff, mask_values, span_cutoff, token_cutoff
from unlabel.modalities.visual_motion import flow, motion, triple
from unlabel.modalities.visual_order import frames, reorder, reverse, speed
from unlabel.modalities.visual_pieces import montage, piece, standardize, tiles
from unlabel.modalities.visual_pixels import pixels_target
from unlabel.modalities.whole import whole_clip

VIEWS = {
    "plain": plain,
    "crop": crop,
    "flip": flip,
    "rotate": rotate,
    "blur": blur,
    "background": background,
    "jitter": jitter,
    "gray": gray,
    "solarize": solarize,
    "lab": lab,
    "colors": colors,
    "channel_cutoff": channel_cutoff,
    "mask_values": mask_values,
    "hog": hog_target,
    "token_cutoff": token_cutoff,
    "span_cutoff": span_cutoff,
    "feature_cutoff": feature_cutoff,
    "reverse": reverse,
    "reorder": reorder,
    "frames": frames,
    "speed": speed,
    "triple": triple,
    "motion": motion,
    "flow": flow,
    "whole": whole_clip,
    "dequantize": spread_clip,
    "piece": piece,
    "tiles": tiles,
    "montage": montage,
    "standardize": standardize,
    "pixels": pixels_target,
}
# Links that choose from the frames as stored; before any other the clip gets the encoder's size.
RAW = frozenset({"background", "crop", "flow", "frames", "piece", "speed", "tiles", "triple"})
# Links that need several frames.
TIMED = frozenset({"reverse", "reorder", "speed", "triple", "span_cutoff"})
# Links that move pixels from cell to cell, which cannot be after some are hidden.
MOVES = frozenset({"crop", "flip", "rotate", "blur", "flow", "frames", "piece", "tiles", "montage"})
MOVES |= TIMED - {"span_cutoff"}

__all__ = ["MOVES", "RAW", "TIMED", "VIEWS"]
