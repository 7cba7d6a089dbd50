"""Kinds of data: how a batch of it becomes views and how its encoder is called."""

from unlabel.modalities.text import TextEncoder

# Each kind of data by name, with the adapter whose `gives` says what objectives may ask of it.
MODALITIES = {"text": TextEncoder}

__all__ = ["MODALITIES", "TextEncoder"]
