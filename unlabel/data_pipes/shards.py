"""Shards: tar files whose members are read where they lie, by an index of places and sizes."""

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from unlabel.data_pipes.held import Member
from unlabel.data_pipes.report import ReadReport
from unlabel.data_pipes.sources import find_files
from unlabel.files import identity

_PACKED = re.compile(r"\.(tgz|tbz2|txz|tar\.(gz|bz2|xz|zst|lz4))$")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def is_shard(name: str | Path) -> bool:
    """Whether a path or glob names shards.

    Raises:
        ValueError: packed ones.
    """
    lower = str(name).lower()
    if _PACKED.search(lower):
        raise ValueError(
            f"{name} is packed, and members of a packed tar cannot be read one by one: unpack it "
            "to .tar (its pictures, clips and recordings are packed themselves)."
        )
    return lower.endswith(".tar")


def shards_of(name: str | Path) -> list[Path]:
    """The shards that a path, a glob or a range such as `train-{000..127}.tar` names.

    Raises:
        FileNotFoundError: there is none, or one of a range is not there.
    """
    found = _RANGE.search(str(name))
    if found is None:
        try:
            return list(find_files([name], (".tar",)).paths)
        except FileNotFoundError:
            raise FileNotFoundError(f"{name}: there is no such shard.") from None
    first, last = found.groups()
    numbers = (f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1))
    each = (_RANGE.sub(number, str(name), count=1) for number in numbers)
    return [path for one in each for path in shards_of(one)]


def members_of(path: Path, report: ReadReport) -> Iterator[Member]:
    """The files in a tar, up to its first damage, which is told in `report.broken`.

    Args:
        path: of a tar that is not packed.
        report: of the reading.
    """
    known, count = identity(path), 0
    try:
        with tarfile.open(path, "r:") as tar:
            while (info := tar.next()) is not None:
                tar.members = []  # its own list of all that it met
                if info.offset_data + info.size > known[0]:
                    raise tarfile.ReadError(f"{info.name} is cut off")
                if info.isreg() and not info.issparse():
                    count += 1
                    yield Member(str(path), info.name, info.offset_data, info.size, known)
            _check_end(path, tar.offset)
    except (tarfile.TarError, OSError, EOFError) as e:
        report.broken[str(path)] = f"{e}, after {count:,} files, which are used"
    report.files.append(str(path))


def _check_end(path: Path, offset: int) -> None:
    """A tar ends in blocks of zeros; other bytes there are a header that cannot be read."""
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it is cut off between two files")
    if block.count(0) != len(block):
        raise tarfile.ReadError(f"it is damaged at byte {offset:,}")


__all__ = ["is_shard", "members_of", "shards_of"]
