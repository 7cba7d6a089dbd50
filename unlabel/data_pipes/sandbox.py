"""Examine files in a process of their own: what crashes or hangs there stops nothing here."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from unlabel.data_pipes.media import Media, examine, identity, kind_of_media

_START = 60.0  # seconds that a fresh process may take to import its libraries


class Sandbox:
    """One worker process, started anew after it crashed or was stopped for hanging.

    Args:
        patience: seconds without a sign of life (a new frame) after which a file counts as
            hanging.
        command: what is started; it answers lines of JSON, see `serve`.
    """

    def __init__(self, *, patience: float = 30.0, command: Sequence[str] | None = None):
        self.patience = patience
        self.command = list(command or [sys.executable, "-m", "unlabel.data_pipes.sandbox"])
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()

    def examine(self, path: str | Path, kind: str | None = None) -> Media:
        """What the file holds; a crash or a hang is its fault, and named so."""
        path, kind = Path(path), kind or kind_of_media(Path(path))
        process = self._running()
        try:
            process.stdin.write(json.dumps([str(path), kind]) + "\n")
            process.stdin.flush()
            while (line := self._lines.get(timeout=self.patience)) == "\n":
                pass
        except (queue.Empty, OSError):
            self.close()
            return _at_fault(path, kind, f"the decoder gave no frame for {self.patience:g} s")
        if line is None:
            code = process.wait()
            self._process = None
            ended = f"signal {-code}" if code < 0 else f"exit code {code}"
            return _at_fault(path, kind, f"the decoder crashed ({ended})")
        answer = json.loads(line)
        if "missing" in answer:
            raise ImportError(answer["missing"])
        return Media.from_dict(answer)

    def close(self) -> None:
        """Stop the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        root = str(Path(__file__).parents[2])
        paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the decoders' own complaints
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": paths},
        )
        # A queue of its own: what the last process still says must not be heard.
        self._process, self._lines = process, queue.Queue()
        threading.Thread(target=_listen, args=(process, self._lines), daemon=True).start()
        try:
            if self._lines.get(timeout=_START) == "\n":
                return process
        except queue.Empty:
            pass
        self.close()
        raise RuntimeError(f"The process that examines files does not start: {self.command}.")


def examine_all(
    paths: Sequence[str | Path],
    kind: str | None = None,
    *,
    jobs: int | None = None,
    patience: float = 30.0,
) -> Iterator[Media]:
    """What each of many files holds, in order, each decoded once, in processes of their own.

    Args:
        paths: of the files.
        kind: of all of them, see `examine`.
        jobs: processes; None for one a core.
        patience: see `Sandbox`.
    """
    if not paths:
        return
    jobs = min(jobs or os.cpu_count() or 1, 1 + len(paths) // 8)
    boxes: list[Sandbox] = []
    local = threading.local()

    def begin() -> None:
        local.box = Sandbox(patience=patience)
        boxes.append(local.box)

    pool = ThreadPoolExecutor(jobs, initializer=begin)
    try:
        yield from pool.map(lambda path: local.box.examine(path, kind), paths)
    finally:
        pool.shutdown(cancel_futures=True)
        for box in boxes:
            box.close()


def serve() -> None:
    """The worker: a path a line comes in; empty lines as signs of life and one of JSON go out."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer

    def say(text: str = "") -> None:
        answers.write(text + "\n")
        answers.flush()

    import av  # noqa: F401  (the slow part of the start)

    say()
    for line in sys.stdin:
        try:
            say(json.dumps(examine(*json.loads(line), alive=say).as_dict()))
        except ImportError as e:
            say(json.dumps({"missing": str(e)}))


def _listen(process: subprocess.Popen[str], lines: "queue.Queue[str | None]") -> None:
    for line in process.stdout or ():
        lines.put(line)
    lines.put(None)


def _at_fault(path: Path, kind: str, fault: str) -> Media:
    size, changed = identity(path)
    return Media(str(path), kind, fault=fault, size=size, changed=changed)


if __name__ == "__main__":
    serve()
