"""One broken run: what goes wrong and when, what must be true after it, and its resumption."""

import contextlib
import os
import random
import resource
import signal
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from unlabel.benchmarks.fault_ranks import Ranks
from unlabel.benchmarks.fault_runs import SAVED, STEPS, differences, last_step, outcome
from unlabel.benchmarks.fault_work import Plan, work
from unlabel.training import checkpoint

LATE = 300.0  # seconds until a run hangs, on a machine that is shared
ALONE = 120.0  # seconds that a rank may go on after another one died
START = 15.0  # likewise before the first step, where a launcher has to end those that wait


@dataclass(frozen=True)
class Trial:
    """What is to be done to one run, all drawn from the campaign's seed.

    Attributes:
        number: in the campaign.
        fault: a name of `FAULTS`.
        modality: kind of data.
        ranks: processes.
        workers: of each loader.
        step: the fault comes once the log has this step; -1 comes while the run starts up.
        in_save: it waits for a checkpoint being written, too.
        delay: seconds after that.
        draw: seed of all further choices.
    """

    number: int
    fault: str
    modality: str
    ranks: int
    workers: int
    step: int
    in_save: bool
    delay: float
    draw: int


@dataclass
class Result:
    """What became of a trial.

    Attributes:
        trial: what was done.
        wrong: what should not have been, in words; empty for a success.
        codes: exit codes of the processes, by launch.
        said: the last line of each launch that refused.
        resumed: the checkpoint that the last launch went on from, "" for the beginning.
        at: the log's last step when the fault came.
        seconds: in all.
    """

    trial: Trial
    wrong: list[str] = field(default_factory=list)
    codes: list[list[int | None]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    resumed: str = ""
    at: int = 0
    seconds: float = 0.0


class Broken:
    """A run while it is being broken."""

    def __init__(self, trial: Trial, plan: Plan):
        self.trial, self.plan = trial, plan
        self.draw = random.Random(trial.draw)
        self.result = Result(trial)

    def begin(self, plan: Plan | None = None) -> Ranks:
        """Start the command in its processes."""
        said = str(self.plan.folder / f"said-{len(self.result.codes)}")
        return Ranks(work, self.trial.ranks, (plan or self.plan, said))

    def end(self, ranks: Ranks, grace: float | None = None) -> list[int | None]:
        """Wait for the processes; note how they ended and what they said."""
        launch = len(self.result.codes)
        codes = ranks.join(LATE, grace=grace)
        self.result.codes.append(codes)
        for rank, code in enumerate(codes):
            said = self.plan.folder / f"said-{launch}-{rank}.txt"
            lines = said.read_text(errors="replace").splitlines() if said.exists() else []
            if code in (1, 2):
                self.result.said.append(lines[-1][:300] if lines else "nothing")
            if code == 1:  # what a thread of Python's own prints at the end is no failure
                self.wrong(f"launch {launch}, rank {rank} ended in a traceback")
        return codes

    def whole(self, plan: Plan | None = None, grace: float | None = None) -> list[int | None]:
        """The command from beginning to end."""
        return self.end(self.begin(plan), grace)

    def wait(self, ranks: Ranks) -> None:
        """Until the moment of the fault, or the run's end."""
        trial, run = self.trial, self.plan.run
        while len(ranks.pids) == trial.ranks and last_step(run) < trial.step:
            time.sleep(0.005)
        until = time.monotonic() + 5.0  # the last save may be over
        while trial.in_save and len(ranks.pids) == trial.ranks and time.monotonic() < until:
            if checkpoint.staging(run).exists():
                break
            time.sleep(0.0005)
        time.sleep(trial.delay)
        self.result.at = last_step(run)

    @property
    def alone(self) -> float:
        """Seconds that a rank may go on without another one."""
        return ALONE if self.result.at else START

    def wrong(self, sentence: str) -> None:
        """Note what should not have been."""
        self.result.wrong.append(sentence)

    def killed(self, plan: Plan | None = None) -> None:
        """Run, and SIGKILL all ranks at the moment."""
        ranks = self.begin(plan)
        self.wait(ranks)
        workers = _workers(ranks)
        for pid in ranks.pids:
            os.kill(pid, signal.SIGKILL)
        self.end(ranks)
        if psutil.wait_procs(workers, timeout=30)[1]:
            self.wrong("30 s after the trainer its worker was still there")


def _workers(ranks: Ranks) -> list[psutil.Process]:
    """Of the loaders, by the name that torch gives them."""
    with contextlib.suppress(psutil.NoSuchProcess):
        children = [p for pid in ranks.pids for p in psutil.Process(pid).children()]
        return [p for p in children if p.name().startswith("pt_data")]
    return []


def _kill(broken: Broken) -> None:
    broken.killed()


def _term(broken: Broken) -> None:
    ranks = broken.begin()
    broken.wait(ranks)
    before = last_step(broken.plan.run)
    if pids := ranks.pids:
        os.kill(broken.draw.choice(pids), signal.SIGTERM)
    codes = broken.end(ranks, broken.alone)
    found = checkpoint.newest_valid(broken.plan.run)
    step = 0 if found is None else int(found.name.rpartition("-")[2])
    if set(codes) == {0} and step < before:
        broken.wrong(f"asked to stop after step {before}, it saved step {step}")
    if -signal.SIGKILL in codes and before:
        broken.wrong("asked to stop, it had to be killed")


def _rank(broken: Broken) -> None:
    ranks = broken.begin()
    broken.wait(ranks)
    if pids := ranks.pids:
        os.kill(broken.draw.choice(pids), signal.SIGKILL)
    codes = broken.end(ranks, broken.alone)
    if codes.count(-signal.SIGKILL) > 1 and broken.result.at:
        broken.wrong(f"{ALONE:.0f} s after a rank had died, another one still waited for it")


def _worker(broken: Broken) -> None:
    ranks = broken.begin()
    broken.wait(ranks)
    workers = _workers(ranks)
    if workers:
        broken.draw.choice(workers).kill()
    codes = broken.end(ranks, ALONE)
    if -signal.SIGKILL in codes:
        broken.wrong("without its worker it went on for ever")
    if workers and set(codes) != {0} and not any("worker" in s for s in broken.result.said):
        broken.wrong("it did not say that a worker had died")


def _full(broken: Broken) -> None:
    # What a full disk answers (ENOSPC), a limit on the size of files answers, too (EFBIG), to
    # every writer of the process, compiled ones included; it needs no file system of its own.
    ranks = broken.begin()
    broken.wait(ranks)
    limit = broken.draw.choice((0, 10, 500, 5_000, 20_000))
    for pid in ranks.pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    codes = broken.end(ranks, ALONE)
    if -signal.SIGKILL in codes or -signal.SIGXFSZ in codes:
        broken.wrong("a full disk neither let it go on nor ended it")


def _read_only(broken: Broken) -> None:
    ranks = broken.begin(replace(broken.plan, mortal=True))
    broken.wait(ranks)
    if broken.plan.run.exists():
        broken.plan.run.chmod(stat.S_IRUSR | stat.S_IXUSR)
    codes = broken.end(ranks, ALONE)
    broken.plan.run.chmod(stat.S_IRWXU) if broken.plan.run.exists() else None
    if -signal.SIGKILL in codes:
        broken.wrong("a folder that nobody may write to neither let it go on nor ended it")


def _truncated(broken: Broken) -> None:
    broken.killed()
    found = checkpoint.checkpoints(broken.plan.run)
    if not found:
        return
    file = broken.draw.choice(sorted(p for p in found[0].iterdir() if p.is_file()))
    content = file.read_bytes()
    how = broken.draw.choice(("cut", "flip", "gone"))
    if how == "gone":
        file.unlink()
    elif how == "cut" or not content:
        file.write_bytes(content[: broken.draw.randrange(max(len(content), 1))])
    else:
        place = broken.draw.randrange(len(content))
        flipped = content[place] ^ (1 << broken.draw.randrange(8))
        file.write_bytes(content[:place] + bytes([flipped]) + content[place + 1 :])


def _shard(broken: Broken) -> None:
    broken.killed()
    file = broken.draw.choice(sorted(broken.plan.data.iterdir()))
    content, about = file.read_bytes(), file.stat()
    file.write_bytes(content[: broken.draw.randrange(len(content))])
    codes = broken.whole(grace=ALONE)
    # Cut between two lines it is a smaller file, not a broken one: the count of samples tells.
    if 0 in codes and last_step(broken.plan.run) < STEPS:
        broken.wrong(f"with {file.name} cut it ended early and said that all was well")
    elif set(codes) == {0}:
        broken.wrong(f"with {file.name} cut it went on as if nothing had happened")
    file.write_bytes(content)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))


def _nan(broken: Broken) -> None:
    broken.killed()


def _clock(broken: Broken) -> None:
    jump = broken.draw.choice((-1, 1)) * broken.draw.choice((2.0, 3_600.0, 4e8))
    broken.killed(replace(broken.plan, jump=(jump, broken.draw.randrange(STEPS))))
    for path in sorted(broken.plan.run.rglob("*")):  # as if written in any order, at any time
        at = broken.draw.uniform(0, 4e9)
        os.utime(path, (at, at))


FAULTS: dict[str, Callable[[Broken], None]] = {
    "kill": _kill,
    "term": _term,
    "rank": _rank,
    "worker": _worker,
    "full disk": _full,
    "read-only": _read_only,
    "truncated": _truncated,
    "shard": _shard,
    "nan": _nan,
    "clock": _clock,
}


def run_trial(trial: Trial, plan: Plan, expected: dict[str, Any]) -> Result:
    """Break a run, resume it by the same command, and compare it with the uninterrupted one.

    Args:
        trial: what to do.
        plan: of the run.
        expected: `outcome` of the run that nothing happened to.
    """
    broken, began = Broken(trial, plan), time.monotonic()
    data = {p: p.read_bytes() for p in sorted(plan.data.iterdir())}
    FAULTS[trial.fault](broken)
    newest = checkpoint.newest_valid(plan.run)
    codes = broken.whole(grace=ALONE)
    if set(codes) != {0}:
        broken.wrong(f"the resumed run ended with {codes}: {' '.join(broken.result.said[-1:])}")
    else:
        try:
            found = differences(expected, outcome(plan.run))
        except (ValueError, OSError, KeyError) as error:
            found = [str(error)]
        broken.result.wrong += found[:3]
    broken.result.resumed = _resumed(broken)
    if broken.result.resumed != ("" if newest is None else newest.name):
        broken.wrong(f"it went on from {broken.result.resumed or 'the beginning'}, not {newest}")
    if trial.fault not in ("truncated", "clock") and (lost := _lost(broken)) > SAVED:
        broken.wrong(f"{lost} steps were lost, with a checkpoint each {SAVED}")
    broken.result.wrong += [f"left behind: {name}" for name in _left(plan)]
    broken.result.wrong += [f"opened: {name}" for name in _opened(plan)]
    if data != {p: p.read_bytes() for p in sorted(plan.data.iterdir())}:
        broken.wrong("the data was changed")
    broken.result.seconds = round(time.monotonic() - began, 1)
    return broken.result


def _resumed(broken: Broken) -> str:
    note = broken.plan.folder / f"said-{len(broken.result.codes) - 1}-resumed.txt"
    return Path(note.read_text()).name if note.exists() else ""


def _lost(broken: Broken) -> int:
    name = broken.result.resumed
    return broken.result.at - (int(name.rpartition("-")[2]) if name else 0)


def _left(plan: Plan) -> Iterator[str]:
    """Files outside the output folder, when all is over."""
    for place in ("home", "tmp", "cwd"):
        for path in (plan.folder / place).rglob("*"):
            # The folders that Python and torch make for sockets between processes.
            if not path.relative_to(plan.folder / place).parts[0].startswith(("pymp-", "torch_")):
                yield str(path.relative_to(plan.folder))
    known = {"run.json", "log.jsonl", "first_batch.json", "media.json", "model", "untrained"}
    for path in plan.run.iterdir() if plan.run.exists() else ():
        if path.name not in known and not path.name.startswith(("checkpoint-", "heads")):
            yield str(path.relative_to(plan.folder))


def _opened(plan: Plan) -> set[str]:
    files = plan.folder.glob("said-*-opened.txt")
    return {line for file in files for line in file.read_text().splitlines()}


__all__ = ["FAULTS", "Result", "Trial", "run_trial"]
