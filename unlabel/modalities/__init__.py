"""Kinds of data: how a batch of it becomes views and how its encoder is called."""

from unlabel.modalities import audio, series, text, visual
from unlabel.modalities.audio import AudioEncoder
from unlabel.modalities.joint import TOWERS as MODALITIES
from unlabel.modalities.joint import JointEncoder
from unlabel.modalities.joint_model import JointModel
from unlabel.modalities.series import SeriesEncoder
from unlabel.modalities.text import TextEncoder
from unlabel.modalities.visual import PictureEncoder, VisualEncoder

# Those of single kinds of data, and the one of several at once.
ENCODERS = {**MODALITIES, "pairs": JointEncoder}
# The views of each kind of data by name; an encoder may leave some of them out.
VIEWS = {
    "text": text.VIEWS,
    "series": series.VIEWS,
    "frames": visual.VIEWS,
    "video": visual.VIEWS,
    "audio": audio.VIEWS,
}

__all__ = [
    "ENCODERS",
    "MODALITIES",
    "VIEWS",
    "AudioEncoder",
    "JointEncoder",
    "JointModel",
    "PictureEncoder",
    "SeriesEncoder",
    "TextEncoder",
    "VisualEncoder",
]
