"""What do broken videos do to each reader: refuse, crash, hang, or give wrong frames in silence?

    python -m unlabel.benchmarks.video_faults --zoo FOLDER --output faults.json

Every file of a folder, and copies of whole videos damaged here (cut at several places, bits
flipped, emptied, ...), is read by each backend in a process of its own, with a time limit. Frames
of a damaged copy are compared with those of its original, so that wrong ones are known as such.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from unlabel.benchmarks.commands import run_command
from unlabel.data_pipes.faults import DecodeError
from unlabel.data_pipes.media import examine
from unlabel.data_pipes.sandbox import Sandbox, serve
from unlabel.data_pipes.video import VIDEO_SUFFIXES, read_clip
from unlabel.data_pipes.video_readers import READERS

_SIZE = (48, 64)
_WRONG = 12.0  # mean difference of a frame to the original one, 0 to 255; copies of it lie below 2
_PROBES = 12


@dataclass(frozen=True)
class Outcome:
    """One file in one reader.

    Attributes:
        file: its name.
        backend: `scan`, `av`, `decord` or `torchcodec`.
        good: whole frames before the first damage, by the scan.
        given: probed frames that were given, of those that the original has.
        refused: probed frames that were refused.
        wrong: of the given, those that differ from the original's; None where there is none.
        lost_good: probed frames before the damage that were refused.
        whole: what reading all frames gave: their number, or the fault.
    """

    file: str
    backend: str
    good: int
    given: int = 0
    refused: int = 0
    wrong: int | None = None
    lost_good: int = 0
    whole: str = ""

    @property
    def died(self) -> bool:
        """Whether the process crashed or hung."""
        return "the decoder" in self.whole


def video_faults(
    *,
    zoo: str | None = None,
    output: str | None = None,
    patience: float = 30.0,
    copies: bool = True,
    seed: int = 0,
) -> list[Outcome]:
    """Read all files by all backends, print the table, and return what happened.

    Args:
        zoo: folder of sound and broken videos; None takes damaged copies of a generated one alone.
        output: JSON file for all outcomes.
        patience: seconds without an answer after which a reader hangs.
        copies: damage copies of whole videos, too.
        seed: of the flipped bits.
    """
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as name:
        files = dict.fromkeys(_videos(zoo))
        if copies:
            originals = [p for p in files if _is_original(p)] or [_generated(Path(name))]
            for original in originals:
                for copy in damaged_copies(original, Path(name) / original.stem, seed=seed):
                    files[copy] = original
        command = [sys.executable, "-m", "unlabel.benchmarks.video_faults", "--serve"]
        box = Sandbox(patience=patience, command=command)
        try:
            for path, original in files.items():
                scanned = box.ask([str(path), "scan", None])
                outcomes.append(_outcome(path, original, "scan", scanned, 0))
                for backend in installed():
                    answer = box.ask([str(path), backend, original and str(original)])
                    good = scanned.get("good", 0) if isinstance(scanned, dict) else 0
                    outcomes.append(_outcome(path, original, backend, answer, good))
        finally:
            box.close()
    Console(width=150).print(_table(outcomes))
    if output is not None:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        Path(output).write_text(json.dumps([asdict(o) for o in outcomes], indent=1) + "\n")
    return outcomes


def installed() -> list[str]:
    """The backends whose libraries import here."""
    found = []
    for name, module in zip(READERS, ("av", "decord", "torchcodec.decoders"), strict=True):
        try:
            import_module(module)
            found.append(name)
        except (ImportError, OSError, RuntimeError):
            continue
    return found


def damaged_copies(original: Path, folder: Path, *, seed: int = 0) -> list[Path]:
    """Copies of a video, each damaged in one way.

    Args:
        original: a whole video.
        folder: to write to.
        seed: of the flipped bits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content, random = original.read_bytes(), np.random.default_rng(seed)
    half = len(content) // 2
    damage: dict[str, bytes] = {
        f"cut_at_{share}": content[: len(content) * share // 100] for share in (2, 30, 60, 90, 99)
    }
    for count in (1, 10, 100):
        damage[f"bits_{count}"] = _flipped(content, count, random)
    damage["hole"] = content[:half] + bytes(4096) + content[half + 4096 :]
    damage["missing_middle"] = content[:half] + content[half + len(content) // 8 :]
    damage["no_head"] = content[2048:]
    damage["empty"] = b""
    damage["one_byte"] = content[:1]
    damage["text"] = b"This is no video.\n" * 200
    paths = []
    for name, data in damage.items():
        paths.append(folder / f"{original.stem}_{name}{original.suffix}")
        paths[-1].write_bytes(data)
    return [*paths, *_without_video(original, folder)]


def _without_video(original: Path, folder: Path) -> list[Path]:
    """A container without a frame, and one with sound alone."""
    import av

    paths = [folder / f"{original.stem}_no_frame.mp4", folder / f"{original.stem}_sound_only.mp4"]
    with av.open(str(paths[0]), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        file.start_encoding()
        file.mux(stream.encode(None))
    with av.open(str(paths[1]), "w") as file:
        track = file.add_stream("aac", rate=16000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        sound.sample_rate = 16000
        file.mux(track.encode(sound))
        file.mux(track.encode(None))
    return paths


def _flipped(content: bytes, count: int, random: np.random.Generator) -> bytes:
    """Bits flipped in the last nine tenths: where the frames are."""
    flipped = bytearray(content)
    for place in random.integers(len(content) // 10, len(content), count):
        flipped[place] ^= 1 << int(random.integers(8))
    return bytes(flipped)


def _videos(zoo: str | None) -> list[Path]:
    if zoo is None:
        return []
    files = sorted(p for p in Path(zoo).iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise FileNotFoundError(f"{zoo} holds no videos; give a folder of some.")
    return files


def _is_original(path: Path) -> bool:
    media = examine(path)
    return not media.fault and not media.cut and 100 < media.frames < 300


def _generated(folder: Path) -> Path:
    import av

    path, random = folder / "generated.mp4", np.random.default_rng(0)
    texture = np.kron(random.integers(0, 255, (12, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        stream = file.add_stream("libx264", rate=25, options={"g": "25"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for place in range(120):
            pixels = np.roll(texture, 3 * place, 1)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
    return path


# -- one file in one reader, in the worker --------------------------------------------------------


def _answer(request: list[Any], alive: Callable[[], None]) -> dict[str, Any]:
    path, backend, original = request
    if backend == "scan":
        media = examine(path, alive=alive)
        whole = media.fault or f"{media.frames} frames" + ", cut off" * media.cut
        return {"good": media.frames, "whole": whole}
    try:
        whole = f"{len(read_clip(path, size=_SIZE, backend=backend))} frames"
    except DecodeError as e:
        whole = e.cause
    alive()
    truth = None if original is None else read_clip(original, size=_SIZE, backend="av")
    count = max(examine(path).frames, 1) if truth is None else len(truth)
    found = {}
    for place in np.unique(np.linspace(0, count - 1, _PROBES).astype(int)).tolist():
        alive()
        try:
            frame = read_clip(path, [place], size=_SIZE, backend=backend)[0]
        except DecodeError:
            found[place] = None
            continue
        found[place] = (
            0.0 if truth is None else float(np.abs(frame - truth[place].astype(int)).mean())
        )
    return {"whole": whole, "found": sorted(found.items()), "compared": truth is not None}


def _outcome(path: Path, original: Path | None, backend: str, answer: Any, good: int) -> Outcome:
    name = path.name
    if isinstance(answer, str):
        return Outcome(name, backend, good, whole=answer)
    if backend == "scan":
        return Outcome(name, backend, answer["good"], whole=answer["whole"])
    found = answer["found"]
    given = [(place, far) for place, far in found if far is not None]
    return Outcome(
        file=name,
        backend=backend,
        good=good,
        given=len(given),
        refused=len(found) - len(given),
        wrong=sum(far > _WRONG for _, far in given) if answer["compared"] else None,
        lost_good=sum(far is None and place < good for place, far in found),
        whole=answer["whole"],
    )


def _table(outcomes: list[Outcome]) -> Table:
    backends = [b for b in dict.fromkeys(o.backend for o in outcomes) if b != "scan"]
    died = sum(o.died for o in outcomes)
    table = Table(
        title=f"{len({o.file for o in outcomes})} files, {died} crashes or hangs; of "
        f"{_PROBES} places asked for: given, of these wrong, refused though whole",
        title_justify="left",
    )
    table.add_column("file", overflow="fold")
    table.add_column("scan", overflow="fold")
    for backend in backends:
        table.add_column(backend, justify="right")
    for file in dict.fromkeys(o.file for o in outcomes):
        mine = {o.backend: o for o in outcomes if o.file == file}
        scanned = mine["scan"]
        before = f" ({scanned.good} good before)" if "frames" not in scanned.whole else ""
        table.add_row(file, scanned.whole + before, *[_cell(mine[b]) for b in backends])
    totals = [[o for o in outcomes if o.backend == b] for b in backends]
    table.add_section()
    table.add_row("all", "", *[
        f"{sum(o.given for o in t)}, {sum(o.wrong or 0 for o in t)}, {sum(o.lost_good for o in t)}"
        for t in totals
    ])  # fmt: skip
    return table


def _cell(outcome: Outcome) -> str:
    if outcome.died:
        return outcome.whole
    wrong = "-" if outcome.wrong is None else outcome.wrong
    return f"{outcome.given}, {wrong}, {outcome.lost_good}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options of `video_faults` from the command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--serve"]:
        return serve(_answer)
    run_command(video_faults, given)
    return None


if __name__ == "__main__":
    main()
