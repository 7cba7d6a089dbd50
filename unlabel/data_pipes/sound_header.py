"""What the header of an uncompressed recording promises, against the bytes that are there."""

import struct
from pathlib import Path

# By the first word: layout of a chunk's head, the second word, the chunk of sound, its own head.
_FORMS = {b"RIFF": ("<4sI", b"WAVE", b"data", 0), b"FORM": (">4sI", b"AIF", b"SSND", 8)}
_STREAM = 0x7FFFF000  # sizes from here on (or 0) are what a pipe writes, which cannot know them
_SLACK = 64  # bytes: some writers count the header as sound


def promised_share(path: Path) -> float:
    """Sound that the header of a WAV or AIFF promises, in parts of what is there; else 1.

    Above 1 the file was cut off: decoders read it up to its end without a word.
    """
    with path.open("rb") as file:
        form, _, kind = file.read(4), file.read(4), file.read(4)
        layout, wanted, sound, before = _FORMS.get(form, ("", b" ", b"", 0))
        if not kind.startswith(wanted):
            return 1.0
        while len(head := file.read(8)) == 8:
            name, size = struct.unpack(layout, head)
            if name == sound:
                there = path.stat().st_size - file.tell()
                whole = not 0 < size < _STREAM or size <= there + _SLACK or there <= before
                return 1.0 if whole else (size - before) / (there - before)
            file.seek(size + size % 2, 1)
    return 1.0


__all__ = ["promised_share"]
