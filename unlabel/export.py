"""Hand a trained encoder, and a card of how it was made, to the tools people already use."""

import json
import logging
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from unlabel.embedding import modality_of, run_model_folder
from unlabel.modalities import ENCODERS
from unlabel.modalities.joint import JointEncoder
from unlabel.modalities.text import TextEncoder
from unlabel.modalities.text_folder import transformer_folder
from unlabel.model_card import model_card

logger = logging.getLogger(__name__)
Format = Literal["sentence-transformers", "transformers"]


def export(
    out: str | Path,
    folder: str | Path | None = None,
    *,
    to: Format | None = None,
    side: str | None = None,
    normalize: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a trained encoder in another tool's format; nothing outside `folder` is touched.

    Args:
        out: a run's output folder, or the folder of a model.
        folder: where the export goes; new, or empty. Of a run, by default, a folder named after
            the format (and the side) in the run's output folder.
        to: `sentence-transformers` loads with `SentenceTransformer(folder)`, releases 2 to 6;
            `transformers` loads with `AutoModel.from_pretrained(folder)`, which does not pool:
            the model card says how. By default the former for text, the latter for all else.
        side: of an encoder of pairs, one side by itself. Text to `sentence-transformers` ends with
            the projection into the shared space and length 1; to `transformers` a side is the
            model before its projection. Default: the text side for the former, else all of it.
        normalize: end with vectors of length 1 (sentence-transformers only).
        overwrite: replace an earlier export in `folder`.

    Returns:
        The folder.

    Raises:
        ValueError: an unknown format or side, no model in `out`, or a folder that is not free.
    """
    out = Path(out)
    source = run_model_folder(out) or out
    modality = modality_of(source)
    if to not in (None, "sentence-transformers", "transformers"):
        raise ValueError(f"to={to!r}: choose sentence-transformers or transformers.")
    if side is not None and modality != "pairs":
        raise ValueError(f"{out} is an encoder of {modality}, which has no sides; leave side out.")
    if not (transformer_folder(source) / "config.json").is_file():
        raise ValueError(
            f"{out} has no model/config.json, as a run's output folder has, and no config.json, as "
            "a model's folder has; give one of the two."
        )
    if folder is None and source == out:
        raise ValueError(f"{out} is a model and no run's output folder; say where to export to.")
    encoder: Any = ENCODERS[modality].from_pretrained(source, local_files_only=True)
    of = None
    if isinstance(encoder, JointEncoder):
        side = _side(encoder, side, to)
        of = None if side is None else (encoder, side)
        encoder = encoder if side is None else encoder.towers[side]
    to = to or ("sentence-transformers" if isinstance(encoder, TextEncoder) else "transformers")
    if not isinstance(encoder, TextEncoder) and to == "sentence-transformers":
        kind = encoder.settings["modality"]
        raise ValueError(f"{side or out} is an encoder of {kind}; export it to transformers.")
    if normalize and to == "transformers":
        raise ValueError(
            "A transformers folder has no place for normalizing; normalize after pooling, or "
            "export to sentence-transformers."
        )
    named = out / (to if side is None or to == "sentence-transformers" else f"{to}-{side}")
    folder = Path(folder) if folder is not None else named
    _make_room(folder, out, overwrite)
    if isinstance(encoder, TextEncoder) and encoder.tokenizer.pad_token is None:
        # Other tools ask for a token to pad with; whichever it is, no sentence sees it.
        encoder.tokenizer.pad_token = encoder.tokenizer.eos_token
    encoder.save_pretrained(folder)
    if isinstance(encoder, TextEncoder):
        _name_tokenizer(folder / "tokenizer_config.json")
    if isinstance(encoder, TextEncoder) and to == "sentence-transformers":
        into = None if of is None else of[0].projections[of[1]].weight.detach()
        normalize = normalize or into is not None
        _add_modules(encoder, folder, normalize, into)
    card = model_card(encoder, _run_of(out), to=to, normalize=normalize, of=of)
    (folder / "README.md").write_text(card, encoding="utf-8")
    logger.info("Exported %s to %s for %s.", source, folder, to)
    return folder


def _side(encoder: JointEncoder, side: str | None, to: Format | None) -> str | None:
    """The side of an encoder of pairs that is exported; None for all of them.

    Raises:
        ValueError: no such side, or not one of text where that is wanted.
    """
    if side is not None and side not in encoder.sides:
        raise ValueError(f"No side {side!r}; there are {', '.join(encoder.sides)}.")
    if side is not None or to != "sentence-transformers":
        return side
    texts = [name for name, kind in encoder.kinds.items() if kind == "text"]
    if len(texts) != 1:
        raise ValueError(
            f"sentence-transformers takes one side of text, but there are {len(texts)} among "
            f"{', '.join(encoder.sides)}; {'name it by side' if texts else 'give transformers'}."
        )
    return texts[0]


def _run_of(out: Path) -> Path:
    """The run a model folder lies in, else the folder itself."""
    is_model = out.name == "model" and (out.parent / "run.json").is_file()
    return out.parent if is_model else out


def _make_room(folder: Path, out: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder that is new or empty.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    here, there = folder.resolve(), _run_of(out).resolve()
    if here == there or here in there.parents or here == (there / "model"):
        raise ValueError(f"{folder} holds the model that is to be exported; give another folder.")
    if not overwrite:
        raise ValueError(f"{folder} is not empty; give a new folder, or overwrite=True.")
    if not all((folder / name).is_file() for name in ("config.json", "README.md")):
        raise ValueError(
            f"{folder} is no earlier export (those have config.json and README.md), so it is not "
            "replaced; empty it yourself or give another folder."
        )
    shutil.rmtree(folder)


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _name_tokenizer(file: Path) -> None:
    # transformers 5 names its generic fast tokenizer in a way that release 4 does not know; the
    # name of release 4 is known to both.
    settings = json.loads(file.read_text())
    if settings.get("tokenizer_class") == "TokenizersBackend":
        _write(file, {**settings, "tokenizer_class": "PreTrainedTokenizerFast"})


def _add_modules(
    encoder: TextEncoder, folder: Path, normalize: bool, into: torch.Tensor | None
) -> None:
    """What makes a transformers folder a sentence-transformers folder.

    With the weight of a projection after pooling, where there is one.

    Module paths and keys are those of its releases 2 to 5; release 6 writes others, but reads
    these.
    """
    modules = [("", "Transformer")]
    if encoder.pooling == "first_last":
        modules.append(("WeightedLayerPooling", "WeightedLayerPooling"))
        _weigh_layers(encoder, folder / "1_WeightedLayerPooling")
        config = json.loads((folder / "config.json").read_text())
        _write(folder / "config.json", {**config, "output_hidden_states": True})
    modules.append(("Pooling", "Pooling"))
    pooling = folder / f"{len(modules) - 1}_Pooling" / "config.json"
    is_cls = encoder.pooling == "cls"
    _write(
        pooling,
        {
            "word_embedding_dimension": encoder.width,
            "pooling_mode_cls_token": is_cls,
            "pooling_mode_mean_tokens": not is_cls,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )
    if into is not None:
        modules.append(("Dense", "Dense"))
        _project(into, folder / f"{len(modules) - 1}_Dense")
    if normalize:
        modules.append(("Normalize", "Normalize"))
        (folder / f"{len(modules) - 1}_Normalize").mkdir()
    listed = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{name}" if name else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, (name, kind) in enumerate(modules)
    ]
    _write(folder / "modules.json", listed)
    limit = {"max_seq_length": encoder.max_length, "do_lower_case": False}
    _write(folder / "sentence_bert_config.json", limit)
    # No version of sentence-transformers: older ones would warn, and the layout is as old as they.
    made_by = {"transformers": version("transformers"), "pytorch": version("torch")}
    about = {"__version__": made_by, "prompts": {}, "similarity_fn_name": "cosine"}
    _write(folder / "config_sentence_transformers.json", about)


def _project(weight: torch.Tensor, folder: Path) -> None:
    settings = {
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    _write(folder / "config.json", settings)
    _save(folder, {"linear.weight": weight})


def _weigh_layers(encoder: TextEncoder, folder: Path) -> None:
    # The mean of the first and the last block is the weighted mean over all blocks with weights
    # 1, 0, ..., 0, 1; pooling is linear, so averaging layers before tokens changes nothing.
    layers = encoder.model.config.num_hidden_layers
    weights = torch.zeros(layers)
    weights[0] += 1
    weights[-1] += 1
    settings = {
        "word_embedding_dimension": encoder.width,
        "layer_start": 1,  # layer 0 is the embedding layer
        "num_hidden_layers": layers,
    }
    _write(folder / "config.json", settings)
    _save(folder, {"layer_weights": weights})


def _save(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file({k: v.cpu().contiguous() for k, v in weights.items()}, folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")  # what release 2 reads
