"""Encoders for benchmarks, from a run's output folder or the folder they were saved in."""

from pathlib import Path
from typing import Any

from unlabel.embedding import device_of, modality_of, run_model_folder
from unlabel.modalities import MODALITIES


def saved_encoder(path: str | Path, *modalities: str, device: str | None = None) -> Any:
    """The encoder of a run's output folder, or of the folder it was saved in.

    Args:
        path: the folder.
        modalities: that the benchmark is for; a folder that does not tell is of the first.
        device: as for torch; a GPU where there is one.

    Raises:
        FileNotFoundError: no such folder, or no model in it.
        ValueError: the folder holds an encoder of something else.
    """
    folder = run_model_folder(Path(path)) or Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{path} is no folder; give a run's output folder or that of a saved encoder."
        )
    if (kind := modality_of(folder, unsaid=modalities[0])) not in modalities:
        raise ValueError(
            f"{path} is an encoder of {kind}; this benchmark is for {' and '.join(modalities)}."
        )
    encoder = MODALITIES[kind].from_pretrained(folder, local_files_only=True)
    return encoder.to(device_of(device))


__all__ = ["saved_encoder"]
