"""Small pictures as text, for the report."""

import base64
import io

import numpy as np
from jaxtyping import UInt8


def png(pixels: UInt8[np.ndarray, "rows columns *colors"]) -> str:
    """A picture, grey or RGB, as a PNG in base64."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


__all__ = ["png"]
