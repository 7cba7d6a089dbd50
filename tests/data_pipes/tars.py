"""Tars as WebDataset has them."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path


def add_files(tar: tarfile.TarFile, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def tarred(path: Path, files: Mapping[str, bytes]) -> Path:
    """A tar of these files."""
    with tarfile.open(path, "w") as tar:
        add_files(tar, files)
    return path
