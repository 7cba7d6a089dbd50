"""The model card of an exported encoder: what it is, how it was trained, what it scores."""

import json
from pathlib import Path
from typing import Any

from unlabel.data_pipes.video_windows import STEPS
from unlabel.joint_card import about_joint, about_side
from unlabel.modalities.audio import AudioEncoder
from unlabel.modalities.joint import JointEncoder
from unlabel.modalities.series import SeriesEncoder
from unlabel.modalities.text import TextEncoder
from unlabel.modalities.visual import VisualEncoder

AnyEncoder = TextEncoder | SeriesEncoder | VisualEncoder | AudioEncoder
Whole = tuple[JointEncoder, str]  # the encoder of pairs that an encoder is a side of, and its name

_SENTENCE_TRANSFORMERS = """\
```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
embeddings = model.encode(["A man plays the guitar.", "Someone makes music."])
print(model.similarity(embeddings, embeddings))
```"""

_TRANSFORMERS = """\
```python
import torch
from transformers import AutoModel, AutoTokenizer

folder = "path/to/this/folder"
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
inputs = tokenizer(
    ["A man plays the guitar.", "Someone makes music."],
    padding=True, truncation=True, max_length={max_length}, return_tensors="pt",
)
with torch.no_grad():
    output = model(**inputs, output_hidden_states=True)
mask = inputs["attention_mask"].unsqueeze(-1)
embeddings = {pooling}
```"""

_SERIES = """\
```python
import numpy as np
from unlabel.modalities.series import SeriesEncoder

encoder = SeriesEncoder.from_pretrained("path/to/this/folder")
values = np.random.default_rng(0).normal(size=(2, {context}, {channels})).cumsum(axis=1)
embeddings = encoder.encode(values)  # one vector a series; NaN stands for a missing value
```

{forecasts}The weights alone load with `transformers.AutoModel`, which neither normalises a
window nor marks its gaps{own}."""

_TABLE = """\
```python
from unlabel.data_pipes.series import read_series
from unlabel.modalities.series import SeriesEncoder
from unlabel.series_embedding import embed_series

encoder = SeriesEncoder.from_pretrained("path/to/this/folder")
columns = {{"covariates": {covariates}, "static": {static}}}  # by the names of your table
table = read_series("series.csv", time_gap={time_gap}, **columns)
embeddings = embed_series(encoder, table)["embedding"]  # one vector a series and channel
```

{forecasts}The weights alone load with `transformers.AutoModel`, which neither normalises a
window nor marks its gaps{own}."""

_FORECASTS = '`unlabel.Forecaster("path/to/this/folder", prediction_length=24)` forecasts with it. '

_VISUAL = """\
```python
import numpy as np
from unlabel.modalities.visual import VisualEncoder

encoder = VisualEncoder.from_pretrained("path/to/this/folder")
clips = np.random.default_rng(0).integers(0, 256, (2, {frames}, {size}, {size}, 3), np.uint8)
embeddings = encoder.encode(clips)  # one vector a clip; RGB, of any size and number of frames
```

The weights alone load with `transformers.AutoModel`, the image processor with
`AutoImageProcessor`{own}."""

_AUDIO = """\
```python
import numpy as np
from unlabel.modalities.audio import AudioEncoder

encoder = AudioEncoder.from_pretrained("path/to/this/folder")
sounds = list(np.random.default_rng(0).normal(size=(2, 2 * {rate})).astype(np.float32))
embeddings = encoder.encode(sounds, rate={rate})  # one vector a recording
```

The weights alone load with `transformers.AutoModel`, which makes no spectrogram{own}."""

_POOLINGS = {
    "cls": "output.last_hidden_state[:, 0]",
    "mean": "(output.last_hidden_state * mask).sum(1) / mask.sum(1)",
    "first_last": (
        "((output.hidden_states[1] + output.hidden_states[-1]) / 2 * mask).sum(1) / mask.sum(1)"
    ),
}


def model_card(
    encoder: AnyEncoder | JointEncoder,
    run: Path,
    *,
    to: str,
    normalize: bool = False,
    of: Whole | None = None,
) -> str:
    """The README.md of an export.

    Args:
        encoder: the exported encoder.
        run: its run's output folder, for `run.json` and `results/*.json`; both may be missing.
        to: format, as for `export`.
        normalize: whether the export ends in vectors of length 1.
        of: the encoder of pairs that it is a side of, and which.
    """
    file = run / "run.json"
    about = json.loads(file.read_text()) if file.is_file() else {}
    results = [json.loads(p.read_text()) for p in sorted(run.glob("results/*.json"))]
    parts = [
        *_about(encoder, to, normalize),
        about_side(*of, projected=to == "sentence-transformers") if of else "",
        _training(about),
        *(_scores(r) for r in results if "encoders" in r),
        _papers(about),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(encoder: AnyEncoder | JointEncoder, to: str, normalize: bool) -> tuple[str, str, str]:
    if isinstance(encoder, JointEncoder):
        return _front_matter(to, "feature-extraction", *encoder.kinds.values()), *about_joint(
            encoder
        )
    if isinstance(encoder, SeriesEncoder):
        return _about_series(encoder, to)
    if not isinstance(encoder, TextEncoder):
        return _about_media(encoder, to)
    front = _front_matter(to, "sentence-similarity", "sentence-similarity")
    return front, _what(encoder, normalize), _usage(encoder, to)


def _front_matter(to: str, task: str, *more: str) -> str:
    tags = ["unlabel", "feature-extraction", "self-supervised", *more]
    lines = [f"library_name: {to}", f"pipeline_tag: {task}", "tags:"]
    return "\n".join(["---", *lines, *(f"- {tag}" for tag in tags), "---"])


def _imported(encoder: AnyEncoder) -> str:
    """What `AutoModel` wants before, where the model is ours."""
    is_own = type(encoder.model).__module__.startswith("unlabel.")
    return ", once `unlabel.modalities` is imported" if is_own else ""


def _millions(encoder: AnyEncoder) -> str:
    parameters = sum(p.numel() for p in encoder.parameters())
    return f"A {type(encoder.model).__name__} with {parameters / 1e6:.1f} million parameters"


def _what(encoder: TextEncoder, normalize: bool) -> str:
    length = ", scaled to length 1" if normalize else ""
    return (
        f"# Sentence encoder\n\n{_millions(encoder)}, "
        "pretrained without labels by unlabel. It turns a sentence of up to "
        f"{encoder.max_length} tokens into {encoder.width} numbers (pooling: {encoder.pooling}"
        f"{length}); compare two by their cosine."
    )


def _usage(encoder: TextEncoder, to: str) -> str:
    code = _SENTENCE_TRANSFORMERS
    if to == "transformers":
        code = _TRANSFORMERS.format(
            max_length=encoder.max_length, pooling=_POOLINGS[encoder.pooling]
        )
    return f"## Use\n\n{code}"


def _about_series(encoder: SeriesEncoder, to: str) -> tuple[str, str, str]:
    front = _front_matter(to, "time-series-forecasting", "time-series")
    channels = "one channel" if encoder.channels == 1 else f"{encoder.channels} channels"
    what = (
        f"# Encoder of time series\n\n{_millions(encoder)}, "
        f"pretrained without labels by unlabel. It turns {encoder.context} steps of {channels} "
        f"(patches of {encoder.patch}, normalised: {encoder.norm}) into {encoder.width} numbers "
        f"(pooling: {encoder.pooling})."
    )
    about = {"context": encoder.context, "channels": encoder.channels, "own": _imported(encoder)}
    about["forecasts"] = "" if encoder.time_gap else _FORECASTS
    if any(encoder.kinds):
        gaps = encoder.time_gap is not None
        counts = {"covariates": encoder.kinds[0] - gaps, "static": encoder.kinds[1]}
        about |= {k: [f"{k}_{i}" for i in range(n)] for k, n in counts.items()}
        about["time_gap"] = encoder.time_gap or False
    return front, what, "## Use\n\n" + (_TABLE if any(encoder.kinds) else _SERIES).format(**about)


def _about_media(encoder: VisualEncoder | AudioEncoder, to: str) -> tuple[str, str, str]:
    if isinstance(encoder, AudioEncoder):
        task, kind, code = (
            "feature-extraction",
            "sound",
            _AUDIO.format(rate=encoder.rate, own=_imported(encoder)),
        )
        sees = f"{encoder.seconds:g} seconds at {encoder.rate:,} Hz"
    else:
        kind = "pictures" if encoder.frames == 1 else "video"
        task = "image-feature-extraction" if encoder.frames == 1 else "video-classification"
        code = _VISUAL.format(frames=encoder.frames, size=encoder.size, own=_imported(encoder))
        sees = f"{encoder.frames} frames of {encoder.size} x {encoder.size} pixels"
    what = (
        f"# Encoder of {kind}\n\n{_millions(encoder)}, pretrained without labels by unlabel. It "
        f"turns {sees} into {encoder.width} numbers (pooling: {encoder.pooling})."
    )
    return _front_matter(to, task, kind), what, f"## Use\n\n{code}"


def _training(about: dict[str, Any]) -> str:
    if not about:
        return ""
    result, training = about.get("result", {}), about.get("training", {})
    facts = {
        "data": _data(about.get("data")),
        "read": about.get("read"),
        "samples": about.get("samples"),
        **{k: (about.get("encoder") or {}).get(k) for k in STEPS},
        "started from": (about.get("encoder") or {}).get("pretrained") or "random weights",
        "steps": result.get("steps"),
        "seconds": result.get("train_seconds"),
        "seed": training.get("seed"),
        "learning rate": training.get("learning_rate"),
        "batch size on a device": training.get("per_device_train_batch_size"),
        "versions": ", ".join(f"{k} {v}" for k, v in about.get("versions", {}).items()),
    }
    lines = [f"- {name}: {value}" for name, value in facts.items() if value not in (None, "")]
    objective = "\n".join(_objective(about["objective"])) if about.get("objective") else ""
    return "## Training\n\n" + "\n".join([objective, *lines] if objective else lines)


def _data(data: Any) -> str | None:
    # File names only: the folders they lie in are the trainer's business, not the reader's.
    sources = [data] if isinstance(data, str) else data or []
    return ", ".join(s if s.startswith("hf:") else Path(s).name for s in sources) or None


def _objective(said: dict[str, Any], weight: float | None = None) -> list[str]:
    factor = "" if weight is None else f" (weight {weight:g})"
    if "parts" in said:
        weights = said.get("weights", {})
        parts = [_objective(p, weights.get(n)) for n, p in said["parts"].items()]
        return [line for part in parts for line in part]
    settings = ", ".join(f"{k} {v}" for k, v in said.get("settings", {}).items())
    views = ", ".join(said.get("views", []))
    details = "; ".join(filter(None, (settings, f"views: {views}" if views else "")))
    return [f"- objective: {said['class']}{factor}{f': {details}' if details else ''}"]


def _scores(result: dict[str, Any]) -> str:
    names, digits = [e["name"] for e in result["encoders"]], result.get("digits", 2)
    rows = [["set", "n", *names], ["---"] * (2 + len(names))]
    for key, first in result["encoders"][0]["scores"].items():
        cells = [_cell(e["scores"].get(key), digits) for e in result["encoders"]]
        rows.append([key, f"{first['pairs']:,}", *cells])
    if result["encoders"][0]["average"]:
        rows.append(["average", "", *(_cell(e["average"], digits) for e in result["encoders"])])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    note = "\n".join(f"- {line}" for line in result["note"].split("\n") if line)
    head = f"## Scores: {result['benchmark'].upper()}\n\n{result['setting']}; 95 % intervals."
    head += " Lower is better." if result.get("better") == "lower" else ""
    return "\n\n".join(filter(None, (head, table, note)))


def _cell(score: dict[str, Any] | None, digits: int) -> str:
    if score is None or score["score"] is None:
        return "undefined"
    shown = [f"{v:.{digits}f}" for k in ("score", "low", "high") if (v := score[k]) is not None]
    return shown[0] if len(shown) < 3 else f"{shown[0]} [{shown[1]}, {shown[2]}]"


def _papers(about: dict[str, Any]) -> str:
    papers = about.get("papers") or ""
    listed = papers if isinstance(papers, list) else papers.split("; ")
    lines = [f"- {paper}" for paper in listed if paper]
    return "## Papers\n\n" + "\n".join(lines) if lines else ""
