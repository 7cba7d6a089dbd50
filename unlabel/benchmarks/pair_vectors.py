"""Held-out pairs, read as a run reads them, and their vectors by an encoder of pairs."""

import dataclasses
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from unlabel.benchmarks.intervals import unit_rows
from unlabel.benchmarks.saved import saved_encoder
from unlabel.core import Batch, view
from unlabel.data_pipes.pairs import PairStore
from unlabel.kinds.pairs import PairsOptions, sides_of_run
from unlabel.modalities.configs import SETTINGS, saved_settings
from unlabel.modalities.joint import JointEncoder
from unlabel.objectives import Objective
from unlabel.training.arguments import TrainingArguments

Vectors = Mapping[str, Float[np.ndarray, "samples width"]]
LABEL = "label"  # the column of classes of the embedded pairs
# What a sample says beside what its encoder sees.
_BESIDE = ("index", "ordinal", "label", "partners")


@dataclass(frozen=True)
class PairVectors:
    """An encoder's vectors of held-out pairs, a row each.

    Attributes:
        shared: unit vectors in the shared space, by side.
        own: of each side's encoder, before the projection.
        alike: of each side, a number that samples have in common where they are equal.
        labels: class of each pair, -1 for none.
        classes: names of the classes.
        texts: sides that are text.
        told: unit vectors of the classes' names, where a side is text and there are classes.
        teachers: name and side of each encoder of one kind of data, with its own vectors.
    """

    shared: Vectors
    own: Vectors
    alike: Mapping[str, Int[np.ndarray, "samples"]]
    labels: Int[np.ndarray, "samples"]
    classes: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    told: Float[np.ndarray, "classes width"] | None = None
    teachers: Mapping[str, tuple[str, Float[np.ndarray, "samples width"]]] = field(
        default_factory=dict
    )

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.labels)


@dataclass
class PairReader:
    """Reads held-out pairs and encodes them; those of encoders with equal settings are read once.

    Videos and pictures give the samples of their middle; where training draws one (a stretch of a
    long recording, a window of a series), it is drawn by the seed, for all encoders alike.

    Args:
        run: whose options say how pairs are read where an encoder's own folder does not.
        data: the list; None takes the embedded test split, of runs on the embedded pairs.
        label_column: of classes; None is the run's own.
        template: what is said of a class, `{}` in place of its name.
        teachers: encoders of one kind of data, by name.
        limit: pairs at most.
        batch_size: samples a forward pass.
        seed: of what is drawn.
        sides: that take part, two or more; empty for all that the encoder has.
    """

    run: Path
    data: str | None = None
    label_column: str | None = None
    template: str = "{}"
    teachers: Mapping[str, Path] = field(default_factory=dict)
    limit: int | None = None
    batch_size: int = 64
    seed: int = 0
    sides: Sequence[str] = ()

    def __post_init__(self):
        self._stores: dict[tuple[Any, ...], PairStore] = {}

    def __call__(self, folder: Path) -> PairVectors:
        """The vectors of the encoder in a folder.

        Raises:
            ValueError: it is no encoder of pairs, or nothing says what to read.
        """
        encoder: JointEncoder = saved_encoder(folder, "pairs")
        encoder = encoder.only(self.sides or encoder.sides)
        return encode_pairs(
            encoder,
            self._store(folder),
            template=self.template,
            teachers={name: saved_encoder(path, *encoder.kinds.values())
                      for name, path in self.teachers.items()},
            batch_size=self.batch_size,
        )  # fmt: skip

    def _store(self, folder: Path) -> PairStore:
        about = _about(folder) or _about(self.run)
        if about is None:
            raise ValueError(
                f"Nothing says how {folder} reads pairs: there is no run.json beside it. Give the "
                "output folder of its run."
            )
        known = {f.name for f in dataclasses.fields(PairsOptions)}
        options = PairsOptions(**{k: v for k, v in about["encoder"].items() if k in known})
        files = sorted(p for name in (SETTINGS, "tokenizer.json") for p in folder.glob(f"*/{name}"))
        said = tuple(zlib.crc32(p.read_bytes()) for p in files)
        key = (json.dumps(dataclasses.asdict(options)), *said)
        if key not in self._stores:
            self._stores[key] = self._read(options, folder, about)
        return self._stores[key]

    def _read(self, options: PairsOptions, folder: Path, about: Mapping[str, Any]) -> PairStore:
        trained_on = about["data"]
        data, column = self.data, self.label_column or options.label_column
        if data is None and trained_on != options.corpus:
            raise ValueError(
                f"The run was trained on {trained_on}: name a list of pairs that it has not seen, "
                "with the same columns, by --data."
            )
        if data is None:
            from unlabel.data_pipes.synthetic_pairs import embedded_pairs

            data, column = str(embedded_pairs(split="test")), column or LABEL
        said = sides_of_run(about) or _saved(folder)
        taking = self.sides or said
        sides = {name: _middle(name, own) for name, own in said.items() if name in taking}
        own: dict[str, Any] = {"sides": sides, "label_column": column, "limit": self.limit}
        # What the recipe does not say of a side (its size), the encoder's own folder does.
        asked = dataclasses.replace(options, **own, pretrained=str(folder), shuffled=False)
        with TemporaryDirectory() as place:
            args = TrainingArguments(output_dir=place, seed=self.seed)
            return asked.prepare(data, Objective(), args, folder).store


def _about(folder: Path) -> dict[str, Any] | None:
    files = [place / "run.json" for place in (folder, folder.parent)]
    found = next((f for f in files if f.is_file()), None)
    return None if found is None else json.loads(found.read_text())


def _saved(folder: Path) -> dict[str, dict[str, Any]]:
    """The sides of an encoder that a run began with, which has told them."""
    return {name: {"kind": kind} for name, kind in saved_settings(folder)["sides"].items()}


def _middle(name: str, said: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a side, whose samples of pictures and videos are not drawn."""
    is_seen = said.get("kind", name) in ("frames", "video")
    return {**said, "start": "even", "hop": None, "clips": 1} if is_seen else dict(said)


@torch.inference_mode()
def encode_pairs(
    encoder: JointEncoder,
    store: PairStore,
    *,
    template: str = "{}",
    teachers: Mapping[str, Any] | None = None,
    batch_size: int = 64,
) -> PairVectors:
    """The vectors of all pairs of a store; a pair whose file went bad is left out.

    Args:
        encoder: of pairs.
        store: its samples.
        template: what is said of a class, `{}` in place of its name.
        teachers: encoders of one kind of data, by name.
        batch_size: pairs a forward pass.

    Raises:
        ValueError: under two pairs, or a teacher that cannot see a side of them.
    """
    encoder.eval()
    device, collate = next(encoder.parameters()).device, encoder.collator()
    seeing = {n: (_side_of(n, t, encoder), t.eval()) for n, t in (teachers or {}).items()}
    own: dict[str, list[np.ndarray]] = {n: [] for n in (*encoder.sides, *seeing)}
    shared: dict[str, list[np.ndarray]] = {n: [] for n in encoder.sides}
    alike: dict[str, list[int]] = {n: [] for n in encoder.sides}
    rows: list[int] = []
    for start in range(0, len(store), batch_size):
        places = range(start, min(start + batch_size, len(store)))
        drawn = [(p, store[p]) for p in places]
        samples = [sample for p, sample in drawn if sample["index"] == p]
        if not samples:
            continue
        rows += [sample["index"] for sample in samples]
        batch = collate(samples).to(device)
        for name, tower in encoder.towers.items():
            found = _pooled(tower, batch.sides[name])
            own[name].append(found.float().cpu().numpy())
            shared[name].append(encoder.project(name, found).numpy())
            alike[name] += [_number(sample["sides"][name]) for sample in samples]
        for name, (side, teacher) in seeing.items():
            own[name].append(_pooled(teacher, batch.sides[side]).float().cpu().numpy())
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} pairs came; one is to be found among others.")
    whole = {name: np.concatenate(parts).astype(np.float64) for name, parts in own.items()}
    return PairVectors(
        {name: unit_rows(np.concatenate(parts).astype(np.float64))
         for name, parts in shared.items()},
        {name: whole[name] for name in encoder.sides},
        {name: np.array(numbers) for name, numbers in alike.items()},
        store.labels[rows] if store.classes else np.full(len(rows), -1),
        store.classes,
        _texts(encoder),
        _told(encoder, store.classes, template),
        {name: (side, whole[name]) for name, (side, _) in seeing.items()},
    )  # fmt: skip


def _pooled(tower: Any, batch: Batch) -> torch.Tensor:
    return tower(tower.view(batch, view("plain"))).pooled


def _side_of(name: str, teacher: Any, encoder: JointEncoder) -> str:
    """The side of pairs that a teacher sees.

    Raises:
        ValueError: none, or it reads it in another way than the pairs' own encoder.
    """
    kind = teacher.settings["modality"]
    side = next((n for n, k in encoder.kinds.items() if k == kind), None)
    if side is None or kind == "text":
        raise ValueError(
            f"The teacher {name} is an encoder of {kind}; here it is one of "
            f"{', '.join(sorted(set(encoder.kinds.values()) - {'text'}))}. A text encoder is "
            "measured beside the text side by unlabel bench sts."
        )
    own = encoder.towers[side]
    for what in ("rate", "channels"):
        if getattr(own, what, None) != getattr(teacher, what, None):
            raise ValueError(
                f"The teacher {name} was made for {what}={getattr(teacher, what, None)}, but "
                f"{side} of the pairs is read with {what}={getattr(own, what, None)}."
            )
    return side


def _number(sample: Mapping[str, Any]) -> int:
    """A number of what the encoder is to see."""
    values = (np.ascontiguousarray(v) for k, v in sample.items() if k not in _BESIDE)
    return zlib.crc32(b"".join(v.tobytes() for v in values))


def _texts(encoder: JointEncoder) -> tuple[str, ...]:
    return tuple(name for name, kind in encoder.kinds.items() if kind == "text")


def _told(
    encoder: JointEncoder, classes: Sequence[str], template: str
) -> Float[np.ndarray, "classes width"] | None:
    if not classes or not _texts(encoder):
        return None
    return encoder.encode(_texts(encoder)[0], [template.format(name) for name in classes]).astype(
        np.float64
    )


__all__ = ["PairReader", "PairVectors", "encode_pairs"]
