"""Benchmarks of runs: before and after training, over the seeds that a run was trained from."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unlabel.benchmarks.baselines import whitened
from unlabel.benchmarks.result import BenchmarkResult, EncoderScores
from unlabel.embedding import Embedder, load_embedder, run_model_folder

Evaluate = Callable[[Any], BenchmarkResult]  # of what `load` loaded, a text `Embedder` by default


def seed_runs(path: Path) -> list[Path]:
    """The runs in a folder: itself, its `seed-N` folders, or none where it is no run."""
    if run_model_folder(path) is not None:
        return [path]
    seeds = sorted(path.glob("seed-*"), key=lambda p: (len(p.name), p.name))
    return [p for p in seeds if run_model_folder(p) is not None]


def refuse_unfit(
    path: str | Path,
    load: Callable[..., Any] = load_embedder,
    *,
    compare: Sequence[str | Path] = (),
    **loading: Any,
) -> None:
    """Load every encoder of a table once, so that what will not do is refused before the work.

    Args:
        path: as for `bench`; also `compare`, `load` and `loading`.
        load: makes the encoder of a folder.
        compare: further ones.
        loading: options of `load`.
    """
    for name, folders in _groups(Path(path), compare):
        for folder in folders:
            load(folder, name=name, **loading)


def bench(
    path: str | Path,
    evaluate: Evaluate,
    *,
    compare: Sequence[str | Path] = (),
    controls: Sequence[BenchmarkResult] = (),
    whiten_on: Sequence[str] = (),
    output: str | Path | None = None,
    load: Callable[..., Any] = load_embedder,
    **loading: Any,
) -> BenchmarkResult:
    """Measure a run before and after training (or any encoder), print the table and save it.

    A run of several seeds gives means over them; each seed's own result is saved with it too.

    Args:
        path: a run's folder, or anything `load` takes.
        evaluate: measures one encoder.
        compare: further runs (after training) or encoders for the same table.
        controls: results that go into the same table.
        whiten_on: sentences; measure the encoder at `path` also whitened by them.
        output: JSON file; default `results/<benchmark>.json` in the run's folder, else none.
        load: makes the encoder of a folder, given its name in the table.
        loading: options of `load`.
    """
    path = Path(path)
    runs = seed_runs(path)
    groups = _groups(path, compare, [e.name for c in controls for e in c.encoders])
    own = len(groups) - len(compare)
    name, folders = groups[own - 1]
    if whiten_on:
        groups.append((f"{name}, whitened", folders))

    def measure(name: str, folder: Path) -> BenchmarkResult:
        embed = load(folder, name=name, **loading)
        if name.endswith(", whitened"):
            embed = replace(embed, encode=_whitened(embed, list(whiten_on)))
        return evaluate(embed)

    found = [[measure(name, folder) for folder in folders] for name, folders in groups]
    if len(runs) > 1:
        for i, run in enumerate(runs):
            mine = replace(_merge([r[i] for r in found[:own]]), steps=_steps([run]))
            mine.save(run / "results" / f"{_kind(found)}.json")
    pooled = [
        replace(
            several[0],
            encoders=(EncoderScores.over_seeds(name, [r.encoders[0] for r in several]),),
        )
        for (name, _), several in zip(groups, found, strict=True)
    ]
    result = replace(_merge([*pooled, *controls]), steps=_steps(runs))
    result.print()
    if output or runs:
        result.save(output or path / "results" / f"{result.benchmark}.json")
    return result


def _steps(runs: Sequence[Path]) -> tuple[int, ...]:
    """That each run has made; none where one does not say."""
    files = [run / "run.json" for run in runs]
    abouts = [json.loads(f.read_text()) for f in files if f.is_file()]
    found = [a["result"]["steps"] for a in abouts if "result" in a]
    return tuple(found) if len(found) == len(runs) else ()


def _names(folders: Sequence[Path], taken: Sequence[str]) -> list[str]:
    """Names of folders, with as much of the path before as tells them from others in the table."""
    found = [folder.name for folder in folders]
    for depth in range(2, max((len(f.parts) for f in folders), default=0) + 1):
        often = Counter([*taken, *found])
        longer = [str(Path(*folder.parts[-depth:])) for folder in folders]
        found = [b if often[a] > 1 else a for a, b in zip(found, longer, strict=True)]
    return found


def _groups(
    path: Path, compare: Sequence[str | Path], taken: Sequence[str] = ()
) -> list[tuple[str, list[Path]]]:
    """Columns of the table: a name that none of the `taken` has, and the folders of its seeds."""
    runs = seed_runs(path)
    groups: list[tuple[str, list[Path]]] = [(path.name, [path])]
    if runs:
        groups = [("trained", [r / "model" for r in runs])]
        if all((r / "untrained" / "config.json").is_file() for r in runs):
            groups.insert(0, ("untrained", [r / "untrained" for r in runs]))
    others = [Path(c) for c in compare]
    names = _names(others, [*taken, *(n for n, _ in groups)])
    return groups + [(n, seed_runs(c) or [c]) for n, c in zip(names, others, strict=True)]


def _whitened(embed: Embedder, sentences: list[str]) -> Any:
    plain = whitened(embed, sentences)
    return lambda texts, batch_size: plain(texts)


def _kind(found: list[list[BenchmarkResult]]) -> str:
    return found[0][0].benchmark


def _merge(results: Sequence[BenchmarkResult]) -> BenchmarkResult:
    merged = results[0]
    for result in results[1:]:
        merged = merged + result
    return merged
