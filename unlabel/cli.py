"""The command line: `unlabel train`, `compare`, `bench`, `embed`, `export`, `forecast` and more.

Commands are plain functions of the same shape as their Python calls; jsonargparse reads their
signatures, so a misspelt option is refused by name.
"""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from unlabel.allocator import keep_freed_memory


def _arguments(given: Sequence[str]) -> list[str]:
    """Allow `train recipe.yaml`, a bare `--resume`, and `--objective simcse` for the class."""
    from unlabel.objectives import CATALOGUE

    out = [part for word in given for part in _apart(word)]
    if (
        len(out) > 1
        and out[0] in ("train", "compare", "evolve")
        and out[1].endswith((".yaml", ".yml"))
    ):
        out.insert(1, "--config")
    if out[:1] == ["search"] and len(out) > 2 and not out[2].startswith("-"):
        out.insert(2, "--words")  # search RUN "a red circle"
    for i, word in enumerate(out):
        is_bare = i + 1 == len(out) or out[i + 1].startswith("--")
        if word in ("--resume", "--per_step", "--per_window", "--approximate") and is_bare:
            out[i] = f"{word}=true"
        if word == "--objective" and i + 1 < len(out):
            method = CATALOGUE.get(out[i + 1].lower())
            out[i + 1] = out[i + 1] if method is None else f"unlabel.objectives.{method.__name__}"
        if word == "--objectives" and i + 1 < len(out) and out[i + 1][:1] not in ("[", "{"):
            out[i + 1] = f"[{out[i + 1]}]"  # --objectives simclr,barlow
    return out


def _apart(word: str) -> list[str]:
    """`--objective=simcse` as two words, like `--objective simcse`."""
    key, equal, value = word.partition("=")
    return [key, value] if equal and key in ("--objective", "--objectives") else [word]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; user errors end in one sentence and exit code 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", force=True)
    for noisy in ("httpx", "filelock", "urllib3", "datasets", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)
    _silence_bars_of_files()
    from jsonargparse import ArgumentError, auto_cli

    from unlabel.benchmarks.actions import bench_actions
    from unlabel.benchmarks.alignment import bench_alignment
    from unlabel.benchmarks.classification import bench_classification
    from unlabel.benchmarks.finetune import bench_finetune
    from unlabel.benchmarks.forecasting import bench_forecasting
    from unlabel.benchmarks.propagation import bench_propagation
    from unlabel.benchmarks.retrieval import bench_retrieval
    from unlabel.benchmarks.sounds import bench_sounds
    from unlabel.benchmarks.sts import bench_sts
    from unlabel.compare import compare
    from unlabel.data_pipes.scan import scan
    from unlabel.embedding import embed
    from unlabel.evolve import evolve
    from unlabel.export import export
    from unlabel.forecasting.command import forecast
    from unlabel.listing import list_methods
    from unlabel.pictures import pictures
    from unlabel.pretrain import train
    from unlabel.refusals import reason, refusal
    from unlabel.report import report
    from unlabel.sampling import sample
    from unlabel.scoring import score
    from unlabel.search.command import classify, index, search
    from unlabel.words.word2vec import word2vec

    commands = {
        "train": train,
        "compare": compare,
        "evolve": evolve,
        "bench": {
            "_help": "Measure an encoder, or a run before and after training.",
            "sts": bench_sts,
            "retrieval": bench_retrieval,
            "forecasting": bench_forecasting,
            "finetune": bench_finetune,
            "classification": bench_classification,
            "actions": bench_actions,
            "alignment": bench_alignment,
            "propagation": bench_propagation,
            "sounds": bench_sounds,
        },
        "word2vec": word2vec,
        "scan": scan,
        "embed": embed,
        "export": export,
        "forecast": forecast,
        "score": score,
        "index": index,
        "search": search,
        "classify": classify,
        "sample": sample,
        "pictures": pictures,
        "report": report,
        "list": list_methods,
    }
    words = _arguments(sys.argv[1:] if arguments is None else arguments)
    try:
        how: dict[str, Any] = {"version": version("unlabel"), "exit_on_error": False}
        auto_cli(commands, args=words, prog="unlabel", **how)
    except BrokenPipeError:
        raise
    except (ArgumentError, ValueError, OSError, RuntimeError, ImportError) as error:
        if os.environ.get("UNLABEL_TRACEBACK"):
            raise
        is_parsers = isinstance(error, ArgumentError)
        said = refusal(str(error), words, commands) if is_parsers else reason(str(error))
        print(f"unlabel: {said}", file=sys.stderr)
        raise SystemExit(2) from None


def _silence_bars_of_files() -> None:
    """No bars for weights that are read or written in a moment; downloads keep theirs."""
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    are_wanted = not are_progress_bars_disabled()
    disable_progress_bar()  # the hub's too
    if are_wanted:
        enable_progress_bars()


def run() -> None:
    """`main` in a process of its own, whose memory may be kept; also a rank of torchrun."""
    keep_freed_memory()
    from torch import distributed as dist

    from unlabel.training.rendezvous import meet_anew

    meet_anew()
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # who read it has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        if os.environ.get("UNLABEL_TRACEBACK"):
            raise
        print("unlabel: interrupted.", file=sys.stderr)
        raise SystemExit(130) from None

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()  # else its threads may abort a rank that ends first


if __name__ == "__main__":
    run()
