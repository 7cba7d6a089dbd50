"""What the header of a recording promises, against what is there."""

import math
import struct
from pathlib import Path
from typing import IO

# By the first word: layout of a chunk's head, the second word, the chunk of sound, its own head.
_WAVE = ("<4sI", b"WAVE", b"data", 0)
_FORMS = {b"RIFF": _WAVE, b"RF64": _WAVE, b"BW64": _WAVE, b"FORM": (">4sI", b"AIF", b"SSND", 8)}
_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"  # of Matroska: its head, and all behind it
_STREAM = 0x7FFFF000  # sizes from here on (or 0) are what a pipe writes, which cannot know them
_SLACK = 64  # bytes: some writers count the header as sound
_TAG = 0.99  # share of an MP3 that may be missing: some writers count a tag at its end
_PAGE = 27 + 255 + 255 * 255  # bytes of an Ogg page at most


def promised(path: Path, samples: int) -> float:
    """Samples that the header of a recording promises, at least those that are there.

    A file of more was cut off: most decoders read it up to its end without a word. Infinity where
    the header does not say how many there were.

    Args:
        path: of the file; of WAV, AIFF, MP3, FLAC, Ogg and Matroska the header is known.
        samples: that are there.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(0)
        if head[:4] in _FORMS:
            return samples * _of_chunks(file, size)
        if head[:4] == _EBML:
            return samples * _of_matroska(file, size)
        if head[:4] == b"fLaC":
            return max(samples, int.from_bytes(file.read(26)[21:]) & (1 << 36) - 1)
        if head[:4] == b"OggS":
            return math.inf if _of_pages(file, size) > size else samples
        return samples * _of_mpeg(file, size)


def _of_chunks(file: IO[bytes], size: int) -> float:
    """Sound that a WAV or AIFF promises, in parts of what is there."""
    form, _, kind = file.read(4), file.read(4), file.read(4)
    layout, wanted, sound, before = _FORMS[form]
    long = 0
    if not kind.startswith(wanted):
        return 1.0
    while len(head := file.read(8)) == 8:
        name, told = struct.unpack(layout, head)
        if name == b"ds64":  # the sizes that need more than 32 bits
            long = int.from_bytes(file.read(16)[8:], "little")
            file.seek(-16, 1)
        if name == sound:
            told = long if told == 0xFFFFFFFF and long else told
            there = size - file.tell()
            whole = (
                (not 0 < told < _STREAM and not long) or told <= there + _SLACK or there <= before
            )
            return 1.0 if whole else (told - before) / (there - before)
        file.seek(told + told % 2, 1)
    return 1.0


def _of_matroska(file: IO[bytes], size: int) -> float:
    """Bytes that a Matroska or WebM promises, in parts of what is there."""
    while (name := file.read(4)) in (_EBML, _SEGMENT):
        first = file.read(1) or b"\0"
        width = 9 - first[0].bit_length()  # bytes of the number, told by the zeros before it
        most = (1 << 7 * width) - 1
        told, there = int.from_bytes(first + file.read(width - 1)) & most, size - file.tell()
        if name == _SEGMENT:  # all ones where a live stream could not know
            return told / there if told != most and told > there > 0 else 1.0
        file.seek(told, 1)
    return 1.0


def _of_mpeg(file: IO[bytes], size: int) -> float:
    """Bytes that the first frame of an MP3 promises, in parts of what is there."""
    head = file.read(10)
    start = 0
    if head[:3] == b"ID3":  # its length in four times seven bits
        start = 10 + sum(byte << 7 * place for place, byte in enumerate(head[9:5:-1]))
    file.seek(start)
    frame = file.read(256)
    place = max(frame.find(b"Xing"), frame.find(b"Info"))
    if frame[:1] != b"\xff" or place < 0 or frame[place + 7] & 3 != 3:
        return 1.0
    told = int.from_bytes(frame[place + 12 : place + 16])
    there = size - start
    return told / there if _TAG * told > there else 1.0


def _of_pages(file: IO[bytes], size: int) -> int:
    """Where the last page of an Ogg file ends by its own word."""
    begin = max(size - _PAGE, 0)
    file.seek(begin)
    tail = file.read()
    place = tail.rfind(b"OggS")
    page = tail[place : place + 27 + 255]
    count = page[26] if len(page) > 26 else 0
    told = 27 + count + sum(page[27 : 27 + count])
    return begin + place + told if place >= 0 else size


__all__ = ["promised"]
