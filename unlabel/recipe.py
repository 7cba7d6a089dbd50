"""A recipe of what was made in Python or changed by a search: the YAML that `train` reads."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from unlabel.files import replacing
from unlabel.objectives import Objective
from unlabel.training.arguments import TrainingArguments


def recipe_of(
    objective: Objective,
    *,
    modality: str,
    data: Any,
    options: Any,
    training: TrainingArguments,
) -> dict[str, Any]:
    """What `unlabel train` needs to know, defaults left out.

    Args:
        objective: with any arguments that YAML can say.
        modality: kind of data.
        data: files, or None.
        options: of the kind of data.
        training: arguments.

    Raises:
        ValueError: an argument that is no number, string, list, mapping, dataclass or objective.
    """
    own = _changed(options, type(options)())
    return {
        "modality": modality,
        **({} if data is None else {"data": plain(data)}),
        "objective": plain(objective),
        **({modality: own} if own else {}),
        "training": {
            "output_dir": str(training.output_dir),
            **_changed(training, TrainingArguments(output_dir=str(training.output_dir))),
        },
    }


def plain(value: Any) -> Any:
    """A value as YAML has it; an objective as its class and the arguments it was made with."""
    if isinstance(value, Objective):
        bound = inspect.signature(type(value).__init__).bind(
            value, *value.given[0], **value.given[1]
        )
        said = dict(list(bound.arguments.items())[1:])
        said |= said.pop("kwargs", {})
        found = {"class_path": f"unlabel.objectives.{type(value).__name__}"}
        return {**found, "init_args": plain(said)} if said else found
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [plain(v) for v in value]
    raise ValueError(f"A recipe cannot say {value!r}: it holds numbers, words and lists of them.")


def write_recipe(path: Path, recipe: Mapping[str, Any], *, head: Sequence[str] = ()) -> None:
    """Write a recipe under some lines of comment."""
    said = "".join(f"# {line}\n" for line in head)
    with replacing(path) as partial:
        partial.write_text(said + yaml.safe_dump(dict(recipe), sort_keys=False), encoding="utf-8")


def _changed(value: Any, usual: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not as usual."""
    fields = (f.name for f in dataclasses.fields(value) if f.init)
    pairs = {n: (getattr(value, n), getattr(usual, n)) for n in fields}
    return {n: plain(a) for n, (a, b) in pairs.items() if a != b}


__all__ = ["plain", "recipe_of", "write_recipe"]
