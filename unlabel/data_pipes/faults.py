"""What can go wrong with one recording: a typed error for every reader's faults."""

from importlib import import_module
from typing import Any


class DecodeError(ValueError):
    """A video, picture or recording that cannot be read, or not at the place asked for.

    Attributes:
        path: the file, or what it is where it has no name.
        index: the frame asked for, None where the whole file is at fault.
        reader: which library met the fault, "" for none.
        cause: what it said.
    """

    def __init__(self, path: Any, cause: object, *, index: int | None = None, reader: str = ""):
        self.path, self.index, self.reader, self.cause = str(path), index, reader, told(cause)
        frame = "" if index is None else f", frame {index}"
        by = f" ({reader})" if reader else ""
        super().__init__(f"{self.path}{frame}: {self.cause}{by}.")

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes hand it on whole.
        return _rebuild, (self.path, self.cause, self.index, self.reader)


def _rebuild(path: str, cause: str, index: int | None, reader: str) -> DecodeError:
    return DecodeError(path, cause, index=index, reader=reader)


def told(cause: object) -> str:
    """One line of what a library said, without the place in its own source."""
    text = str(cause) or type(cause).__name__
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = lines[0] if lines else type(cause).__name__
    if "Check failed" in line:
        line = line[line.index("Check failed") :]
    elif ".cc:" in line:
        line = line.split("] ")[-1].split(": ", 1)[-1]
    elif line.startswith("[Errno"):
        # FFmpeg's error numbers say nothing to a reader, its text does.
        line = line.split("] ", 1)[-1].split(": ")[0]
    return line[:160].rstrip(" .:")


def library(name: str, extra: str) -> Any:
    """An optional library, imported where it is used.

    Raises:
        ImportError: when it is missing; the message says how to install it.
    """
    try:
        return import_module(name)
    except (ImportError, OSError, RuntimeError) as e:  # torchcodec without FFmpeg: the last two
        package = {"cv2": "opencv-python-headless", "faiss": "faiss-cpu"}.get(
            name.split(".")[0], name
        )
        raise ImportError(
            f"{package} is wanted here and cannot be imported ({told(e)}); "
            f"pip install 'unlabel[{extra}]'."
        ) from e


__all__ = ["DecodeError", "library", "told"]
