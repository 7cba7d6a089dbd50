"""Kinds of data: how a batch of it becomes views and how its encoder is called."""

from unlabel.modalities.audio import AudioEncoder
from unlabel.modalities.series import SeriesEncoder
from unlabel.modalities.text import TextEncoder

# Each kind of data by name, with the adapter whose `gives` says what objectives may ask of it.
MODALITIES = {"text": TextEncoder, "series": SeriesEncoder, "audio": AudioEncoder}

__all__ = ["MODALITIES", "AudioEncoder", "SeriesEncoder", "TextEncoder"]
