"""`unlabel report`: one HTML file to look at, made from what a run saved; no model is loaded."""

import logging
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from unlabel.benchmarks.clip_pictures import masks_html, neighbours_html
from unlabel.report import figures, pairs, samples, words
from unlabel.report.runs import Run, read_results, read_runs
from unlabel.report.scores import ScoreTable, score_table, verdict
from unlabel.report.templates import environment, version
from unlabel.training.monitors import alarms

logger = logging.getLogger(__name__)
# The first one to run, by modality.
BENCHMARK = {
    "text": "sts",
    "series": "forecasting",
    "frames": "actions",
    "video": "actions",
    "audio": "sounds",
    "pairs": "retrieval",
}
THINGS = {
    "series": "test windows",
    "frames": "test clips",
    "video": "test clips",
    "audio": "recordings",
    "pairs": "held-out pairs",
}
# Benchmarks with a picture of their own whose scores are of one scale, so drawn as dots too.
DOTTED = ("actions", "propagation")
# What the picture of a benchmark shows.
SHOWS = {
    "actions": "Held-out clips, and what each encoder finds nearest in the train part.",
    "propagation": "True masks, and those carried from the first frame.",
    "retrieval": "R@1: the side of a row finds the one of a column.",
    "space": "The shared space by its first two principal axes; grey lines join the sides of a "
    "sample.",
}
MEANING = {
    "sts": "Spearman correlation with human judgements of similarity, ×100",
    "retrieval": "Share of queries that find what belongs to them",
    "space": "Ranks, gaps and spread of the sides in their space",
    "forecasting": "Error on standardised values; lower is better",
    "sounds": "Share of recordings that a probe names rightly",
    "actions": "Share of clips of unseen people and scenes that a probe names rightly",
    "propagation": "Overlap of carried masks with the true ones",
    "alignment": "Distance in time to the nearest frame of another view; lower is better",
}


def report(run: str) -> Path:
    """Write `report.html` in a run's output folder, from what is saved there alone.

    The file needs no network and no other file. What is missing is said in it, with the command
    that makes it.

    Args:
        run: a run's output folder, or one that holds `seed-0`, `seed-1`, ... of them.

    Raises:
        ValueError: no run in the folder, a file of it is broken, or seeds measured differently.
    """
    folder = Path(run)
    page = _render(folder, read_runs(folder))
    path = folder / "report.html"
    temporary = path.with_suffix(".tmp")
    # Sentences may hold halves of surrogate pairs, which UTF-8 has no bytes for.
    temporary.write_text(page, encoding="utf-8", errors="replace")
    temporary.replace(path)
    logger.info("Wrote %s.", path)
    return path


def _render(folder: Path, runs: list[Run]) -> str:
    lead = runs[0]
    tables = score_tables(folder, runs)
    pages = environment()
    pages.filters.update(words.FILTERS)
    pictures = _pictures(read_results(folder) or lead.results)
    dotted = {t.benchmark: t for t in tables if t.has_gain and len(t.rows) > 1}
    dotted = {name: t for name, t in dotted.items() if name not in pictures or name in DOTTED}
    return pages.get_template("page.html.j2").render(
        title=folder.resolve().name,
        modality=(modality := lead.about.get("modality", "text")),
        benchmark=BENCHMARK.get(modality, "sts"),
        things=THINGS.get(modality, "pairs"),
        folder=shlex.quote(str(folder)),  # as it is typed in a shell
        lead=shlex.quote(str(lead.path)),
        seeds=len(runs),
        facts=words.facts([r.about for r in runs]),
        summary=words.summary(lead.about, len(runs)),
        state=_state(folder, runs),
        tables=tables,
        meaning=MEANING,
        verdict=verdict,
        dots={name: _dots(table) for name, table in dotted.items()},
        forecasts=_forecasts(read_results(folder) or lead.results),
        pictures=pictures,
        shows=SHOWS,
        losses=_losses(runs),
        monitors=_monitors(runs),
        warnings=_warnings(runs),
        profile=lead.profile,
        views=samples.views(lead.first_batch),
        filled=samples.views(lead.first_batch, "filled"),
        pictured=(lead.first_batch or {}).get("pictured", ""),
        drawn=samples.views((lead.first_batch or {}).get("drawn")),
        neighbours=lead.results.get("neighbours"),
        maps=samples.maps(lead.results.get("map")),
        made_by=version(),
    )


def score_tables(folder: Path, runs: Sequence[Run]) -> list[ScoreTable]:
    """One table for each benchmark that the run, or its seeds together, was measured on."""
    together = runs[0].results if runs[0].path == folder else read_results(folder)
    names = [n for n, result in together.items() if "encoders" in result]
    seeds = [r for r in runs if r.path != folder]
    first = "retrieval" if runs[0].about.get("modality") == "pairs" else "sts"
    return [
        score_table(together[n], {r.path.name: r.results[n] for r in seeds if n in r.results})
        for n in sorted(names, key=lambda n: (n != first, n))
    ]


def _state(folder: Path, runs: Sequence[Run]) -> list[str]:
    """What to know of runs that did not end, and of scores from before they went on."""
    results = (runs[0].results if runs[0].path == folder else read_results(folder)).values()
    abouts = [run.about for run in runs]
    said = [words.unfinished(run.path, run.about) for run in runs]
    # `space` is measured with `retrieval`, and says the same.
    scores = [r for r in results if "encoders" in r and r["benchmark"] != "space"]
    said += [words.outdated(result, abouts, folder) for result in scores]
    return [sentence for sentence in said if sentence]


def _dots(table: ScoreTable) -> Any:
    rows = [(row.name, *table.side(row)[:2]) for row in table.rows]
    return figures.dots(rows, label=f"{table.benchmark}: scores before and after training")


def _forecasts(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Pictures of the forecasts kept by `bench forecasting`, beside the best control's."""
    shown = ("ridge on values", "untrained", "trained")
    panels = []
    for name, one in results.get("forecasting_examples", {}).items():
        lines = {k: one["encoders"][k] for k in shown if k in one["encoders"]}
        label = f"{name}: forecasts of {one['channel']} by {', '.join(lines)}"
        svg = figures.forecast(one["history"], one["truth"], lines, label=label)
        panels.append({"name": f"{name}, {one['channel']}", "svg": svg})
    return panels


def _pictures(results: Mapping[str, Any]) -> dict[str, Markup]:
    """Pictures kept by the benchmarks of clips and of pairs, by benchmark."""
    shown = {"actions": neighbours_html, "propagation": masks_html}
    kept = {name: results.get(f"{name}_examples") or {} for name in shown}
    found = {name: draw(kept[name]) for name, draw in shown.items() if kept[name]}
    drawn = {"retrieval": pairs.heat_maps(results), "space": pairs.planes(results)}
    return found | {name: picture for name, picture in drawn.items() if picture is not None}


def _panel(runs: Sequence[Run], key: str, name: str, level: float | None = None) -> dict[str, Any]:
    curves = [c for r in runs if (c := r.curve(key))[0]]
    return {
        "name": name,
        "level": level,
        "first": words.mean(values[0] for _, values in curves),
        "last": words.mean(values[-1] for _, values in curves),
        "svg": figures.lines(curves, level=level, label=f"{name} against the training step"),
    }


def _losses(runs: Sequence[Run]) -> list[dict[str, Any]]:
    keys = list(dict.fromkeys(k for r in runs for line in r.log for k in line))
    terms = [k.removeprefix("objective/") for k in keys if k.startswith("objective/")]
    panels = []
    for term in terms:
        chance = next((v[-1] for r in runs if (v := r.curve(f"chance/{term}")[1])), None)
        panels.append(_panel(runs, f"objective/{term}", term.replace("/", " / "), chance))
    if len(terms) > 1:
        panels.insert(0, _panel(runs, "loss", "weighted sum"))
    for part in (k.removeprefix("share/") for k in keys if k.startswith("share/")):
        panels.append(_panel(runs, f"share/{part}", f"{part}: share of the gradient"))
    if "grad_norm" in keys:
        panels.append(_panel(runs, "grad_norm", "gradient norm"))
    return panels


def _ceiling(run: Run) -> float:
    """The highest rank about the mean that width and batch allow."""
    training = run.about.get("training", {})
    batch = training.get("per_device_train_batch_size", math.inf)
    rows = batch * training.get("gradient_accumulation_steps", 1)
    rows = min(rows, training.get("monitor_rows") or math.inf)
    return min(run.width or math.inf, rows - 1)


def _monitors(runs: Sequence[Run]) -> list[dict[str, Any]]:
    logged = {k for r in runs for line in r.log for k in line}
    if "monitor/std" not in logged:
        return []
    ceiling = _ceiling(runs[0])
    panels = [
        _panel(runs, "monitor/std", "std of embeddings", 1.0),
        _panel(
            runs,
            "monitor/effective_rank",
            "effective rank",
            ceiling if math.isfinite(ceiling) else None,
        ),
    ]
    if "monitor/alignment" not in logged:
        return [*panels, _panel(runs, "monitor/uniformity", "uniformity")]
    curves = [(r.curve("monitor/uniformity")[1], r.curve("monitor/alignment")[1]) for r in runs]
    svg = figures.path(
        [(x, y) for x, y in curves if len(x) == len(y)],
        names=("uniformity", "alignment"),
        label="alignment against uniformity, from the first step to the last",
    )
    return [*panels, {"name": "alignment against uniformity", "svg": svg, "level": None}]


def _warnings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each kind of alarm: in which runs and steps it sounded, and its first sentence."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        for line in run.log:
            for sentence in _alarms(run, line):
                kind = re.sub(r"\d[\d.e+-]*", "", sentence)
                seen = found.setdefault(kind, {"sentence": sentence, "runs": {}, "steps": []})
                seen["runs"][run.path.name] = None
                seen["steps"].append(line["step"])
    return [
        {**w, "runs": list(w["runs"]), "first": min(w["steps"]), "last": max(w["steps"])}
        for w in found.values()
    ]


def _alarms(run: Run, line: Mapping[str, Any]) -> list[str]:
    monitored = {k.removeprefix("monitor/"): v for k, v in line.items() if "monitor/" in k}
    monitored.pop("waiting", None)  # told beside the training time, and no sign of collapse
    if not monitored:
        return []
    ceiling = _ceiling(run)
    terms = {
        k.removeprefix("objective/"): (v, line.get(k.replace("objective/", "chance/", 1)))
        for k, v in line.items()
        if k.startswith("objective/")
    }
    if not math.isfinite(ceiling):  # nothing tells how high the rank could be
        monitored.pop("effective_rank", None)
        ceiling = 1.0
    began = {k.removeprefix("untrained/"): v for k, v in line.items() if "untrained/" in k}
    return alarms({**monitored, "rows": ceiling + 1}, terms, run.width or int(ceiling), began)


__all__ = ["report"]
