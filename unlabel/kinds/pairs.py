"""Pairs in a run: what the sides of a sample are, and the encoder of each."""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from unlabel.data_pipes.pair_values import distinct
from unlabel.data_pipes.pairs import PairData, PairStore, read_pairs
from unlabel.kinds.audio import RATE, AudioOptions
from unlabel.kinds.pair_sides import SIDES, Made, Side
from unlabel.kinds.prepared import Prepared, is_named
from unlabel.modalities.configs import saved_settings
from unlabel.modalities.joint import JointEncoder
from unlabel.objectives import Objective
from unlabel.training.arguments import TrainingArguments

logger = logging.getLogger(__name__)

# The sides of the generated files, with encoders that two cores can train.
DEFAULT_SIDES: dict[str, dict[str, Any]] = {
    "text": {
        "vocabulary": 400,
        "config": {
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 256,
        },
    },
    "video": {
        "frames": 8,
        "stride": 2,
        "size": 32,
        "start": "even",
        "config": {"model_type": "r2plus1d", "hidden_sizes": [16, 24, 48]},
    },
    "audio": {
        "seconds": 1.6,
        "window": 0.032,
        "config": {
            "num_mel_bins": 32,
            "patch_size": 32,
            "num_hidden_layers": 2,
            "hidden_size": 128,
        },
    },
    "series": {
        "context": 64,
        "target": ["x", "y", "size", "angle", "red", "green", "blue", "reflected", "outline"],
        "config": {"model_type": "dilated_conv", "hidden_size": 64, "num_hidden_layers": 5},
    },
}


@dataclass
class PairsOptions:
    """Pairs: the sides of a sample, how each is read, and the encoder of each.

    Args:
        pretrained: folder of an encoder of pairs to start from; None makes one of the sides.
        sides: name -> options of its kind of data (`config`, `pretrained`, `size`, ...), and
            `kind` (default: the side's name), `column` of a list (default: likewise; in folders
            and shards, how its files end), or in place of a column `sound_of`: the side of video
            whose own sound this side of audio is, or `describes`: the side of series that this
            side of text is written from. Where a row is about a part of a file of frames, video
            or audio, `start_column` and `end_column` name the columns of its seconds. Sides that
            read the same (raw series and their derivative) see the same samples. Empty takes
            those of `pretrained`, or of `synthetic`.
        width: of the space that all sides share.
        locked: sides whose encoder stays as it is, while its projection learns.
        label_column: of the list, the class of a sample.
        alike: sides whose equal values (the same caption, the same file) make two samples no
            negatives of each other where a batch is compared, such as `[text]`.
        together: sides of frames, video or audio whose samples begin at the same moment of their
            files (two cameras, a clip and the recording beside it), or of the parts that the list
            names: a random one, whatever `start` and `hop` say.
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
    alike: list[str] = field(default_factory=list)
    together: list[str] = field(default_factory=list)
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
        sides = self._sides(is_named(data, self.corpus))
        source = _synthetic() if is_named(data, self.corpus) else data
        rows = self.read(source, sides)
        rows = rows.shuffled(args.seed) if self.shuffled else rows
        logger.info("%s", rows.report.summary())
        start = {n: self._start(n, begun) for n in sides}
        sides = {n: s.settled(args.seed, start[n]) for n, s in sides.items()}
        made, shared = _read(sides, rows, objective, args, start)
        for name, side in sides.items():
            if of := side.describes:
                made[name] = side.describe(made[shared.get(of, of)], args, start[name])
        heard = {n: shared.get(s.sound_of, s.sound_of) for n, s in sides.items() if s.sound_of}
        towers = {n: m.encoder for n, m in made.items()}
        for name, of in heard.items():
            towers[name] = _listener(sides[name], made[of].data.store, args.seed, start[name])
        for name, of in shared.items():
            towers[name] = sides[name].another(made[of].data.store, args, start[name])
        read = {n: m.data for n, m in made.items()}
        beside = {"heard": heard, "shared": shared, "alike": self.alike, "together": self.together}
        store = PairStore(read, rows, **beside, seed=args.seed)
        logger.info("%s", store.summary())
        encoder = self._encoder({n: towers[n] for n in sides}, begun)
        classes = len(store.classes) or None
        content = None if is_named(data, self.corpus) else store.fingerprint
        return Prepared(encoder, store, store.summary(), len(store), classes, content=content)

    def read(self, source: Any, sides: Mapping[str, Side]) -> PairData:
        """The rows of a source, of all sides that have a column."""
        return read_pairs(
            source,
            {n: s.column for n, s in sides.items() if s.is_read},
            kinds={n: s.kind for n, s in sides.items()},
            times={n: s.times for n, s in sides.items() if any(s.times)},
            label_column=self.label_column,
            limit=self.limit,
        )

    def _sides(self, generated: bool) -> dict[str, Side]:
        """The sides as given, else those of the pretrained folder, else of the generated files.

        Raises:
            ValueError: there are none, or one that the pretrained folder has not.
        """
        saved = {} if self.pretrained is None else saved_settings(self.pretrained).get("sides", {})
        if self.pretrained is not None and not saved:
            what = "holds no encoder of pairs" if Path(self.pretrained).is_dir() else "is no folder"
            raise ValueError(f"{self.pretrained} {what}; give that of an encoder of pairs.")
        said: Mapping[str, Mapping[str, Any]] = self.sides
        if not said and saved:
            said = {n: {"kind": kind} for n, kind in saved.items()}
        elif not said and generated:
            said = DEFAULT_SIDES
        if not said:
            raise ValueError(
                "Name the sides of a sample: pairs.sides: {text: {column: caption}, video: "
                "{column: path}}, each with the options of its kind of data."
            )
        if saved and set(said) - set(saved):
            raise ValueError(
                f"{self.pretrained} has the sides {', '.join(saved)}, but those of the recipe are "
                f"{', '.join(said)}; give some of the same, or pretrained for each side alone."
            )
        made = {n: Side.of(n, s, self._start(n, None)) for n, s in said.items()}
        for side in made.values():
            side.check(made)
        return made

    def _start(self, name: str, begun: Path | None) -> Path | None:
        if begun is not None:
            return begun / name
        return None if self.pretrained is None else Path(self.pretrained) / name

    def _encoder(self, towers: Mapping[str, Any], begun: Path | None) -> JointEncoder:
        made = JointEncoder(towers, width=self.width, locked=self.locked)
        if begun is not None or self.pretrained is not None:
            made.load_projections(begun or self.pretrained or "")
        return made


def sides_of_run(about: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """What a run's record says of its sides; nothing where they were its pretrained folder's."""
    generated = is_named(about.get("data"), PairsOptions.corpus)
    said = (about.get("encoder") or {}).get("sides") or {}
    return said or (DEFAULT_SIDES if generated else {})


def _read(
    sides: Mapping[str, Side],
    rows: PairData,
    objective: Objective,
    args: TrainingArguments,
    start: Mapping[str, Path | None],
) -> tuple[dict[str, Made], dict[str, str]]:
    """Encoder and samples of each side that is read, and which sides see those of another one."""
    leaders: dict[Any, str] = {}
    shared = {n: leaders.setdefault(s.reading, n) for n, s in sides.items() if s.is_read}
    rates = {
        shared[s.sound_of]: _rate(s, start[n]) for n, s in sides.items() if s.sound_of is not None
    }
    made = {}
    for name in leaders.values():
        group = [n for n, leader in shared.items() if leader == name]
        values, uses = distinct(rows.columns[name])
        more = {"sound": rates[name]} if name in rates else {}
        asked = _asked(objective, group)
        one = sides[name].prepare(values, asked, args, start[name], more)
        made[name] = one._replace(data=dataclasses.replace(one.data, uses=uses))
    return made, {n: leader for n, leader in shared.items() if n != leader}


def _asked(objective: Objective, group: list[str]) -> Objective:
    """What an objective wants of some sides, as if there were no others."""
    asked = Objective()
    views = (v for v in objective.views if v.partner in group)
    asked.views = tuple(dataclasses.replace(v, partner=None) for v in views)
    return asked


def _rate(side: Side, start: Path | None) -> int:
    """Samples a second of a clip's own sound."""
    assert isinstance(side.options, AudioOptions)
    if start is not None or side.options.pretrained is not None:
        return side.options.encoder(0, start).rate
    return side.options.rate or RATE


def _listener(side: Side, store: Any, seed: int, start: Path | None) -> Any:
    """The encoder of a clip's own sound; it hears as long as a clip lasts unless told otherwise."""
    options = side.options
    assert isinstance(options, AudioOptions)
    if options.seconds is None and start is None and options.pretrained is None:
        rates = {item.media.fps for item in store.sources}
        seconds = max(store.sampling.frames * store.sampling.step(fps) / fps for fps in rates)
        options = dataclasses.replace(options, seconds=seconds)
    return options.encoder(seed, start)


def _synthetic() -> Path:
    from unlabel.data_pipes.synthetic_pairs import embedded_pairs

    return embedded_pairs()


__all__ = ["DEFAULT_SIDES", "SIDES", "PairsOptions", "sides_of_run"]
