"""Exactness, speed and memory of `contrast`, beside the full matrix and other libraries.

    python -m unlabel.benchmarks.contrast --threads 1            # everything
    python -m unlabel.benchmarks.contrast --threads 1 --quick    # two minutes
    python -m unlabel.benchmarks.contrast --pairs 131072 --width 128 --tasks nt_xent \
        --methods unlabel --repeats 1                            # one large batch
    python -m unlabel.benchmarks.contrast --device cuda --dtype bfloat16 --width 512 768 \
        --pairs 65536 1048576 --tasks clip nt_xent --methods unlabel    # on a GPU
    python -m unlabel.benchmarks.contrast --tasks clip,siglip --pairs 65536 --width 512 \
        --methods unlabel --repeats 1                            # and how far open_clip's are

Every timing is a process of its own: forward and backward, the least CPU seconds of a few repeats
(wall seconds on a GPU), and the memory's peak above the inputs. The rate of `torch.mm` is measured
in the same process, with the same threads, so that their ratio holds on a busy machine too.
"""

import argparse
import contextlib
import ctypes
import itertools
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from unlabel.benchmarks.contrast_methods import METHODS, Missing, useful_flops
from unlabel.benchmarks.contrast_peers import PEERS, RANKS, agreement
from unlabel.objectives.contrast import contrast


def _status(key: str, file: str = "/proc/self/status") -> int:
    lines = Path(file).read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def _trim() -> None:
    # Freed memory that malloc holds back would hide the first megabytes of the measurement.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class _Peak:
    """Bytes above what was held at the start, at their highest; on a CPU only Linux tells."""

    def __init__(self, device: str):
        self.cuda, self.linux = device == "cuda", Path("/proc/self/clear_refs").exists()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        elif self.linux:
            _trim()
            Path("/proc/self/clear_refs").write_text("5")
            self.before = _status("VmRSS")

    def bytes(self) -> float:
        if self.cuda:
            return torch.cuda.max_memory_allocated() - self.before
        return _status("VmHWM") - self.before if self.linux else math.nan


def _seconds(run: Callable[[], Any], device: str, repeats: int) -> tuple[list[float], list[float]]:
    """CPU seconds and wall seconds of each repeat."""
    cpu, wall = [], []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.process_time(), time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        cpu.append(time.process_time() - start[0])
        wall.append(time.perf_counter() - start[1])
    return cpu, wall


def _mm_rate(width: int, device: str, dtype: torch.dtype) -> float:
    """FLOP a second of `torch.mm`, the better of two shapes; a CPU second on a CPU."""
    rates, n = [], 8192 if device == "cuda" else 2048
    for inner in (width, n):
        a, b = (torch.randn(n, inner, device=device, dtype=dtype) for _ in range(2))
        cpu, wall = _seconds(lambda a=a, b=b: torch.mm(a, b.T), device, 10 if n > 2048 else 3)
        rates.append(2.0 * n * n * inner / min(wall if device == "cuda" else cpu))
    return max(rates)


def measure(task: str, method: str, pairs: int, width: int, args: Any) -> dict[str, Any]:
    """One row of the speed table, measured in this process."""
    torch.set_num_threads(args.threads)
    loss, dtype = METHODS[task][method](), getattr(torch, args.dtype)
    if args.shape:
        from unlabel.objectives import fused

        fused.SHAPES[:] = [fused.Shape(*args.shape)]
    torch.manual_seed(0)
    z = [torch.randn(pairs, width, device=args.device, dtype=dtype) for _ in range(2)]
    z = [x.requires_grad_() for x in z]

    def run(n: int = pairs) -> Tensor:
        a, b = (x[:n] for x in z) if n < pairs else z
        a.grad = b.grad = None
        value = loss(a, b)
        if value.requires_grad:
            value.backward()
        return value.detach()

    run(min(256, pairs - 1))
    z[0].grad = z[1].grad = None
    rate, peak, losses = _mm_rate(width, args.device, dtype), _Peak(args.device), []
    cpu, wall = _seconds(lambda: losses.append(run()), args.device, args.repeats)
    memory = peak.bytes()
    rate = max(rate, _mm_rate(width, args.device, dtype))
    seconds = wall if args.device == "cuda" else cpu
    useful = useful_flops(task, pairs, width) / min(seconds)
    return {
        "cpu_seconds": min(cpu), "wall_seconds": min(wall), "repeats": seconds,
        "peak_bytes": memory, "loss": float(losses[-1]),
        "mm_flops": rate, "useful_share_of_mm": useful / rate,
    }  # fmt: skip


def _child(row: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """`measure` in a process of its own, which may fail without taking the table along."""
    command = [
        sys.executable, "-m", "unlabel.benchmarks.contrast", "--row", json.dumps(row),
        "--threads", str(args.threads), "--device", args.device, "--repeats", str(args.repeats),
        "--dtype", args.dtype, *(["--shape", *map(str, args.shape)] if args.shape else []),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=args.timeout, env=environment
        )
    except subprocess.TimeoutExpired:
        return row | {"note": f"over {args.timeout:.0f} s"}
    if done.returncode == 0:
        return row | json.loads(done.stdout.splitlines()[-1])
    last = (done.stderr.strip().splitlines() or ["killed"])[-1]
    short = "out of memory" if "memory" in last.lower() or done.returncode < 0 else last[:80]
    return row | {"note": short}


def _row_of_child(args: argparse.Namespace) -> None:
    if args.device == "cpu" and Path("/proc/meminfo").exists():
        # The system must not choose a victim among other people's processes.
        import resource

        limit = int(0.8 * _status("MemAvailable", "/proc/meminfo"))
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    row = json.loads(args.row)
    try:
        print(json.dumps(measure(row["task"], row["method"], row["pairs"], row["width"], args)))
    except Missing as error:
        print(json.dumps({"note": str(error)}))


def exactness(
    n: int = 512, width: int = 128, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> list[dict[str, float]]:
    """Relative errors of the loss and of its gradient, of three forms of InfoNCE.

    The truth is the float64 `softplus(logsumexp of negatives - positive)` of the same numbers, on
    the whole matrix.
    """
    eye = torch.eye(n, dtype=torch.bool, device=device)

    def logits(q: Tensor, k: Tensor, t: float) -> Tensor:
        return F.normalize(q, dim=1) @ F.normalize(k, dim=1).T / t

    def truth(q: Tensor, k: Tensor, t: float) -> Tensor:
        s = logits(q, k, t)
        rest = s.masked_fill(eye, -torch.inf).logsumexp(1)
        return -F.logsigmoid(s.diagonal() - rest).mean()

    forms: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
        "cross_entropy": lambda q, k, t: F.cross_entropy(logits(q, k, t), eye.int().argmax(1)),
        "lse_minus_pos": lambda q, k, t: (lambda s: (s.logsumexp(1) - s.diagonal()).mean())(
            logits(q, k, t)
        ),
        "unlabel": lambda q, k, t: contrast(q, k, temperature=t),
    }
    torch.manual_seed(0)
    q = torch.randn(n, width)
    k = q + 0.1 * torch.randn(n, width)
    q, k = (x.to(device, dtype) for x in (q, k))
    rows = []
    for t in (0.5, 0.1, 0.05, 0.02, 0.01):

        def value_and_slope(form: Any, dtype: torch.dtype, t: float = t) -> tuple[Tensor, Tensor]:
            a, b = (x.to(dtype).requires_grad_() for x in (q, k))
            loss = form(a, b, t)
            return loss.detach().double(), torch.cat(torch.autograd.grad(loss, (a, b))).double()

        loss, slope = value_and_slope(truth, torch.float64)
        row = {"temperature": t, "loss": float(loss)}
        for name, form in forms.items():
            value, grad = value_and_slope(form, dtype)
            row[f"{name}_loss_error"] = float((value - loss).abs() / loss)
            row[f"{name}_gradient_error"] = float((grad - slope).norm() / slope.norm())
        rows.append(row)
    return rows


def _exactness_table(rows: list[dict[str, float]], dtype: str) -> Table:
    table = Table(title=f"Relative error in {dtype} against float64: loss / gradient")
    for name in ("T", "true loss", "cross_entropy", "lse - pos", "unlabel"):
        table.add_column(name, justify="right")
    for row in rows:
        errors = (
            f"{row[f'{m}_loss_error']:.0e} / {row[f'{m}_gradient_error']:.0e}"
            for m in ("cross_entropy", "lse_minus_pos", "unlabel")
        )
        table.add_row(f"{row['temperature']:g}", f"{row['loss']:.2e}", *errors)
    return table


def _peers_table(found: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Loss and all gradients in float64: largest relative difference from ours")
    for name in ("task", "peer", *(f"{n} process{'es' * (n > 1)}" for n in RANKS)):
        table.add_column(name)
    for task, peers in found[0].items():
        for peer in peers:
            each = [by_ranks[task][peer] for by_ranks in found]
            table.add_row(task, peer, *(x if isinstance(x, str) else f"{x:.1e}" for x in each))
    return table


def _speed_table(rows: list[dict[str, Any]], args: argparse.Namespace) -> Table:
    where = f"{args.dtype}, {args.device}, {args.threads} thread(s)"
    table = Table(title=f"Forward and backward, {where}")
    for name in ("task", "pairs", "width"):
        table.add_column(name, justify="right")
    table.add_column("method")
    for name in ("CPU s", "wall s", "added MB", "loss", "of torch.mm"):
        table.add_column(name, justify="right")
    for row in rows:
        start = [str(row[k]) for k in ("task", "pairs", "width", "method")]
        if "note" in row:
            table.add_row(*start, row["note"], "", "", "", "")
            continue
        figures = (row["cpu_seconds"], row["wall_seconds"])
        share = f"{100 * row['useful_share_of_mm']:.0f} %"
        table.add_row(
            *start, *(f"{x:.3f}" for x in figures), f"{row['peak_bytes'] / 1e6:.0f}",
            f"{row['loss']:.6f}", share, style="bold" if row["method"] == "unlabel" else None,
        )  # fmt: skip
    return table


def _tasks(words: str) -> list[str]:
    """Names that stand apart or are joined by commas."""
    names = words.split(",")
    if unknown := [name for name in names if name not in METHODS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(METHODS)}")
    return names


def main(argv: list[str] | None = None) -> None:
    """Runs the benchmark, prints its tables and writes its JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"],
        help="another GPU than the first by CUDA_VISIBLE_DEVICES",
    )  # fmt: skip
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument(
        "--shape", type=int, nargs=5, help="of a GPU's kernels: high, wide, deep, warps, stages"
    )
    parser.add_argument("--pairs", type=int, nargs="+", default=[1024, 2048, 8192, 16384])
    parser.add_argument("--width", type=int, nargs="+", default=[128, 768])
    parser.add_argument("--tasks", type=_tasks, nargs="+", default=[list(METHODS)])
    parser.add_argument("--methods", nargs="+", help="names as in the table; all by default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=1200, help="seconds for one row")
    parser.add_argument("--quick", action="store_true", help="up to 2,048 pairs")
    parser.add_argument("--output", type=Path, default=Path("contrast.json"))
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.row:
        return _row_of_child(args)
    torch.set_num_threads(args.threads)
    console = Console(width=110)
    exact = exactness(device=args.device, dtype=getattr(torch, args.dtype))
    console.print(_exactness_table(exact, args.dtype))
    tasks = list(itertools.chain(*args.tasks))
    peers = [agreement([t for t in tasks if t in PEERS], n) for n in RANKS]
    if peers[0]:
        console.print(_peers_table(peers))
    sizes = [n for n in args.pairs if n <= 2048] if args.quick else args.pairs
    speed = []
    for task, width, pairs in itertools.product(tasks, args.width, sizes):
        for method in METHODS[task]:
            if args.methods and method not in args.methods:
                continue
            row = {"task": task, "pairs": pairs, "width": width, "method": method}
            with console.status(f"{task}, {pairs} pairs, width {width}: {method}"):
                speed.append(_child(row, args))
    console.print(_speed_table(speed, args))
    machine = {
        "torch": torch.__version__, "threads": args.threads, "device": args.device,
        "processor": platform.processor() or platform.machine(), "repeats": args.repeats,
        "dtype": args.dtype,
    }  # fmt: skip
    beside = {str(n): found for n, found in zip(RANKS, peers, strict=True)}
    tables = {"exactness": exact, "peers": beside, "speed": speed}
    result = {"benchmark": "contrast", "setting": machine, **tables}
    args.output.write_text(json.dumps(result, indent=1))
    console.print(f"Written to {args.output}")


if __name__ == "__main__":
    main()
