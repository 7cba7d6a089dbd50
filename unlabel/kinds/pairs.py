"""Pairs in a run: what the sides of a sample are, and the encoder of each."""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from unlabel.data_pipes.pairs import PairData, PairStore, read_pairs
from unlabel.data_pipes.report import ReadReport
from unlabel.data_pipes.series import read_series
from unlabel.data_pipes.series_data import SeriesData
from unlabel.data_pipes.text import TextData
from unlabel.kinds.audio import AudioOptions
from unlabel.kinds.prepared import Prepared, is_named
from unlabel.kinds.series import SeriesOptions
from unlabel.kinds.text import TextOptions
from unlabel.kinds.visual import FramesOptions, VideoOptions
from unlabel.modalities.audio import AudioEncoder
from unlabel.modalities.joint import JointEncoder
from unlabel.objectives import Objective
from unlabel.training.arguments import TrainingArguments

logger = logging.getLogger(__name__)
SideOptions = TextOptions | SeriesOptions | FramesOptions | VideoOptions | AudioOptions
SIDES: dict[str, type[SideOptions]] = {
    "text": TextOptions,
    "series": SeriesOptions,
    "frames": FramesOptions,
    "video": VideoOptions,
    "audio": AudioOptions,
}
_OWN = ("kind", "column", "sound_of")


@dataclass
class PairsOptions:
    """Pairs: the sides of a sample, how each is read, and the encoder of each.

    Args:
        pretrained: folder of an encoder of pairs to start from; None makes one of the sides.
        sides: name -> options of its kind of data (`config`, `pretrained`, `size`, ...), and
            `kind` (default: the side's name), `column` of the list (default: likewise),
            `sound_of`: the side of video whose own sound this side of audio is, in place of a
            column.
        width: of the space that all sides share.
        locked: sides whose encoder stays as it is, while its projection learns.
        label_column: of the list, the class of a sample.
        limit: rows read at most.
        shuffled: mix the sides by the seed, so that no pair belongs together: a run to compare
            with, which learns nothing of what goes with what.
    """

    corpus: ClassVar[str] = "synthetic"  # the data that needs no download, and the default

    pretrained: str | None = None
    sides: dict[str, dict[str, Any]] = field(default_factory=dict)
    width: int = 128
    locked: list[str] = field(default_factory=list)
    label_column: str | None = None
    limit: int | None = None
    shuffled: bool = False

    def prepare(
        self,
        data: Any,
        objective: Objective,
        args: TrainingArguments,
        begun: Path | None,
    ) -> Prepared:
        """Read the list and what it names, make the encoders and the samples.

        Args:
            data: what `read_pairs` takes, or `synthetic` for the generated files.
            objective: what is trained.
            args: of the training.
            begun: folder of the encoder as the run began, where it is resumed.

        Raises:
            ValueError: sides that cannot be read or paired; the message says which and why.
        """
        sides = {name: _side(name, said) for name, said in self._named().items()}
        source = _synthetic() if is_named(data, self.corpus) else data
        rows = read_pairs(
            source,
            {n: s.column for n, s in sides.items() if not s.sound_of},
            files=[n for n, s in sides.items() if s.kind != "text"],
            label_column=self.label_column,
            limit=self.limit,
        )
        rows = rows.shuffled(args.seed) if self.shuffled else rows
        logger.info("%s", rows.report.summary())
        heard = {n: s.sound_of for n, s in sides.items() if s.sound_of}
        towers: dict[str, Any] = {
            n: sides[n].listener(args.seed, self._start(n, begun)) for n in heard
        }
        rates = {of: towers[n].rate for n, of in heard.items()}
        stores, places = {}, {}
        for name in rows.columns:
            start, more = self._start(name, begun), {}
            if name in rates:
                more["sound"] = rates[name]
            made, places[name] = sides[name].prepare(rows.columns[name], args, start, more)
            towers[name], stores[name] = made.encoder, made.store
        store = PairStore(stores, places, rows, heard=heard, seed=args.seed)
        logger.info("%s", store.summary())
        encoder = self._encoder({n: towers[n] for n in sides}, begun)
        return Prepared(encoder, store, store.summary(), len(store), len(store.classes) or None)

    def _named(self) -> Mapping[str, Mapping[str, Any]]:
        """The sides as given, else those of the pretrained folder, else of the generated files."""
        if self.sides:
            return self.sides
        raise ValueError(
            "Name the sides of a sample: pairs.sides: {text: {column: caption}, video: {column: "
            "path}}, each with the options of its kind of data."
        )

    def _start(self, name: str, begun: Path | None) -> Path | None:
        if begun is not None:
            return begun / name
        return None if self.pretrained is None else Path(self.pretrained) / name

    def _encoder(self, towers: Mapping[str, Any], begun: Path | None) -> JointEncoder:
        made = JointEncoder(towers, width=self.width, locked=self.locked)
        if begun is not None or self.pretrained is not None:
            made.load_projections(begun or self.pretrained or "")
        return made


@dataclass(frozen=True)
class _Side:
    """One side of a sample, as a recipe says it."""

    kind: str
    column: str
    sound_of: str | None
    options: SideOptions

    def listener(self, seed: int, begun: Path | None) -> AudioEncoder:
        """The encoder of a side of audio that has no files of its own.

        Raises:
            ValueError: the side is no audio.
        """
        if not isinstance(self.options, AudioOptions):
            raise ValueError(f"sound_of is for a side of audio, but this one is of {self.kind}.")
        return self.options.encoder(seed, begun)

    def prepare(
        self,
        values: list[Any],
        args: TrainingArguments,
        begun: Path | None,
        more: Mapping[str, Any],
    ) -> tuple[Prepared, list[int]]:
        """Encoder and samples of a side, and the row that each of its samples belongs to."""
        numbers, options = range(len(values)), self.options
        if isinstance(options, TextOptions):
            made = options.prepared(TextData({"text": values}, ReadReport()), args, begun)
            return made, list(numbers)
        if isinstance(options, SeriesOptions):
            made = options.prepare(_read_each(values, options), Objective(), args, begun)
            return made, [int(made.store.place(i)[0]) for i in range(len(made.store))]
        listed = pd.DataFrame({"path": values, "pair": numbers})
        made = options.prepare(listed, Objective(), args, begun, **more)
        return made, [int(item.row["pair"]) for item in made.store.sources]


def _side(name: str, said: Mapping[str, Any]) -> _Side:
    """A side of a recipe, checked.

    Raises:
        ValueError: an unknown kind or option.
    """
    kind = str(said.get("kind", name))
    if kind not in SIDES:
        raise ValueError(
            f"The side {name!r} is of kind {kind!r}, but there are {', '.join(SIDES)}; give kind."
        )
    own = {k: v for k, v in said.items() if k not in _OWN}
    known = {f.name for f in dataclasses.fields(SIDES[kind])}
    if unknown := sorted(set(own) - known):
        raise ValueError(
            f"pairs.sides.{name} has no option {', '.join(unknown)}; a side of {kind} has "
            f"{', '.join(sorted(known | set(_OWN)))}."
        )
    if kind == "series":
        # A sample is one series: all of its channels, one window of it in an epoch.
        own = {"channels": "together", "balance": "series", **own}
    return _Side(kind, str(said.get("column", name)), said.get("sound_of"), SIDES[kind](**own))


def _read_each(values: list[Any], options: SeriesOptions) -> SeriesData:
    """A series for each file, named by its row; broken files are told in the report."""
    found = SeriesData([])
    for row, path in enumerate(values):
        try:
            read = read_series(path, **options.reading())
        except ValueError as error:
            found.report.broken[str(path)] = str(error)
            continue
        series = dataclasses.replace(read[0], id=str(row), label=-1)
        found.series.append(series)
    return found


def _synthetic() -> Path:
    from unlabel.data_pipes.synthetic_pairs import embedded_pairs

    return embedded_pairs()


__all__ = ["SIDES", "PairData", "PairsOptions"]
