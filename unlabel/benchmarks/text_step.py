"""How fast is the step of `unlabel train` on text beside the sentence-transformers trainer's?

    python -m unlabel.benchmarks.text_step --model FOLDER --data sentences.txt.gz
    python -m unlabel.benchmarks.text_step --model FOLDER --data FILE.csv --columns '[one,other]'

The step is SimCSE's, or with columns that of pairs of texts. Both start from the same weights and
see the same sentences once, with the same batch, length limit, pooling, temperature, precision,
optimizer, schedule, threads and device (a GPU where there is one); without a head, an evaluation or
a checkpoint. Each trains in a process of its own, in turn, round after round with another seed.
Wall seconds are what transformers' trainer, under both, reports of its loop; CPU seconds are the
process's own from the first to the last line of its log, so that their ratio holds on a shared
machine. The peer tokenises inside its loop, ours before it: the time it takes to tokenise is
measured and added to ours.
"""

import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from unlabel.benchmarks.commands import run_command
from unlabel.benchmarks.intervals import Embed
from unlabel.benchmarks.sts import evaluate_sts
from unlabel.benchmarks.text_step_sides import Work, train_ours, train_peer
from unlabel.data_pipes.text import read_text
from unlabel.data_pipes.tokens import TokenStore
from unlabel.embedding import load_embedder
from unlabel.modalities.text import TextEncoder


def text_step(
    *,
    model: str,
    data: str,
    columns: list[str] | None = None,
    sentences: int = 2560,
    batch: int = 64,
    max_length: int = 128,
    pooling: Literal["cls", "mean"] = "mean",
    length_window: int = 50,
    unpadded: bool = False,
    bf16: bool = False,
    lr: float = 3e-5,
    rounds: int = 3,
    threads: int = 1,
    seed: int = 0,
    quality: bool = True,
    sts: str | None = None,
    output: str | None = None,
) -> dict[str, Any]:
    """Train side by side, print the table, and return all figures.

    Args:
        model: folder of a transformers or sentence-transformers model.
        data: sentences or pairs, as for `read_text`; the first ones are taken.
        columns: two, of the texts of a pair; None: each sentence is its own partner, as in SimCSE.
        sentences: how many, or pairs; a multiple of `batch`.
        batch: sentences a step.
        max_length: longest sentence in tokens.
        pooling: how tokens become a sentence, for both.
        length_window: of `unlabel train`, its default: batches that are sorted by length together;
            1 shuffles as the peer does, and leaves what is gained otherwise.
        unpadded: `--text.unpadded` of ours.
        bf16: products of matrices in bfloat16, for both.
        lr: learning rate at the start.
        rounds: trainings of each side.
        threads: of torch.
        seed: of the first round.
        quality: score both on STS-B dev, before and after.
        sts: folder of the STS files; default `$UNLABEL_DATA/sts`.
        output: JSON file for all figures.

    Raises:
        ValueError: no such folder, too few sentences, or no whole number of batches.
        RuntimeError: a side failed, or the two did not do the same work.
    """
    _refuse(model, columns, sentences, batch, rounds)
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name) / "corpus.jsonl"
        texts = _corpus(data, columns, sentences, corpus)
        costs = _tokenise(model, texts, max_length)
        how = (batch, max_length, pooling, length_window, unpadded, bf16, lr, threads)
        work = Work(model, tuple(texts), *how, sentences, *costs)
        before = _untrained_stsb_dev(work, sts) if quality else None
        done = []
        for number in range(seed, seed + rounds):
            folder = Path(name) / f"seed-{number}"
            done.append(_round(work, corpus, folder, number))
            if quality:
                done[-1]["stsb_dev"] = {"before": before, **_trained_stsb_dev(work, folder, sts)}
            shutil.rmtree(folder)
    result = {"work": asdict(work), "rounds": done, "summary": _summary(done), **_machine()}
    Console().print(_table(result))
    if output is not None:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        Path(output).write_text(json.dumps(result, indent=1) + "\n")
    return result


def _refuse(model: str, columns: list[str] | None, sentences: int, batch: int, rounds: int) -> None:
    if columns is not None and len(columns) != 2:
        raise ValueError(f"columns= takes the two of a pair, but {columns} came.")
    if not (Path(model) / "config.json").is_file():
        raise ValueError(
            f"{model} is no model folder (it holds no config.json); give the folder of a saved "
            "model, so that nothing is fetched while the clock runs."
        )
    if batch < 2 or rounds < 1:
        raise ValueError(f"batch is at least 2 and rounds 1, but {batch} and {rounds} came.")
    if sentences < batch or sentences % batch:
        near = max(1, round(sentences / batch)) * batch
        raise ValueError(
            f"{sentences} sentences are no whole number of batches of {batch}, so that some would "
            f"not be trained on; take {near}."
        )


def _corpus(
    data: str, columns: list[str] | None, sentences: int, file: Path
) -> dict[str, list[str]]:
    texts = read_text(data, columns=columns, limit=sentences).columns
    found = len(next(iter(texts.values())))
    if found < sentences:
        raise ValueError(
            f"{data} holds {found} usable sentences, {sentences} were asked for; lower "
            "sentences or bring more data."
        )
    rows = (dict(zip(texts, row, strict=True)) for row in zip(*texts.values(), strict=True))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return texts


def _tokenise(model: str, texts: dict[str, list[str]], max_length: int) -> tuple[int, float, float]:
    """Tokens of both views, seconds and CPU seconds of tokenising as `unlabel train` does it."""
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    first, *more = texts.values()
    began, cpu = time.perf_counter(), time.process_time()
    partners = {str(i): one for i, one in enumerate(more)}
    store = TokenStore(first, tokenizer, max_length=max_length, partners=partners, progress=False)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    return int(store.lengths.sum()) * 2 // len(texts), seconds, cpu_seconds


# -- one round ----------------------------------------------------------------------------------


def _round(work: Work, corpus: Path, folder: Path, seed: int) -> dict[str, Any]:
    ours = train_ours(work, corpus, folder / "ours", seed)
    peer = train_peer(work, corpus, folder / "peer", seed)
    ratio = {"wall": ours.rate / peer.rate, "cpu": ours.cpu_rate / peer.cpu_rate}
    return {"seed": seed, "ours": asdict(ours), "peer": asdict(peer), "ratio": ratio}


def _untrained_stsb_dev(work: Work, sts: str | None) -> float:
    encoder = TextEncoder.from_pretrained(
        work.model, pooling=work.pooling, max_length=work.max_length, local_files_only=True
    )
    return _stsb_dev(encoder.encode, sts)


def _trained_stsb_dev(work: Work, folder: Path, sts: str | None) -> dict[str, float]:
    places = {side: folder / side / "model" for side in ("ours", "peer")}
    return {
        side: _stsb_dev(load_embedder(place, max_length=work.max_length), sts)
        for side, place in places.items()
    }


def _stsb_dev(embed: Embed, sts: str | None) -> float:
    result = evaluate_sts(embed, sts, sets=["stsb_dev"], bootstrap=0)
    return result.encoders[0].scores["stsb_dev"].score


# -- figures ------------------------------------------------------------------------------------


def _summary(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    figures = {k: _spread([r["ratio"][k] for r in rounds]) for k in ("wall", "cpu")}
    scores = [r["stsb_dev"] for r in rounds if "stsb_dev" in r]
    if scores:
        figures["stsb_dev_difference"] = _spread([s["ours"] - s["peer"] for s in scores])
    return figures


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    return {
        "median": statistics.median(values),
        "mean": statistics.mean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "low": min(values),
        "high": max(values),
    }


def _machine() -> dict[str, Any]:
    packages = ("torch", "transformers", "sentence-transformers", "unlabel")
    on = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"versions": {p: version(p) for p in packages}, "cores": os.cpu_count(), "device": on}


def _table(result: dict[str, Any]) -> Table:
    work, scored = result["work"], "stsb_dev" in result["rounds"][0]
    table = Table(
        title=f"{_title(work)} of {work['tokens'] / work['sentences'] / 2:.1f} "
        f"tokens (limit {work['max_length']}), batch {work['batch']}, threads {work['threads']}, "
        f"{result['device']}",
        title_justify="left",
        caption=_caption(result),
        caption_justify="left",
    )
    for heading in ("seed", "", "sent./s", "sent./CPU-s", "padding", "loss"):
        table.add_column(heading)
    if scored:
        table.add_column("STS-B dev")
    for entry in result["rounds"]:
        for side, name in (("ours", "unlabel"), ("peer", "peer")):
            run = entry[side]
            cells = [f"{run['rate']:.2f}", f"{run['cpu_rate']:.2f}", f"{run['padding']:.1%}"]
            cells += [f"{run['train_loss']:.2e}"]
            cells += [f"{entry['stsb_dev'][side]:.2f}"] if scored else []
            table.add_row(str(entry["seed"]), name, *cells)
        ratio = entry["ratio"]
        table.add_row("", "ratio", f"{ratio['wall']:.2f}", f"{ratio['cpu']:.2f}", end_section=True)
    return table


def _title(work: dict[str, Any]) -> str:
    name, what = ("Pairs", "of two") if len(work["columns"]) > 1 else ("SimCSE", "sentences")
    return f"{name}, {work['sentences']} {what}"


def _caption(result: dict[str, Any]) -> str:
    summary = result["summary"]
    lines = [f"peer: sentence-transformers {result['versions']['sentence-transformers']}"]
    lines += [
        f"ratio by {name} seconds: median {v['median']:.2f} [{v['low']:.2f}, {v['high']:.2f}]"
        for name, v in (("wall", summary["wall"]), ("CPU", summary["cpu"]))
    ]
    if difference := summary.get("stsb_dev_difference"):
        sd = "one round" if difference["sd"] is None else f"sd {difference['sd']:.2f}"
        before = result["rounds"][0]["stsb_dev"]["before"]
        lines.append(
            f"STS-B dev before {before:.2f}; unlabel minus peer {difference['mean']:+.2f} ({sd})"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options of `text_step` from the command line; `--max-length` is `--max_length`."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # as in both training processes
    run_command(text_step, arguments)


if __name__ == "__main__":
    main()
