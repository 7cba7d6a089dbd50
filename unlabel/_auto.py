"""Our own models for transformers' Auto classes, however little of unlabel was imported.

Registering them imports them, and torch with them, for which `import unlabel` must not wait. Nor
may the import of transformers set it off: many of its modules import the Auto classes half way,
and ours import those modules. So the first model that is asked for by folder or name does it.
"""

import functools
import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_AUTO = "transformers.models.auto.configuration_auto"
_OURS = "unlabel.modalities"  # whose modules register their models


class _AutoFinder:
    """Finds transformers' `AutoConfig` where everybody finds it, and lends it a first step."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec, run in two steps; None for all other modules."""
        spec = PathFinder.find_spec(name, path, target) if name == _AUTO else None
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            run = loader.exec_module
            loader.exec_module = lambda module: (run(module), _register_first(module))
        return spec


def _register_first(module: Any) -> None:
    """Let the first call of `AutoConfig.from_pretrained`, which all Auto classes make, import ours.

    From then on it is what it was.
    """
    auto = module.AutoConfig
    load = vars(auto)["from_pretrained"]

    @functools.wraps(load.__func__)
    def from_pretrained(cls: Any, *args: Any, **options: Any) -> Any:
        importlib.import_module(_OURS)
        auto.from_pretrained = load
        return cls.from_pretrained(*args, **options)

    auto.from_pretrained = classmethod(from_pretrained)


def install() -> None:
    """Put the finder before the others, once; where transformers came first there is no need."""
    if any(isinstance(finder, _AutoFinder) for finder in sys.meta_path):
        return
    if (module := sys.modules.get(_AUTO)) is not None:
        _register_first(module)
    else:
        sys.meta_path.insert(0, _AutoFinder())


__all__ = ["install"]
