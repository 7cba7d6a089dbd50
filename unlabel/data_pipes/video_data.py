"""Videos, pictures or recordings that were read together, and what reading met."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from unlabel.data_pipes.cells import Cell
from unlabel.data_pipes.faults import DecodeError
from unlabel.data_pipes.held import Held, Member
from unlabel.data_pipes.kept_frames import KeptFrames
from unlabel.data_pipes.labels import kept_labels
from unlabel.data_pipes.media import Media
from unlabel.data_pipes.report import ReadReport, first_of
from unlabel.data_pipes.video_windows import Places, Sampling, window

__all__ = ["VideoData", "VideoItem"]


@dataclass
class VideoItem:
    """One video, or the part of one that a list names.

    Attributes:
        name: of its file or place.
        source: what `read_clip` takes.
        media: what decoding it found.
        first: frame where the part begins.
        last: frame before which it ends.
        label: place of its class in `VideoData.classes`, -1 for none.
        view: which camera, "" for a lone one.
        partners: places in the data of the same take seen by other cameras.
        row: further columns of the list it came from.
    """

    name: str
    source: Any
    media: Media
    first: int
    last: int
    label: int = -1
    view: str = ""
    partners: tuple[int, ...] = ()
    row: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of frames."""
        return self.last - self.first

    @property
    def fps(self) -> float:
        """Frames a second; of a part of a file without a constant rate, its own."""
        if self.media.stamps is None or len(self) < 2:
            return self.media.fps
        return (len(self) - 1) / (self.media.stamps[self.last - 1] - self.media.stamps[self.first])

    def clip(self, sampling: Sampling, start: float) -> Places:
        """Places of the frames of a clip; by the clock where the sampling and the file have one.

        Args:
            sampling: how dense clips lie.
            start: frame where it begins.
        """
        count, fps = len(self), self.fps
        if self.media.stamps is None or not sampling.by_clock:
            return window(sampling, start, count, fps)
        stamps = self.media.times[self.first : self.last]
        room = max(count - sampling.span(fps), 0) / fps
        begin = min(stamps[int(start)] - stamps[0], room)
        seconds = begin + np.arange(sampling.frames) * sampling.step(fps) / fps
        whole = count / fps
        looped = sampling.short == "loop"
        return self.frames_at(seconds % whole if looped else seconds[seconds < whole - 1e-6])

    def even(self, place: float) -> float:
        """The frame that is shown where one of this place would be, were the rate constant."""
        return place if self.media.stamps is None else float(self.frames_at(place / self.fps))

    def frames_at(self, seconds: Any) -> Any:
        """Places in the part of the frames that are shown so many seconds after its beginning."""
        stamps = self.media.times[self.first : self.last]
        places = np.searchsorted(stamps - stamps[0], np.add(seconds, 5e-4), side="right") - 1
        return np.clip(places, 0, len(self) - 1)

    def content(self) -> Any:
        """What `read_clip` takes, fetched from its data set or shard where it lies in one."""
        return self.source.load() if isinstance(self.source, Held) else self.source

    @property
    def identity(self) -> list[Any]:
        """What tells its file, or what it lies in, from a later one of its name."""
        if isinstance(self.source, (Cell, Member)):
            return [str(self.source), *self.source.known]
        return [self.media.path, self.media.size, self.media.changed]

    @property
    def unchanged(self) -> bool:
        """Whether a file is the one that was examined."""
        return not isinstance(self.source, (str, Path)) or self.media.unchanged()

    def check_unchanged(self) -> None:
        """Refuse a file that is not the one that was examined: it may crash the process.

        Raises:
            DecodeError: it changed, or is gone.
        """
        if not self.unchanged:
            gone = not Path(self.source).expanduser().exists()
            cause = "it is gone" if gone else "it changed since it was examined"
            raise DecodeError(self.name, cause, reader="store")


@dataclass
class VideoData:
    """Videos that were read together, and the report of the reading.

    Attributes:
        items: one by one.
        report: what was read, and what was left out and why (`broken`).
        classes: names of the classes that the labels count, sorted.
        kept: frames that reading kept for a store.
        manifest: file in which reading keeps what it found.
    """

    items: list[VideoItem]
    report: ReadReport = field(default_factory=ReadReport)
    classes: tuple[str, ...] = ()
    kept: KeptFrames | None = None
    manifest: Path | None = None

    def __len__(self) -> int:
        """Number of videos."""
        return len(self.items)

    def __getitem__(self, index: int) -> VideoItem:
        """One video."""
        return self.items[index]

    def __iter__(self) -> Iterator[VideoItem]:
        """The videos in order."""
        return iter(self.items)

    @property
    def bytes(self) -> int:
        """Of all files together, those once more that hold several videos."""
        return sum(item.media.size for item in self.items)

    @property
    def labels(self) -> np.ndarray:
        """Class of each video, -1 for none, `(count,)`."""
        return np.array([item.label for item in self.items], np.int64)

    def files(self) -> tuple[list[VideoItem], list[int]]:
        """An item of each file, and for each item which of them it is: parts share a file."""
        found: dict[Any, int] = {}
        first, own = [], []
        for place, item in enumerate(self):
            key = item.media.path if item.media.size else place  # what lies in memory has no size
            if key not in found:
                found[key] = len(first)
                first.append(item)
            own.append(found[key])
        return first, own

    def keep_labels(self, share: float, *, seed: int = 0) -> None:
        """Forget all labels but a share of those of each class, see `kept_labels`."""
        kept = kept_labels(self.labels, share, seed=seed)
        for item, label in zip(self.items, kept.tolist(), strict=True):
            item.label = label

    def column(self, name: str) -> list[Any]:
        """A further column of the list, for each video; None where a video has no such.

        Raises:
            KeyError: no video has it.
        """
        if not any(name in item.row for item in self.items):
            has = sorted({key for item in self.items for key in item.row})
            raise KeyError(f"No column {name!r}; there are {', '.join(has) or 'none'}.")
        return [item.row.get(name) for item in self.items]

    def part(self, places: Sequence[int]) -> "VideoData":
        """Some of the videos, with the same classes; pairs of views stay where both are in it."""
        new = {int(old): place for place, old in enumerate(places)}
        items = []
        for old in new:
            item = self.items[old]
            kept = tuple(new[p] for p in item.partners if p in new)
            items.append(VideoItem(**{**item.__dict__, "partners": kept}))
        return replace(self, items=items)

    def summary(self) -> str:
        """One line: how many, how long, which sizes, and what was left out and why."""
        seconds = [len(item) / item.media.fps for item in self.items]
        kinds = {item.media.kind for item in self.items}
        if kinds == {"sound"}:
            rates = sorted({int(item.media.fps) for item in self.items})
            long = f"{min(seconds):.2f} to {max(seconds):.2f} s ({sum(seconds):,.0f} s in all)"
            shown = f"{first_of([f'{rate:,}' for rate in rates])} samples a second"
            parts = [f"{len(self):,} recordings of {long}", shown]
        else:
            sizes = sorted({(i.media.columns, i.media.rows) for i in self.items})
            long = f"{_span([len(i) for i in self.items])} frames ({sum(seconds):,.0f} s in all)"
            what = "pictures" if kinds == {"picture"} else f"videos of {long}"
            parts = [f"{len(self):,} {what}", first_of([f"{c}x{r}" for c, r in sizes])]
        if self.classes:
            parts.append(f"{len(self.classes)} classes")
        return ", ".join([*parts, *_notes(self.report)])


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _notes(report: ReadReport) -> list[str]:
    notes = []
    for kind, words in (
        ("cut_off", "cut off, used"),
        ("damaged_used", "damaged, used up to there"),
        ("same_stem", "left out: a sample of that stem, up to the first dot, was there"),
    ):
        if count := report.counts.get(kind):
            notes.append(f"{count:,} {words} ({'; '.join(report.examples[kind])})")
    if report.broken:
        named = "; ".join(f"{n}: {why}" for n, why in list(report.broken.items())[:3])
        notes.append(f"{len(report.broken):,} broken, left out ({named})")
    if report.ignored:
        notes.append(f"{len(report.ignored):,} file(s) of another kind ignored")
    return notes
