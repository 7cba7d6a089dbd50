"""What one process of a broken run does: the command, watched, with what is to go wrong in it."""

import atexit
import ctypes
import gc
import math
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unlabel.benchmarks.fault_runs import BATCH, OPTIONS, SAVED, STEPS, objective

_DAC_OVERRIDE, _DAC_READ_SEARCH, _VERSION_3 = 1, 2, 0x20080522  # of linux/capability.h


@dataclass(frozen=True)
class Plan:
    """A run, and what goes wrong inside its processes (what comes from outside is not here).

    Attributes:
        folder: of the trial; the run is in `run`, and `home`, `tmp` and `cwd` should stay empty.
        data: folder of the data.
        modality: kind of data.
        ranks: processes.
        workers: of each loader.
        nan: steps (from 0) whose embeddings become NaN.
        jump: seconds by which the clock jumps, and the step before which it does.
        mortal: without root's right to write where nobody may.
    """

    folder: Path
    data: Path
    modality: str
    ranks: int = 1
    workers: int = 0
    nan: tuple[int, ...] = ()
    jump: tuple[float, int] = (0.0, 0)
    mortal: bool = False

    @property
    def run(self) -> Path:
        """The output folder."""
        return self.folder / "run"


def work(rank: int, plan: Plan, said: str) -> None:
    """Train as `unlabel train --resume` does, in a process of its own; exit codes are the same."""
    for name in ("home", "tmp", "cwd"):
        (plan.folder / name).mkdir(exist_ok=True)
    os.environ |= {"HOME": str(plan.folder / "home"), "TMPDIR": str(plan.folder / "tmp")}
    os.chdir(plan.folder / "cwd")
    # Told, not looked for: Python writes a file to try it, which one that is killed leaves.
    tempfile.tempdir = str(plan.folder / "tmp")
    # Through a pipe: a full disk for the run is none for what is said.
    with Path(f"{said}-{rank}.txt").open("wb") as file:
        listener = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
    for stream in (1, 2):
        os.dup2(listener.stdin.fileno(), stream)  # type: ignore[union-attr]
    torch.set_num_threads(1)
    gc.freeze()  # what is imported is not looked at by each of the run's collections
    if plan.mortal:
        _no_rights_of_root()
    strange: set[str] = set()
    sys.addaudithook(lambda event, args: _note_open(event, args, plan, strange))
    try:
        _train(plan, Path(f"{said}-resumed.txt") if rank == 0 else None)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        print(f"unlabel: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None
    finally:
        if strange:
            Path(f"{said}-{rank}-opened.txt").write_text("\n".join(sorted(strange)))
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        atexit._run_exitfuncs()  # which the end of a forked process leaves out


def _train(plan: Plan, resumed: Path | None) -> None:
    from unlabel.pretrain import KINDS, train
    from unlabel.training.arguments import TrainingArguments
    from unlabel.training.trainer import Trainer

    step, encode_step = [0], Trainer.training_step
    real, choose = time.time, Trainer._resume_point

    def told(trainer: Any, asked: Any) -> Any:
        found = choose(trainer, asked)
        if resumed is not None:
            resumed.write_text(found or "")
        return found

    def stepped(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        step[0] = trainer.state.global_step
        return encode_step(trainer, *args, **kwargs)

    Trainer._resume_point, Trainer.training_step = told, stepped
    if plan.jump[0]:
        seconds, at = plan.jump
        time.time = lambda: real() + (seconds if step[0] >= at else 0.0)
    if plan.nan:
        _spoil(plan.nan, step)
    many: dict[str, Any] = {"ddp_backend": "gloo"} if plan.ranks > 1 else {}
    train(
        objective=objective(plan.modality),
        data=str(plan.data),
        modality=plan.modality,  # type: ignore[arg-type]
        **{plan.modality: KINDS[plan.modality](**OPTIONS[plan.modality])},  # type: ignore[arg-type]
        training=TrainingArguments(
            output_dir=str(plan.run),
            max_steps=STEPS,
            save_steps=SAVED,
            logging_steps=1,
            per_device_train_batch_size=BATCH,
            dataloader_num_workers=plan.workers,
            learning_rate=1e-3,
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
            **many,
        ),
        resume=True,
    )


def _spoil(steps: tuple[int, ...], step: list[int]) -> None:
    from unlabel.training.pretraining import Pretraining

    encode = Pretraining.encode

    def spoiled(module: Any, views: Any) -> Any:
        found = encode(module, views)
        if step[0] in steps and module.training:
            for encoding in found:
                encoding.pooled = encoding.pooled * math.nan
                encoding.tokens = encoding.tokens * math.nan
        return found

    Pretraining.encode = spoiled


def _note_open(event: str, args: tuple[Any, ...], plan: Plan, strange: set[str]) -> None:
    """Python's own opens of files that are neither the run's, the data's nor the software's."""
    if event != "open" or not isinstance(args[0], str | bytes | os.PathLike):
        return
    path = os.path.realpath(os.fsdecode(args[0]))
    if not path.startswith(_known(plan)):
        strange.add(path)


def _known(plan: Plan) -> tuple[str, ...]:
    software = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), *sys.path[:1]}
    software.add(str(Path(__file__).parents[2]))
    system = ("/proc", "/sys", "/dev", "/usr", "/lib", "/etc")
    own = (str(plan.folder), str(plan.data))
    return tuple(os.path.realpath(p) for p in (*own, *software, *system) if p)


def _no_rights_of_root() -> None:
    """Root writes where nobody may; without two of its capabilities it is held to the modes."""
    libc = ctypes.CDLL(None, use_errno=True)
    head, held = (ctypes.c_uint32 * 2)(_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(head, held) == 0:
        held[0] &= ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH)
        libc.capset(head, held)


__all__ = ["Plan", "work"]
