"""One side of the samples in a run of pairs: how it is read, and its encoder."""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from unlabel.data_pipes.cells import Cell
from unlabel.data_pipes.described import Described
from unlabel.data_pipes.held import Member
from unlabel.data_pipes.pair_values import Part
from unlabel.data_pipes.pairs import SideData
from unlabel.data_pipes.report import ReadReport
from unlabel.data_pipes.series import read_series
from unlabel.data_pipes.series_data import Series, SeriesData
from unlabel.data_pipes.text import TextData
from unlabel.data_pipes.video_data import VideoItem
from unlabel.data_pipes.video_list import Entry
from unlabel.kinds.audio import AudioOptions
from unlabel.kinds.series import SeriesOptions
from unlabel.kinds.text import TextOptions
from unlabel.kinds.visual import FramesOptions, VideoOptions
from unlabel.modalities.configs import saved_settings
from unlabel.objectives import Objective
from unlabel.training.arguments import TrainingArguments

SideOptions = TextOptions | SeriesOptions | FramesOptions | VideoOptions | AudioOptions
SIDES: dict[str, type[SideOptions]] = {
    "text": TextOptions,
    "series": SeriesOptions,
    "frames": FramesOptions,
    "video": VideoOptions,
    "audio": AudioOptions,
}
_OWN = ("kind", "column", "sound_of", "describes", "start_column", "end_column")
_MEDIA = ("frames", "video", "audio")  # of which a part can be named by its seconds
# What a list says of all sides together, or a sample cannot have.
_WHOLE = frozenset(
    "path_column label_column start_column end_column view_column id_column pattern columns "
    "documents streaming mapped limit labels balance min_words".split()
)
# What an encoder is, and not what is read for it.
_ENCODER = frozenset("config norm pooling causal dropout".split())
_HEARING = frozenset({"hop", "window"})  # of audio, where they are the spectrogram's
_SAVED = ("context", "max_length")  # of a pretrained side that options repeat
_DESCRIPTION = 96  # tokens


class Made(NamedTuple):
    """An encoder, the samples that it sees, and names and step of series."""

    encoder: Any
    data: SideData
    about: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Side:
    """One side of a sample, as a recipe says it.

    Attributes:
        name: of the side.
        kind: of its data, one of `SIDES`.
        column: see `PairsOptions`; None where the recipe does not say.
        sound_of: likewise.
        describes: likewise.
        start_column: likewise.
        end_column: likewise.
        options: of its kind of data.
    """

    name: str
    kind: str
    column: str | None
    sound_of: str | None
    describes: str | None
    start_column: str | None
    end_column: str | None
    options: SideOptions

    @classmethod
    def of(cls, name: str, said: Mapping[str, Any], start: Path | None) -> "Side":
        """A side of a recipe, checked.

        Args:
            name: of the side.
            said: of it in the recipe.
            start: folder of its pretrained encoder, which says what the recipe does not.

        Raises:
            ValueError: an unknown kind or option.
        """
        kind = str(said.get("kind", name))
        if kind not in SIDES:
            raise ValueError(
                f"The side {name!r} is of kind {kind!r}, but there are {', '.join(SIDES)}; give "
                "kind."
            )
        known = {f.name for f in dataclasses.fields(SIDES[kind])} - _WHOLE
        own = {k: v for k, v in said.items() if k not in _OWN}
        if unknown := sorted(set(own) - known):
            raise ValueError(
                f"pairs.sides.{name} has no option {', '.join(unknown)}; a side of {kind} has "
                f"{', '.join(sorted(known | set(_OWN)))}."
            )
        saved = {} if start is None else saved_settings(start)
        own = {k: saved[k] for k in _SAVED if k in saved and k in known} | own
        if kind == "series":
            # A sample is one series: all of its channels, one window of it in an epoch.
            own = {"channels": "together", **own, "balance": "series"}
        if said.get("describes"):
            own = {"max_length": _DESCRIPTION, **own}
        return cls(name, kind, *(said.get(k) for k in _OWN[1:]), SIDES[kind](**own))

    def settled(self, seed: int, start: Path | None) -> "Side":
        """With what an earlier encoder of the side says of the pictures that it sees."""
        if not isinstance(self.options, FramesOptions):
            return self
        return dataclasses.replace(self, options=self.options.settled(seed, start))

    @property
    def is_read(self) -> bool:
        """Whether it has a column or files of its own."""
        return self.sound_of is None and self.describes is None

    @property
    def reading(self) -> Any:
        """Equal for sides that can see the same samples."""
        if self.kind == "text":  # each has a tokenizer of its own
            return self.name
        unread = _ENCODER | (_HEARING if self.kind == "audio" else {"pretrained"})
        said = dataclasses.asdict(self.options)
        told = tuple((k, repr(v)) for k, v in sorted(said.items()) if k not in unread)
        return self.kind, self.column or self.name, *self.times, told

    @property
    def times(self) -> tuple[str | None, str | None]:
        """Columns that say where the part of a file that counts begins and ends."""
        return self.start_column, self.end_column

    def check(self, sides: Mapping[str, "Side"]) -> None:
        """Refuse a side that another one cannot serve.

        Raises:
            ValueError: no such side, or one of another kind.
        """
        if any(self.times) and (self.kind not in _MEDIA or not self.is_read):
            raise ValueError(
                f"start_column and end_column are for a side of {', '.join(_MEDIA)} with a column "
                f"of files, and {self.name!r} is none."
            )
        for word, of, mine, theirs in (
            ("sound_of", self.sound_of, "audio", "video"),
            ("describes", self.describes, "text", "series"),
        ):
            if of is None:
                continue
            if self.kind != mine:
                raise ValueError(
                    f"{word} is for a side of {mine}, but {self.name!r} is of {self.kind}."
                )
            if of not in sides or sides[of].kind != theirs or not sides[of].is_read:
                has = [n for n, s in sides.items() if s.kind == theirs and s.is_read]
                raise ValueError(
                    f"pairs.sides.{self.name}.{word} names a side of {theirs}, but {of!r} came; "
                    f"there is {', '.join(has) or 'none'}."
                )
            if self.column is not None:
                raise ValueError(f"pairs.sides.{self.name} has {word} or a column, not both.")

    def prepare(
        self,
        values: list[Any],
        asked: Objective,
        args: TrainingArguments,
        begun: Path | None,
        more: Mapping[str, Any],
    ) -> Made:
        """Encoder and samples of a side that is read.

        Args:
            values: that are read, each once.
            asked: the views that are made of this side.
            args: of the training.
            begun: folder of the encoder to begin with, where there is one.
            more: of the store of a side of video.
        """
        options = self.options
        if isinstance(options, TextOptions):
            return _text(values, options, args, begun)
        if isinstance(options, SeriesOptions):
            read = read_each(values, options)
            made = options.prepare(read, asked, args, begun)
            about = {"names": read[0].names, "freq": read[0].freq}
            return Made(made.encoder, _of_series(read, made.store), about)
        entries = [_entry(v, i) for i, v in enumerate(values)]
        made = options.prepare(entries, asked, args, begun, **more)
        return Made(made.encoder, _of_media(made.store))

    def another(self, store: Any, args: TrainingArguments, begun: Path | None) -> Any:
        """The encoder of a side that sees the samples of another one."""
        options = self.options
        if isinstance(options, SeriesOptions):
            return options.encoder(store, args.seed, begun)
        if isinstance(options, AudioOptions):
            heard = options.encoder(args.seed, begun)
            options.measure(heard, store, begun)
            return heard
        assert not isinstance(options, TextOptions)
        return options.encoder(args.seed, begun)

    def describe(self, series: Made, args: TrainingArguments, begun: Path | None) -> Made:
        """Encoder and samples of text that is written from windows of series."""
        assert isinstance(self.options, TextOptions)
        store = Described(series.data.store, **series.about)
        texts = TextData({"text": store.texts(len(series.data.owners))}, ReadReport())
        encoder = self.options.encoder(texts, args.seed, begun)
        store.tokenizer, store.max_length = encoder.tokenizer, encoder.max_length
        return Made(encoder, dataclasses.replace(series.data, store=store, lost={}))


def _name(value: Any, place: int) -> str:
    return str(value) if isinstance(value, (str, Member, Cell)) else f"value {place}"


def _entry(value: Any, place: int) -> Entry:
    """A file or the part of one, and which of the values it is."""
    if not isinstance(value, Part):
        return Entry(_name(value, place), value, row={"pair": place})
    part = dataclasses.replace(value, source=_name(value.source, place))
    return Entry(str(part), value.source, None, value.start, value.end, row={"pair": place})


def _text(
    values: list[Any], options: TextOptions, args: TrainingArguments, begun: Path | None
) -> Made:
    """Each value is a text or several."""
    each = [(v,) if isinstance(v, str) else v for v in values]
    owners = np.repeat(np.arange(len(each)), [len(texts) for texts in each])
    flat = [text for texts in each for text in texts]
    made = options.prepared(TextData({"text": flat}, ReadReport()), args, begun)
    return Made(made.encoder, SideData(made.store, owners))


def _of_media(store: Any) -> SideData:
    used = {item.row["pair"] for item in store.sources}
    lost = dict(store.data.report.broken)
    lost |= {i.name: _why(store, i) for i in store.data if i.row["pair"] not in used}
    return SideData(store, [item.row["pair"] for item in store.sources], lost=lost)


def _why(store: Any, item: VideoItem) -> str:
    return "it is too short" if item.name in store.too_short else store.unheard[item.name]


def _of_series(read: SeriesData, store: Any) -> SideData:
    short = set(store.too_short)
    lost = read.report.broken | {read.report.files[int(i)]: "it is too short" for i in short}
    return SideData(store, [int(i) for i in store.ids if i not in short], lost=lost)


def read_each(values: Sequence[Any], options: SeriesOptions) -> SeriesData:
    """A series for each value, named by its place; broken ones are told in the report.

    Raises:
        ValueError: there is no usable one.
    """
    found, names = SeriesData([]), [_name(v, i) for i, v in enumerate(values)]
    found.report.files += names
    for place, value in enumerate(values):
        try:
            read = _one(value, options.reading())
        except ValueError as e:
            found.report.broken[names[place]] = str(e)
            continue
        found.series.append(dataclasses.replace(read, id=str(place), label=-1))
    _same_channels(found, names, options)
    if not found.series:
        named = "; ".join(f"{n}: {why}" for n, why in list(found.report.broken.items())[:3])
        raise ValueError(f"No usable series among {len(values)}: {named}")
    return found


def _one(value: Any, reading: Mapping[str, Any]) -> Series:
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(value, Member):  # of Parquet, series are numbers
            path = Path(folder) / f"series{Path(value.name).suffix.lower()}"
            path.write_bytes(value.load()["bytes"])
            value = path
        found = read_series(value, **reading).series
    if len(found) > 1:
        raise ValueError(f"it holds {len(found)} series, but a sample has one")
    if not np.isfinite(found[0].values).any():
        raise ValueError("it holds no number")
    return found[0]


def _same_channels(found: SeriesData, names: Sequence[str], options: SeriesOptions) -> None:
    """Leave out series of another number of channels than most have."""
    if options.channels != "together" or not found.series:
        return
    widths = [s.values.shape[1] for s in found.series]
    most = max(dict.fromkeys(widths), key=widths.count)
    for one, width in zip(found.series, widths, strict=True):
        if width != most:
            why = f"it has {width} channels, and most have {most}"
            found.report.broken[names[int(one.id)]] = why
    found.series = [s for s, w in zip(found.series, widths, strict=True) if w == most]


__all__ = ["SIDES", "Made", "Side", "SideOptions", "read_each"]
