"""Our own models among transformers' Auto classes, for everybody who imports unlabel first or last.

Registering them imports them, and torch with them, for which `import unlabel` must not wait. A
finder of one module does it once transformers' own has been loaded. It imports nothing itself.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_AUTO = "transformers.models.auto.modeling_auto"
_OURS = "unlabel.modalities"  # whose modules register their models


class _Finder:
    """Finds transformers' Auto classes where everybody finds them, and registers ours after."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec, run in two steps; None for all other modules."""
        spec = PathFinder.find_spec(name, path, target) if name == _AUTO else None
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            run = loader.exec_module
            loader.exec_module = lambda module: (run(module), _register())
        return spec


def _register() -> None:
    # Where ours are being imported already, they are what asked for the Auto classes.
    if _OURS not in sys.modules:
        importlib.import_module(_OURS)


def install() -> None:
    """Put the finder before the others, once; register at once where transformers came first."""
    if _AUTO in sys.modules:
        _register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


__all__ = ["install"]
