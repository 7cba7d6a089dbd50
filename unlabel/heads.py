"""The trained heads of a run that are of use afterwards: those that score samples."""

import inspect
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from unlabel.objectives import CATALOGUE, Flow, Objective

_FILE = "heads.safetensors"


def scoring(method: Objective) -> Objective | None:
    """The method, or the first part of a sum, that says how far values are from expected."""
    parts = getattr(method, "parts", None)
    found = [method] if parts is None else list(parts.values())
    return next((m for m in found if type(m).surprise is not Objective.surprise), None)


def save_heads(method: Objective, run: Path) -> None:
    """Write the heads of what scores beside the run's model, if there are any."""
    part = scoring(method)
    state = {} if part is None else part.state_dict()
    if state:
        save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, run / _FILE)


def load_scoring(run: Path, encoder: Any) -> Objective:
    """The method of a finished run that scores, with its trained heads, in evaluation mode.

    Args:
        run: the run's folder, or that of an invertible encoder alone, which needs no heads.
        encoder: of the run.

    Raises:
        ValueError: the run has no such method, or its heads are missing or do not fit.
    """
    file = run / "run.json"
    if not file.is_file() and "likelihood" in encoder.gives:
        return Flow()
    if not file.is_file():
        raise ValueError(f"{run} is not the output folder of a run, which holds the trained heads.")
    about = json.loads(file.read_text())["objective"]
    own = next((made for a in _all(about) if (made := _made(a)) is not None), None)
    if own is None:
        can = [n for n, m in CATALOGUE.items() if m.surprise is not Objective.surprise]
        raise ValueError(
            f"{about['class']} expects no values, so it cannot score any; train {', '.join(can)}."
        )
    own.meet(encoder)
    own.build(encoder)
    if own.state_dict():
        if not (run / _FILE).is_file():
            raise ValueError(f"{run} holds no {_FILE}: the run has not come to its end.")
        try:
            own.load_state_dict(load_file(run / _FILE))
        except RuntimeError as error:
            said = str(error).splitlines()[-1].strip()
            raise ValueError(f"{run / _FILE} does not fit {about['class']}: {said}") from None
    return own.eval()


def _all(about: dict[str, Any]) -> list[dict[str, Any]]:
    return list(about["parts"].values()) if "parts" in about else [about]


def _made(about: dict[str, Any]) -> Objective | None:
    """A method as it is described in a run's record, if it scores; its views do not matter."""
    kind = next((m for m in CATALOGUE.values() if m.__name__ == about["class"]), None)
    if kind is None or kind.surprise is Objective.surprise:
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


__all__ = ["load_scoring", "save_heads", "scoring"]
