"""The transformers configuration of an encoder of several kinds of data."""

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, PreTrainedConfig


class JointConfig(PreTrainedConfig):
    """What a `JointModel` is made of.

    Args:
        sides: name -> `kind` (of data), `pooling`, and `model`, the keys of that side's own
            configuration.
        width: of the space that all sides share.
        locked: sides whose encoder is not trained.
    """

    model_type = "joint_encoder"

    def __init__(
        self,
        *,
        sides: Mapping[str, Mapping[str, Any]] | None = None,
        width: int = 128,
        locked: list[str] | tuple[str, ...] = (),
        **kwargs: Any,
    ):
        self.sides = {name: dict(said) for name, said in (sides or {}).items()}
        self.width, self.locked = width, list(locked)
        super().__init__(**kwargs)

    @classmethod
    def of(cls, encoder: Any) -> "JointConfig":
        """That of a `JointEncoder`."""
        sides = {
            name: {
                "kind": encoder.kinds[name],
                "pooling": tower.pooling,
                "model": _keys(tower.model.config),
            }
            for name, tower in encoder.towers.items()
        }
        made = cls(sides=sides, width=encoder.width, locked=encoder.locked)
        made.architectures = ["JointModel"]
        return made

    def side(self, name: str) -> PreTrainedConfig:
        """The configuration of a side's own model."""
        keys = dict(self.sides[name]["model"])
        return AutoConfig.for_model(keys.pop("model_type"), **keys)


def _keys(config: PreTrainedConfig) -> dict[str, Any]:
    """What differs from the defaults of its kind; where it was loaded from is nobody's business."""
    said = {**config.to_diff_dict(), "model_type": config.model_type}
    return {k: v for k, v in said.items() if k not in ("_name_or_path", "transformers_version")}


__all__ = ["JointConfig"]
