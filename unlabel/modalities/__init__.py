"""Kinds of data: how a batch of it becomes views and how its encoder is called."""

from unlabel.modalities.audio import AudioEncoder
from unlabel.modalities.series import SeriesEncoder
from unlabel.modalities.text import TextEncoder
from unlabel.modalities.visual import PictureEncoder, VisualEncoder

# Each kind of data by name, with the adapter whose `gives` says what objectives may ask of it.
MODALITIES = {
    "text": TextEncoder,
    "series": SeriesEncoder,
    "frames": PictureEncoder,
    "video": VisualEncoder,
    "audio": AudioEncoder,
}

__all__ = [
    "MODALITIES",
    "AudioEncoder",
    "PictureEncoder",
    "SeriesEncoder",
    "TextEncoder",
    "VisualEncoder",
]
