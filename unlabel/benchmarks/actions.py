"""Actions in videos, recognised by simple probes of a frozen encoder, with what needs none beside.

Splits keep a person or a scene in one part: weizmann9 leaves one subject out, surveillance_fights
has folds of whole scenes, the embedded videos have a test part from another seed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import nn

from unlabel.benchmarks.actions_data import control_features, load_actions, read_views
from unlabel.benchmarks.clip_pictures import neighbour_examples
from unlabel.benchmarks.labelled import Labelled, apart
from unlabel.benchmarks.probes import (
    Probe,
    accuracy,
    control_scores,
    probe_result,
    probe_scores,
)
from unlabel.benchmarks.result import BenchmarkResult, EncoderScores, Score
from unlabel.benchmarks.runs import bench, refuse_unfit, seed_runs
from unlabel.benchmarks.saved import projector_layers, saved_encoder
from unlabel.benchmarks.tuning import Tuning, tuned_accuracy
from unlabel.modalities.visual import VisualEncoder

Views = list[list[np.ndarray]]  # clips of each file
ReadViews = Callable[[Labelled, VisualEncoder], Views]
PICTURES = 8  # frames of a video that an encoder of single frames sees
CLIPS = 3
SETTING = "top-1 and R@k x100 on held-out persons or scenes, probes of frozen features"
NOTE = (
    "one frame: the same encoder sees the middle frame of each clip, repeated. R@k: one of the k "
    "nearest train videos by cosine shows the action."
)


def video_features(
    encoder: VisualEncoder, views: Views, *, one_frame: bool = False, batch_size: int = 32
) -> Float[np.ndarray, "files width"]:
    """Mean of the vectors of a video's clips.

    Args:
        encoder: frozen.
        views: clips of each file.
        one_frame: show the middle frame of each clip alone, repeated; order and motion are gone.
        batch_size: clips a forward pass.
    """
    clips = [clip for video in views for clip in video]
    if one_frame:
        clips = [np.repeat(c[len(c) // 2 : len(c) // 2 + 1], len(c), axis=0) for c in clips]
    found = encoder.encode(clips, batch_size=batch_size)
    ends = np.cumsum([len(video) for video in views])
    return np.stack([part.mean(axis=0) for part in np.split(found, ends[:-1])])


def evaluate_actions(
    encoder: VisualEncoder,
    data: Sequence[Labelled],
    *,
    probes: Sequence[Probe] | None = None,
    stride: int = 1,
    clips: int | None = None,
    one_frame: bool = True,
    tuning: Tuning | None = None,
    below: nn.Module | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
    name: str = "encoder",
    read: ReadViews | None = None,
) -> BenchmarkResult:
    """Accuracy x100 of probes on held-out videos, and retrieval, of one encoder.

    Args:
        encoder: of clips or single frames.
        data: the sets.
        probes: default `logistic` and the set's own number of neighbours.
        stride: frames of the video from one frame of a clip to the next; as in training.
        clips: of a video, whose vectors are averaged; default 3, of an encoder of single frames 8.
        one_frame: probe what the encoder makes of a single frame, too.
        tuning: fine-tune a copy of the encoder on the train part of every fold, too.
        below: layers between the encoder's vector and the head then.
        bootstrap: resamples of the held-out groups; 0 for no intervals.
        seed: of folds, resamples and fine-tuning.
        batch_size: clips a forward pass.
        name: in the table.
        read: clips of a set, where they are kept from encoder to encoder.
    """
    read = read or kept_views(stride=stride, clips=clips)
    scores: dict[str, Score] = {}
    examples: dict[str, Any] = {}
    options: dict[str, Any] = {"probes": probes, "bootstrap": bootstrap, "seed": seed}
    for one in data:
        views = read(one, encoder)
        found = video_features(encoder, views, batch_size=batch_size)
        scores |= probe_scores(one, found, **options)
        examples |= _examples(one, found, [video[0] for video in views], name)
        if one_frame and encoder.frames > 1:
            still = video_features(encoder, views, one_frame=True, batch_size=batch_size)
            scores |= probe_scores(one, still, **options, ks=(), row="one frame")
        if tuning is not None:
            more = {"below": below, "seed": seed}
            for how, right in tuned_accuracy(encoder, one, views, tuning, **more).items():
                own = accuracy(one, right, bootstrap=bootstrap, seed=seed)
                scores[f"{one.name} {how}"] = own
    return replace(_result(EncoderScores(name, scores), data), examples=examples)


def _examples(
    data: Labelled, found: np.ndarray, clips: Sequence[np.ndarray], name: str
) -> dict[str, Any]:
    drawn = neighbour_examples(found, clips, data.label.tolist(), data.folds[0])
    return {
        f"{data.name} {i}": {
            "strip": one["strip"],
            "label": one["label"],
            "encoders": {name: one["nearest"]},
        }
        for i, one in enumerate(drawn)
    }


def evaluate_controls(
    data: Sequence[Labelled],
    *,
    probes: Sequence[Probe] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> list[BenchmarkResult]:
    """What needs no encoder: the middle frame, the mean of all, and where something moves, 16x16.

    Args:
        data: the sets.
        probes: as for `evaluate_actions`; also `bootstrap`, `seed`.
        bootstrap: resamples.
        seed: of folds and resamples.
    """
    found = [control_features(one) for one in data]
    return [
        _result(own, data)
        for own in control_scores(data, found, probes=probes, bootstrap=bootstrap, seed=seed)
    ]


def _result(scores: EncoderScores, data: Sequence[Labelled]) -> BenchmarkResult:
    return probe_result("actions", SETTING, NOTE, scores, data)


def kept_views(*, stride: int, clips: int | None = None) -> ReadViews:
    """A reader that decodes a set once for all encoders that see it in the same way."""
    kept: dict[Any, Views] = {}

    def read(data: Labelled, encoder: VisualEncoder) -> Views:
        many = clips or (PICTURES if encoder.frames == 1 else CLIPS)
        how = {"frames": encoder.frames, "size": encoder.size, "stride": stride, "clips": many}
        key = (data.name, *how.values())
        if key not in kept:
            kept[key] = read_views(data, **how)
        return kept[key]

    return read


def load_visual_encoder(path: str | Path, *, device: str | None = None) -> VisualEncoder:
    """An encoder of frames or clips, see `saved_encoder`."""
    return saved_encoder(path, "frames", "video", device=device)


def trained_stride(path: str | Path) -> int:
    """Stride of the clips that a run was trained on; 1 where it does not say.

    Of a run of pairs, or the folder of one side of it, that of the side.
    """
    place = Path(path)
    for run in [place, *seed_runs(place), place.parent.parent]:
        file = run / "run.json"
        about: Mapping[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
        options = about.get("encoder") or {}
        sides = options.get("sides") or {}
        seen = [s for n, s in sides.items() if s.get("kind", n) == "video"]
        own = sides.get(place.name) or (seen[0] if len(seen) == 1 else options)
        if found := own.get("stride"):
            return int(found)
    return 1


def bench_actions(
    path: str | Path,
    *,
    compare: Sequence[str] = (),
    controls: bool = True,
    sets: Sequence[str] = ("embedded",),
    folder: str | Path | None = None,
    probes: Sequence[Probe] | None = None,
    stride: int | None = None,
    clips: int | None = None,
    one_frame: bool = True,
    finetune: bool = False,
    tuning: Tuning | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
    device: str | None = None,
    output: str | Path | None = None,
) -> BenchmarkResult:
    """Recognise actions from a frozen encoder, or a run before and after training.

    Args:
        path: a run's output folder (both its untrained and its trained encoder are probed, as
            means over its seeds), or the folder of a saved encoder of frames or clips.
        compare: further runs (after training) or encoders for the same table.
        controls: probe what needs no encoder, too: the middle frame, mean pixels, the mean
            difference of neighbouring frames.
        sets: `embedded`, `weizmann9`, `surveillance_fights`, `multiview_gestures`; a folder of
            class folders, a CSV list with columns `path` and `label` (and `split`, `fold` or
            `group`), or `hf:name[:config[:split]]`.
        folder: that has the named sets; default `$UNLABEL_DATA/video`. `embedded` is kept in the
            user's cache directory.
        probes: default `logistic` and the set's own number of nearest neighbours.
        stride: frames from one frame of a clip to the next; default as the run was trained.
        clips: of a video, whose vectors are averaged; default 3, of an encoder of single frames 8.
        one_frame: probe what the encoder makes of a single frame, too.
        finetune: train all weights with a linear head on the train part of every fold, too; in the
            column of the untrained encoder that is supervised training from scratch.
        tuning: how, with `finetune`.
        bootstrap: resamples for the intervals.
        seed: of folds, resamples and fine-tuning.
        batch_size: clips a forward pass.
        device: as for torch; a GPU where there is one.
        output: JSON file; default `results/actions.json` in a run's output folder.

    Reference: Xu et al. 2019 (VCOP), section 4.3, for retrieval.
    """
    how = (tuning or Tuning()) if finetune else None

    def load(path: Path, name: str) -> tuple[VisualEncoder, dict[str, Any]]:
        below = projector_layers(path, how.projector_layers) if how else None
        return load_visual_encoder(path, device=device), {"name": name, "below": below}

    refuse_unfit(path, load, compare=compare)
    names = list(dict.fromkeys(sets))
    data = apart(names, [load_actions(name, folder, seed=seed) for name in names])
    shared: dict[str, Any] = {"probes": probes, "bootstrap": bootstrap, "seed": seed}
    step = stride or trained_stride(path)
    own = {
        **shared, "one_frame": one_frame, "tuning": how,
        "batch_size": batch_size, "read": kept_views(stride=step, clips=clips),
    }  # fmt: skip
    return bench(
        path,
        lambda loaded: evaluate_actions(loaded[0], data, **loaded[1], **own),
        compare=compare,
        controls=evaluate_controls(data, **shared) if controls else (),
        output=output,
        load=load,
    )


__all__ = ["bench_actions", "evaluate_actions", "evaluate_controls", "kept_views",
           "load_visual_encoder", "trained_stride", "video_features"]  # fmt: skip
