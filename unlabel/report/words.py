"""A run's records in words and sensible digits, for the report."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from unlabel.training.waiting import waiting_alarm

About = Mapping[str, Any]
MINUS = "−"


# -- numbers ------------------------------------------------------------------------------------


def score(value: float | None, digits: int = 2) -> str:
    """`52.70`, or a dash where it is not defined."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 2) -> str:
    """`+21.50`."""
    text = score(value, digits)
    return text if text[0] in "–" + MINUS else f"+{text}"


def interval(cell: Mapping[str, Any], digits: int = 2) -> str:
    """`[20.10, 22.90]`, or nothing where there is none."""
    if cell["low"] is None or math.isnan(cell["low"]):
        return ""
    return f"[{score(cell['low'], digits)}, {score(cell['high'], digits)}]"


def significant(value: float | None) -> str:
    """Three significant digits: `8.25`, `0.0255`, `1,234`."""
    if value is None or not math.isfinite(value):
        return "not finite" if value is not None else "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", MINUS)
    if value and abs(value) < 1e-4:
        return f"{value:.0e}".replace("-", MINUS)
    return f"{value:#.3g}".rstrip(".").replace("-", MINUS)


def count(value: float | None) -> str:
    """`12,345`."""
    return "unknown" if value is None else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """`19.7 s`, `4 min 12 s`, `3 h 05 min`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def percent(share: float) -> str:
    """`3.1 %`."""
    return f"{100 * share:.1f} %"


def mean(values: Iterable[float]) -> float | None:
    """Plain mean, None of nothing."""
    found = list(values)
    return sum(found) / len(found) if found else None


def linked(text: str) -> Markup:
    """Text with each arXiv number a link, and with long paths breaking where they have joints."""
    link = r'<a href="https://arxiv.org/abs/\1">arXiv&nbsp;\1</a>'
    joints = re.sub(r"([/_])(?=\w)", r"\1<wbr>", str(escape(text)))
    return Markup(re.sub(r"arXiv (\d{4}\.\d{4,5})", link, joints))


FILTERS = {
    f.__name__: f for f in (score, signed, interval, significant, count, duration, percent, linked)
}


# -- what was trained ---------------------------------------------------------------------------


def summary(about: About, seeds: int) -> str:
    """One line: methods, data, samples, steps, seeds."""
    methods = " + ".join(name for name, _ in _methods(about.get("objective", {})))
    parts = [f"{methods or 'Unknown objective'} on {_data(about, short=True)}"]
    if about.get("samples"):
        parts.append(f"{about['samples']:,} samples")
    if steps := about.get("result", {}).get("steps"):
        parts.append(f"{steps:,} steps")
    if seeds > 1:
        parts.append(f"{seeds} seeds")
    return ", ".join(parts)


def unfinished(path: Path, about: About) -> str | None:
    """What to know of a run that did not end, else None."""
    result = about.get("result")
    if result is None:
        return (
            f"{path} has no result yet: it is still training, or was killed. Continue it with the "
            "same command and --resume true."
        )
    if not result.get("finished", True):
        return (
            f"{path} stopped early, at step {result['steps']:,}. Continue it with the same command "
            "and --resume true."
        )
    return None


def outdated(result: About, abouts: Sequence[About], folder: Path) -> str | None:
    """What to know of scores that are not of the weights that the runs have now, else None."""
    then, now = result.get("steps"), [a.get("result", {}).get("steps") for a in abouts]
    if not then or then == now or None in now:
        return None
    before, after = (" and ".join(f"{n:,}" for n in dict.fromkeys(steps)) for steps in (then, now))
    return (
        f"The scores of {result['benchmark']} are those after {before} steps, but now {after} are "
        f"made. Measure again with `unlabel bench {result['benchmark']} {folder}`."
    )


def facts(abouts: Sequence[About]) -> list[tuple[str, list[str]]]:
    """What was trained, as headings with lines below; empty ones left out."""
    about = abouts[0]
    results = [a.get("result", {}) for a in abouts]
    versions = [f"{name} {number}" for name, number in about.get("versions", {}).items()]
    seeds = [a.get("training", {}).get("seed") for a in abouts]
    found = {
        "Data": [_data(about), *filter(None, [about.get("read")])],
        "Objective": [line for _, line in _methods(about.get("objective", {}))],
        "Papers": [about["papers"]] if about.get("papers") else [],
        "Encoder": _encoder(about),
        "Training": _training(about),
        "Time": _each(results, "train_seconds", duration),
        "Samples per second": _each(results, "samples_per_second", count),
        "Waiting for data": _slow(results) or _each(results, "waiting_share", percent),
        "Padding": [
            _padding(r["padding"]) for r in results[:1] if any(r.get("padding", {}).values())
        ],
        "Skipped steps": _each(results, "skipped_steps", count),
        "Seeds" if len(seeds) > 1 else "Seed": [" · ".join(map(str, seeds))],
        "Versions": [", ".join(versions)] if versions else [],
    }
    return [(name, lines) for name, lines in found.items() if lines]


def _each(results: Sequence[About], key: str, show: Any) -> list[str]:
    values = [show(r[key]) for r in results if r.get(key) is not None]
    return [" · ".join(values)] if values else []


def _slow(results: Sequence[About]) -> list[str]:
    alarm = waiting_alarm(max((r.get("waiting_share", 0.0) for r in results), default=0.0))
    return [alarm] if alarm else []


def _data(about: About, *, short: bool = False) -> str:
    data = about.get("data", "unknown data")
    named = [data] if isinstance(data, str) else list(data)
    if short:
        named = [Path(n).name or n for n in named]
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    return ", ".join(named[:3]) + more


def _methods(objective: About, weighed: str = "") -> list[tuple[str, str]]:
    """Class and description of each method of an objective, the parts of a sum one by one."""
    if "parts" in objective:
        weights, balance = objective.get("weights", {}), objective.get("balance", "fixed")
        how = "" if balance == "fixed" else f", balanced by {balance}"
        parts = objective["parts"].items()
        return [
            m
            for n, p in parts
            for m in _methods(p, f"{weighed} (weight {_weight(weights.get(n, 1.0))}{how})")
        ]
    if "class" not in objective:
        return []
    settings = {k: v for k, v in objective.get("settings", {}).items() if v is not False}
    said = [spaced(k) + ("" if v is True else f" {v}") for k, v in settings.items()]
    shown = Counter(spaced(re.sub(r" \S+=False", "", v)) for v in objective.get("views", []))
    if shown:
        views = [f"{v} × {n}" if n > 1 else v for v, n in shown.items()]
        said.append(f"views: {', '.join(views)}")
    return [(objective["class"], f"{objective['class']}{weighed}: {'; '.join(said) or 'defaults'}")]


def _weight(weight: float | Sequence[Sequence[float]]) -> str:
    """A number, or the numbers at some steps between which a line runs."""
    if isinstance(weight, int | float):
        return f"{weight:g}"
    return ", ".join(f"{value:g} at step {step:g}" for step, value in weight)


def spaced(text: str) -> str:
    """A name or `key=value` of the code with blanks, as words."""
    return text.replace("_", " ").replace("=", " ")


def _encoder(about: About) -> list[str]:
    options = about.get("encoder", {})
    config = options.get("config") or {}
    sizes = {
        "num_hidden_layers": "blocks",
        "hidden_size": "wide",
        "d_model": "wide",
        "num_attention_heads": "heads",
    }
    shape = [f"{config[k]} {word}" for k, word in sizes.items() if k in config]
    start = options.get("pretrained")
    kind = about.get("architecture") or config.get("model_type", "encoder")
    named = f"started from {start}" if start else f"{kind}, new"
    lines = [", ".join([named, *([] if start else shape)])]
    if about.get("parameters"):
        lines.append(f"{about['parameters']:,} parameters")
    if "max_length" in options:
        pooling = options.get("pooling") or ("its own" if start else "mean")
        lines.append(f"{pooling} pooling, at most {options['max_length']} tokens")
    if "context" in options:
        lines.append(f"{options['context']} steps of context, channels {options['channels']}")
    if "size" in options:
        lines.append(f"{options.get('frames', 1)} frames of {options['size']} pixels a side")
    return lines if options else []


def _training(about: About) -> list[str]:
    training = about.get("training", {})
    if not training:
        return []
    batch = training.get("per_device_train_batch_size", "?")
    micro = training.get("gradient_accumulation_steps", 1)
    precision = next((p for p in ("bf16", "fp16") if training.get(p)), "float32")
    batches = f"batches of {batch}" + (f" × {micro} with shared negatives" if micro > 1 else "")
    steps = about.get("result", {}).get("steps")
    rate = f"learning rate {training.get('learning_rate', '?')}"
    schedule = str(training.get("lr_scheduler_type", "")).split(".")[-1].lower()
    return [
        ", ".join([f"{steps:,} steps"] * bool(steps) + [batches, precision]),
        f"{rate}, {schedule} schedule, {training.get('warmup_steps', 0):g} warm-up steps",
    ]


def _padding(share: Mapping[str, float]) -> str:
    return f"{percent(share['by_length'])}; {percent(share['shuffled'])} without sorting by length"
