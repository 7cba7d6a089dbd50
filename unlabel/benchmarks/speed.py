"""How fast is unlabel beside what else is installed? All speed benchmarks by one command.

    python -m unlabel.benchmarks.speed --output speed

Each task is one of the benchmarks of this folder, in a process of its own with the sizes below, and
each of them runs its sides in turn on the same work. A peer that is not installed leaves its row
out and says so; a task that fails is told with the command that repeats it, and the others go on.
Written are the figures of each task, `speed.json` with all ratios, and `speed.png`: what the loss
costs with the batch, in time and memory, the text step with the length of sentences, and a step of
each kind of data.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from unlabel.benchmarks.commands import run_command

LENGTHS = (16, 32, 64)  # tokens at most, of the text step


@dataclass(frozen=True)
class Ratio:
    """A peer's time over ours, on the same work in one run; above 1 we are faster.

    Attributes:
        task: whose work it is.
        work: its size.
        peer: the other side.
        ratio: median over rounds; of the loss, whose sides run one after the other, the least
            time over the least.
        low: the least of the rounds; of the loss, the peer's least time over our most.
        high: the most of them; of the loss, the peer's most time over our least.
        memory: the peer's memory over ours, where it was measured.
    """

    task: str
    work: str
    peer: str
    ratio: float
    low: float
    high: float
    memory: float | None = None


def speed(
    *,
    output: str = "speed",
    tasks: list[str] | None = None,
    videos: str | None = None,
    quick: bool = False,
    threads: int = 1,
    device: Literal["cpu", "cuda"] = "cpu",
) -> dict[str, Any]:
    """Run the tasks, print the table of ratios and draw the picture.

    Args:
        output: folder of all that is written.
        tasks: of `loss`, `text`, `trainer`, `video`, `series` and `decode`; None for all.
        videos: folder of videos to decode; without it `decode` is left out.
        quick: small sizes, one round.
        threads: of torch.
        device: `cpu`, where no task sees a GPU, or `cuda`: larger batches and bfloat16 in `loss`
            and `text`; series stay on the CPU.

    Raises:
        ValueError: an unknown task.
    """
    if unknown := sorted(set(tasks or []) - set(_TASKS)):
        raise ValueError(f"There is no task {unknown[0]!r}; the tasks are {', '.join(_TASKS)}.")
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    ratios: list[Ratio] = []
    found: dict[str, list[Any]] = {}
    notes: list[str] = []
    how = _How(folder, videos, quick, threads, device)
    for task in tqdm(tasks or list(_TASKS), desc="speed"):
        commands, read = _TASKS[task]
        for number, command in enumerate(commands(how)):
            file = folder / (f"{task}.json" if number == 0 else f"{task}-{number}.json")
            if said := _run([*command, "--output", str(file)], device):
                notes.append(f"{task}: {said}")
                continue
            figures = json.loads(file.read_text())
            found.setdefault(task, []).append(figures)
            ratios += read(figures)
        if task == "decode" and videos is None:
            notes.append("decode: left out; give --videos FOLDER.")
    result = {"ratios": [asdict(r) for r in ratios], "notes": notes}
    (folder / "speed.json").write_text(json.dumps(result, indent=1) + "\n")
    picture(found, folder / "speed.png")
    console = Console(width=110)
    console.print(_table(ratios))
    for note in notes:
        console.print(note, markup=False)
    return result


@dataclass(frozen=True)
class _How:
    folder: Path
    videos: str | None
    quick: bool
    threads: int
    device: str

    @property
    def rounds(self) -> str:
        return "1" if self.quick else "3"


def _run(words: Sequence[str], device: str) -> str:
    """Run a benchmark; why it failed, if it did, and how to repeat it."""
    # A trainer takes a GPU that it sees.
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})
    command = [sys.executable, "-m", f"unlabel.benchmarks.{words[0]}", *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode == 0:
        return ""
    last = (done.stderr.strip().splitlines() or ["killed"])[-1]
    return f"{last[:200]} (python -m unlabel.benchmarks.{' '.join(words)})"


# -- tasks: their commands, and the ratios in what they write -----------------------------------


def _loss(how: _How) -> Iterator[list[str]]:
    sizes = ["512", "1024", "2048"] if how.quick else ["1024", "2048", "4096", "8192", "16384"]
    numbers = ["--width", "128"]
    if how.device == "cuda":
        sizes = [str(16 * int(n)) for n in sizes]
        numbers = ["--width", "768", "--dtype", "bfloat16"]
    yield ["contrast", "--pairs", *sizes, *numbers, "--threads", str(how.threads),
           "--repeats", how.rounds, "--device", how.device]  # fmt: skip


def _loss_ratios(figures: dict[str, Any]) -> Iterator[Ratio]:
    rows = [r for r in figures["speed"] if "note" not in r]
    for row in rows:
        same = (row["task"], row["pairs"], row["width"])
        ours = next((r for r in rows if r["method"] == "unlabel"
                     and (r["task"], r["pairs"], r["width"]) == same), None)  # fmt: skip
        if ours is None or row is ours:
            continue
        theirs, own = row["repeats"], ours["repeats"]
        spread = min(theirs) / max(own), max(theirs) / min(own)
        memory = row["peak_bytes"] / ours["peak_bytes"] if ours["peak_bytes"] else None
        work = f"{same[0]}, {same[1]:,} x {same[2]}"
        ratio = min(theirs) / min(own)
        yield Ratio("loss", work, row["method"], ratio, *spread, memory)


def _text(how: _How) -> Iterator[list[str]]:
    """A small BERT with a tokenizer of the docstrings' words, saved for both sides."""
    import torch

    from unlabel.data_pipes.docstrings import docstring_corpus
    from unlabel.data_pipes.tokens import train_tokenizer
    from unlabel.modalities.text import TextEncoder

    place = how.folder / "bert"
    place.mkdir(exist_ok=True)
    texts = docstring_corpus(limit=8000).columns["text"]
    (place / "sentences.txt").write_text("\n".join(" ".join(t.split()) for t in texts))
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    tokenizer = train_tokenizer(texts, vocab_size=8000, model_max_length=128)
    encoder = TextEncoder.from_config({**sizes, "intermediate_size": 1024}, tokenizer)
    encoder.save_pretrained(place / "model")
    for length in LENGTHS[:1] if how.quick else LENGTHS:
        yield ["text_step", "--model", str(place / "model"), "--data", str(place / "sentences.txt"),
               "--sentences", "256" if how.quick else "1280", "--max_length", str(length),
               "--rounds", how.rounds, "--threads", str(how.threads), "--quality", "false",
               "--bf16", str(how.device == "cuda").lower()]  # fmt: skip


def _text_ratios(figures: dict[str, Any]) -> Iterator[Ratio]:
    spread, work = figures["summary"][_clock(figures)], figures["work"]
    said = f"SimCSE, {work['batch']} sentences of at most {work['max_length']} tokens"
    numbers = (spread["median"], spread["low"], spread["high"])
    yield Ratio("text", said, "sentence-transformers", *numbers)


def _clock(text: dict[str, Any]) -> str:
    """What the text step's sides are compared by: seconds of the CPU if that does the work."""
    return "cpu" if text["device"] == "cpu" else "wall"


def _trainer(how: _How) -> Iterator[list[str]]:
    yield ["overhead", "--rounds", how.rounds, "--steps", "10" if how.quick else "60",
           "--threads", str(how.threads)]  # fmt: skip


def _trainer_ratios(figures: list[dict[str, Any]]) -> Iterator[Ratio]:
    for row in figures:
        ratio = row["ratio"]
        numbers = (1 / ratio["median"], 1 / ratio["high"], 1 / ratio["low"])
        yield Ratio("trainer", f"{row['method']}, {row['kind']}", "a bare loop", *numbers)


def _video(how: _How) -> Iterator[list[str]]:
    yield ["video_step", "--steps", "2" if how.quick else "10", "--threads", str(how.threads),
           "--device", how.device]  # fmt: skip


def _video_ratios(figures: list[dict[str, Any]]) -> Iterator[Ratio]:
    names = {"all": "all tokens encoded", "transformers": "transformers' VideoMAEForPreTraining"}
    for row in figures:
        ours = row["rounds"]["visible"]
        for side, peer in names.items():
            each = [p / o for p, o in zip(row["rounds"][side], ours, strict=True)]
            work = f"MAE, {row['frames']} x {row['pixels']}²"
            yield Ratio("video", work, peer, statistics.median(each), min(each), max(each))


def _series(how: _How) -> Iterator[list[str]]:
    yield ["series_step", "--rounds", how.rounds, "--steps", "8" if how.quick else "40",
           "--threads", str(how.threads), "--masked", "[336]", "--contrast", "[336]",
           ]  # fmt: skip


def _series_ratios(figures: dict[str, Any]) -> Iterator[Ratio]:
    for row in figures["rows"]:
        for side in row["sides"]:
            if side["side"] != "unlabel" and "note" not in side:
                ratio = side["ratio"]
                numbers = (ratio["median"], ratio["low"], ratio["high"])
                work = f"{row['task']}, windows of {row['context']}"
                yield Ratio("series", work, side["side"], *numbers)


def _decode(how: _How) -> Iterator[list[str]]:
    if how.videos is not None:
        yield ["video_decode", "--data", how.videos, "--rounds", how.rounds, "--device", how.device,
               "--epochs", "2" if how.quick else "20"]  # fmt: skip


def _decode_ratios(figures: dict[str, Any]) -> Iterator[Ratio]:
    for side in figures["sides"]:
        if side["side"] != "unlabel":
            ratio = side["ratio"]
            numbers = (ratio["median"], ratio["low"], ratio["high"])
            yield Ratio("decode", "frames from file to batch", side["side"], *numbers)


_TASKS: dict[str, tuple[Callable[[_How], Iterator[list[str]]], Callable[[Any], Any]]] = {
    "loss": (_loss, _loss_ratios),
    "text": (_text, _text_ratios),
    "trainer": (_trainer, _trainer_ratios),
    "video": (_video, _video_ratios),
    "series": (_series, _series_ratios),
    "decode": (_decode, _decode_ratios),
}


# -- what is shown -----------------------------------------------------------------------------


def _table(ratios: Sequence[Ratio]) -> Table:
    table = Table(
        title="A peer's time over ours, same work, in one run; above 1 unlabel is faster",
        title_justify="left",
    )
    for head in ("task", "work", "peer"):
        table.add_column(head)
    for head in ("ratio", "low to high", "memory"):
        table.add_column(head, justify="right")
    before = ""
    for r in ratios:
        if before and r.task != before:
            table.add_section()
        memory = "" if r.memory is None else f"{r.memory:.1f}"
        spread = "" if r.low == r.high else f"[{r.low:.2f}, {r.high:.2f}]"
        task = "" if r.task == before else r.task
        table.add_row(task, r.work, r.peer, f"{r.ratio:.2f}", spread, memory)
        before = r.task
    return table


def picture(found: dict[str, list[Any]], path: Path) -> Path:
    """Cost against the batch, the length and the kind of data, of what was measured."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), dpi=120, layout="constrained")
    (time, memory), (length, kind) = figure.subplots(2, 2)
    for figures in found.get("loss", []):
        rows = [r for r in figures["speed"] if "note" not in r and r["task"] == "nt_xent"]
        for place, method in enumerate(dict.fromkeys(r["method"] for r in rows)):
            own = [r for r in rows if r["method"] == method]
            style: dict[str, Any] = {"marker": "o", "markersize": 4, "label": method}
            style |= {"linewidth": 2.5 if method == "unlabel" else 1, "color": f"C{place}"}
            time.loglog([r["pairs"] for r in own], [r["wall_seconds"] for r in own], **style)
            held = [r["peak_bytes"] / 1e6 for r in own]
            memory.loglog([r["pairs"] for r in own], held, **style)
    for axis, what in ((time, "seconds"), (memory, "megabytes beside the inputs")):
        axis.set(xlabel="pairs in the batch", ylabel=what, title=f"NT-Xent: {what}")
    texts = found.get("text", [])
    names = (("ours", "unlabel"), ("peer", "sentence-transformers")) if texts else ()
    for side, name in names:
        rates = ["cpu_rate" if _clock(f) == "cpu" else "rate" for f in texts]
        each = [
            statistics.median(1000 / r[side][rate] for r in f["rounds"])
            for f, rate in zip(texts, rates, strict=True)
        ]
        length.plot([f["work"]["max_length"] for f in texts], each, "o-", label=name)
    length.set_ylim(bottom=0)
    length.set(xlabel="tokens of a sentence at most", ylabel="milliseconds a sentence",
               title="The text step")  # fmt: skip
    rows = [row for figures in found.get("trainer", []) for row in figures]
    for offset, side, name in ((-0.2, "bare", "bare loop"), (0.2, "trainer", "trainer")):
        places = [i + offset for i in range(len(rows))]
        kind.bar(places, [r[f"{side}_ms"] for r in rows], 0.38, label=name)
    kind.set_xticks(range(len(rows)), [f"{r['kind']}\n{r['method']}, {r['batch']}" for r in rows])
    kind.set(ylabel="milliseconds a step", title="Kinds of data")
    for axis in (time, memory, length, kind):
        axis.tick_params(labelsize=8)
        if axis.get_legend_handles_labels()[0] and axis.has_data():
            axis.legend(fontsize=7)
        else:
            axis.text(0.5, 0.5, "not measured", ha="center", transform=axis.transAxes)
    figure.savefig(path)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options of `speed` from the command line."""
    run_command(speed, arguments)


if __name__ == "__main__":
    main()
