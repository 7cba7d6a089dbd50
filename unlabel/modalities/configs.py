"""transformers configurations of encoders: new ones checked key by key, saved ones found."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.utils import get_session
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import cached_file

from unlabel.modalities.dropout import set_dropout

SETTINGS = "unlabel.json"  # beside config.json


def new_config(
    kind: str, keys: Mapping[str, Any], *, defaults: Mapping[str, Any], dropout: float | None
) -> PreTrainedConfig:
    """A configuration of `keys` over `defaults`, its dropout set before any layer reads it.

    Args:
        kind: the model type, as `bert`.
        keys: as the user gave them.
        defaults: where they say nothing.
        dropout: sets every dropout probability; None leaves them alone.

    Raises:
        ValueError: a key that such a configuration does not have.
    """
    made = AutoConfig.for_model(kind, **{**defaults, **keys})
    known = type(made)().to_dict()
    if unknown := sorted(k for k in keys if k not in known):
        raise ValueError(
            f"{', '.join(unknown)}: no such key in the configuration of {kind!r} models. "
            f"Look at {type(made).__name__} for the keys there are."
        )
    set_dropout(made, dropout)
    return made


def saved_config(
    path: str | Path, *, dropout: float | None, local_files_only: bool
) -> PreTrainedConfig:
    """The configuration of a saved model, by its folder or hub name, with its dropout set.

    Raises:
        FileNotFoundError: the folder holds no model, or is not there and no name on the hub.
    """
    folder = Path(path)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no config.json, so it is no transformers model folder. "
            "Give the folder of a saved model, or a model's name on the hub."
        )
    is_local = local_files_only or not (folder.exists() or hub_answers())
    try:
        config = AutoConfig.from_pretrained(str(path), local_files_only=is_local)
    except (OSError, ValueError) as error:
        raise (error if folder.exists() else FileNotFoundError(nowhere(path))) from error
    set_dropout(config, dropout)
    return config


def hub_answers() -> bool:
    """Whether the hub can be reached: asked once, where the loaders ask six times for each file."""
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception:  # releases of the hub's library have their own
        return False
    return True


def nowhere(path: str | Path) -> str:
    """What is said of a model that is neither a folder nor on the hub."""
    return (
        f"There is no folder {path}, and no model of that name came from the hub, which knows none "
        "or cannot be reached."
    )


def save_settings(folder: str | Path, settings: Mapping[str, Any]) -> None:
    """Write what a transformers folder cannot say of an encoder, its `modality` among it."""
    text = json.dumps(settings, indent=2) + "\n"
    (Path(folder) / SETTINGS).write_text(text)


def saved_settings(folder: str | Path) -> dict[str, Any]:
    """What `save_settings` wrote, without the modality; nothing where it wrote nothing."""
    file = Path(folder) / SETTINGS
    said = json.loads(file.read_text()) if file.is_file() else {}
    return {k: v for k, v in said.items() if k != "modality"}


def processor_keys(path: str | Path, *, local_files_only: bool) -> dict[str, Any]:
    """What the processor (or feature extractor) beside a saved model says; nothing without one."""
    file = cached_file(
        str(path),
        "preprocessor_config.json",
        local_files_only=local_files_only,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return {} if file is None else json.loads(Path(file).read_text())


__all__ = ["SETTINGS", "hub_answers", "new_config", "nowhere", "processor_keys", "save_settings",
           "saved_config", "saved_settings"]  # fmt: skip
