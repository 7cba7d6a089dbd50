"""Examine files in a process of their own: what crashes or hangs there stops nothing here."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from unlabel.data_pipes.kept_frames import KeptFrames, Spool
from unlabel.data_pipes.media import Media, examine, kind_of_media
from unlabel.files import identity

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

    def examine(
        self, path: str | Path, kind: str | None = None, spool: list[Any] | None = None
    ) -> Media:
        """What the file holds; a crash or a hang is its fault, and named so.

        Args:
            path: of the file.
            kind: see `examine`.
            spool: arguments of the `Spool` that takes its frames.

        Raises:
            ImportError: a library is missing.
        """
        path, kind = Path(path), kind or kind_of_media(Path(path))
        answer = self.ask([str(path), kind, spool])
        if isinstance(answer, str):
            size, changed = identity(path)
            return Media(str(path), kind, fault=answer, size=size, changed=changed)
        if "missing" in answer:
            raise ImportError(answer["missing"])
        return Media.from_dict(answer)

    def ask(self, request: Any) -> dict[str, Any] | str:
        """The worker's answer to a request, or what became of the worker."""
        process = self._running()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            while (line := self._lines.get(timeout=self.patience)) == "\n":
                pass
        except (queue.Empty, OSError):
            self.close()
            return f"the decoder gave no frame for {self.patience:g} s"
        if line is None:
            code = process.wait()
            self.close()
            ended = f"signal {-code}" if code < 0 else f"exit code {code}"
            return f"the decoder crashed ({ended})"
        return json.loads(line)

    def close(self) -> None:
        """Stop the process."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._ears.join()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what was still to be written to the dead
                pipe.close()
        self._process = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
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
        self._ears = threading.Thread(target=_listen, args=(process, self._lines), daemon=True)
        self._ears.start()
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
    kept: KeptFrames | None = None,
) -> Iterator[Media]:
    """What each of many files holds, in order, each decoded once, in processes of their own.

    Args:
        paths: of the files.
        kind: of all of them, see `examine`.
        jobs: processes; None for one a core.
        patience: see `Sandbox`.
        kept: takes their frames.
    """
    if not paths:
        return
    jobs = min(jobs or os.cpu_count() or 1, 1 + len(paths) // 8)
    boxes: list[Sandbox] = []
    local, lock = threading.local(), threading.Lock()

    def begin() -> None:
        local.box = Sandbox(patience=patience)
        boxes.append(local.box)

    def look(path: str | Path) -> Media:
        media = local.box.examine(path, kind, kept.order(path) if kept else None)
        if kept is not None:
            with lock:
                kept.settle(media)
        return media

    pool = ThreadPoolExecutor(jobs, initializer=begin)
    try:
        yield from pool.map(look, paths)
    finally:
        pool.shutdown(cancel_futures=True)
        for box in boxes:
            box.close()


def serve(answer: Callable[[Any, Callable[[], None]], dict[str, Any]]) -> None:
    """The worker: a request a line comes in; empty lines as signs of life and one of JSON go out.

    Args:
        answer: makes the answer to a request, and calls its second argument to show life.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer

    def say(text: str = "") -> None:
        answers.write(text + "\n")
        answers.flush()

    say()
    for line in sys.stdin:
        say(json.dumps(answer(json.loads(line), say)))


def _examine(request: list[Any], alive: Callable[[], None]) -> dict[str, Any]:
    path, kind, spool = request
    try:
        return examine(path, kind, alive, Spool(*spool) if spool else None).as_dict()
    except ImportError as e:
        return {"missing": str(e)}


def _listen(process: subprocess.Popen[str], lines: "queue.Queue[str | None]") -> None:
    for line in process.stdout or ():
        lines.put(line)
    lines.put(None)


if __name__ == "__main__":
    serve(_examine)
