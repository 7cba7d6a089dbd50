"""Encoders for benchmarks, from a run's output folder or the folder they were saved in."""

from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from unlabel.embedding import device_of, modality_of, run_model_folder, side_folder
from unlabel.modalities import ENCODERS
from unlabel.objectives.heads import mlp_projector
from unlabel.training.checkpoint import checkpoints
from unlabel.training.saving import WEIGHTS


def saved_encoder(path: str | Path, *modalities: str, device: str | None = None) -> Any:
    """The encoder of a run's output folder, or of the folder it was saved in.

    Of an encoder of pairs it is the one side of these kinds, by itself, without its projection.

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
    folder = side_folder(folder, *modalities, unsaid=modalities[0])
    if (kind := modality_of(folder, unsaid=modalities[0])) not in modalities:
        raise ValueError(
            f"{path} is an encoder of {kind}; this benchmark is for {' and '.join(modalities)}."
        )
    encoder = ENCODERS[kind].from_pretrained(folder, local_files_only=True)
    return encoder.to(device_of(device))


def saved_projector(run: Path) -> nn.Module:
    """The projector in a run's newest checkpoint.

    Raises:
        ValueError: no checkpoint, or none with a projector.
    """
    found = checkpoints(run)
    if not found:
        raise ValueError(f"{run} has no checkpoint: train with --training.save_strategy steps.")
    state = safetensors.torch.load_file(found[0] / WEIGHTS)
    head = "objective.projector."
    own = {k.removeprefix(head): v for k, v in state.items() if k.startswith(head)}
    widths = [v for k, v in sorted(own.items()) if k.endswith("weight") and v.dim() == 2]
    if not widths:
        raise ValueError(f"{found[0]} holds no projector; runs of SimCLR, or so, have one.")
    sizes = [widths[0].shape[1], *(w.shape[0] for w in widths)]
    projector = mlp_projector(sizes[0], sizes[-1], layers=len(widths))
    projector.load_state_dict(own)
    return projector.eval()


def projector_layers(folder: Path, layers: int) -> nn.Module | None:
    """The first layers of the projector that an encoder was trained under; None for no layer.

    Args:
        folder: of a run, or of its encoder, `model` or `untrained`; the latter's layers have random
            weights.
        layers: linear layers, each with the ReLU behind it.

    Raises:
        ValueError: no checkpoint, or a projector of fewer layers.
    """
    if not layers:
        return None
    whole = saved_projector(folder if run_model_folder(folder) else folder.parent)
    first = list(whole.children())[: 2 * layers]
    if len(first) < 2 * layers:
        raise ValueError(
            f"The projector of {folder} has no {layers} layers to keep below its last one."
        )
    kept = nn.Sequential(*first)
    if folder.name == "untrained":
        for layer in first[::2]:
            layer.reset_parameters()
    return kept


__all__ = ["projector_layers", "saved_encoder", "saved_projector"]
