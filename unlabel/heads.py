"""The trained heads of a run that are of use afterwards: what scores samples, draws or compares."""

import inspect
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from unlabel.objectives import CATALOGUE, Flow, Objective, Sum

_FILE = "heads.safetensors"


def save_heads(method: Objective, run: Path) -> None:
    """Write the heads of what scores or draws beside the run's model, and every learned scale.

    Those of the parts of a sum stand behind their names.
    """
    parts: Mapping[str, Objective] = getattr(method, "parts", {"": method})
    state = {
        f"{name}.{key}".removeprefix("."): value.detach().cpu().contiguous()
        for name, part in parts.items()
        for key, value in part.state_dict().items()
        if _can(type(part), "surprise") or _can(type(part), "drawn") or _is_scale(key, value)
    }
    if state:
        save_file(state, run / _FILE)


def load_scale(run: Path) -> float | None:
    """What a run learned to multiply cosines with, None where it learned none or kept none."""
    state = load_file(run / _FILE) if (run / _FILE).is_file() else {}
    scales = (x for key, x in state.items() if _is_scale(key, x))
    return next((math.exp(float(x)) for x in scales), None)


def _is_scale(key: str, value: Tensor) -> bool:
    """Whether it is what `Temperature` learns; a coupling has a vector of that name."""
    return key.split(".")[-1] == "log_scale" and not value.dim()


def load_scoring(run: Path, encoder: Any) -> Objective:
    """The method of a finished run that scores, see `_load`."""
    return _load(run, encoder, "surprise", "expects no values, so it cannot score any")


def load_drawing(run: Path, encoder: Any) -> Objective:
    """The method of a finished run that draws samples, see `_load`."""
    return _load(run, encoder, "drawn", "learns no samples, so it cannot draw any")


def _load(run: Path, encoder: Any, hook: str, cannot: str) -> Objective:
    """The method of a finished run, or the first part of a sum, that has what is asked for.

    With its trained heads, in evaluation mode.

    Args:
        run: the run's folder, or that of an invertible encoder alone, which needs no heads.
        encoder: of the run.
        hook: the method of `Objective` that is asked for.
        cannot: why not, where no method has it.

    Raises:
        ValueError: the run has no such method, or its heads are missing or do not fit.
    """
    file = run / "run.json"
    if not file.is_file() and "likelihood" in encoder.gives:
        flow = Flow()
        flow.build(encoder)
        return flow.eval()
    if not file.is_file():
        raise ValueError(f"{run} is not the output folder of a run, which holds the trained heads.")
    about = json.loads(file.read_text())["objective"]
    found = ((name, _made(own, hook)) for name, own in about.get("parts", {"": about}).items())
    name, own = next(((n, m) for n, m in found if m is not None), ("", None))
    if own is None:
        can = [n for n, m in CATALOGUE.items() if _can(m, hook)]
        raise ValueError(f"{about['class']} {cannot}; train {', '.join(can)}.")
    own.meet(encoder)
    own.build(encoder)
    if own.state_dict():
        if not (run / _FILE).is_file():
            raise ValueError(f"{run} holds no {_FILE}: the run has not come to its end.")
        front = f"{name}." if name else ""
        state = load_file(run / _FILE)
        own_state = {k.removeprefix(front): v for k, v in state.items() if k.startswith(front)}
        try:
            own.load_state_dict(own_state)
        except RuntimeError as error:
            said = str(error).splitlines()[-1].strip()
            raise ValueError(f"{run / _FILE} does not fit {about['class']}: {said}") from None
    return own.eval()


def _can(kind: type[Objective], hook: str) -> bool:
    """A sum passes on what its parts can, and can nothing itself."""
    return not issubclass(kind, Sum) and getattr(kind, hook) is not getattr(Objective, hook)


def _made(about: dict[str, Any], hook: str) -> Objective | None:
    """A method as it is described in a run's record, if it has what is asked for.

    Its views do not matter.
    """
    kind = next((m for m in CATALOGUE.values() if m.__name__ == about["class"]), None)
    if kind is None or not _can(kind, hook):
        return None
    settings = about.get("settings", {})
    return kind(**{k: v for k, v in settings.items() if k in _takes(kind)})


def _takes(kind: type[Objective]) -> set[str]:
    """Names of arguments; `**options` are those of the class above."""
    found: set[str] = set()
    for own in (c for c in kind.__mro__ if "__init__" in vars(c)):
        parameters = inspect.signature(own.__init__).parameters.values()
        found |= {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


__all__ = ["load_drawing", "load_scale", "load_scoring", "save_heads"]
