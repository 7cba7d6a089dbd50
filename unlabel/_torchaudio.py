"""torchaudio on every install: its transforms are plain torch, but its import needs a library.

The compiled extension of a released torchaudio belongs to one torch and CUDA. Beside any other
torch (a CPU build, a newer one) it does not load, and then `import torchaudio` fails as a whole,
and with it every import of transformers that looks for torchaudio. A finder of one module takes
the extension away where it cannot load, so that torchaudio goes the way it has for builds without
one. `import unlabel` sets it up; it imports nothing.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_EXTENSION = "torchaudio._extension"
# Where torchaudio asks for its library: the function and the module that it is looked up in.
_ASKS = (
    (f"{_EXTENSION}.utils", "_load_lib"),
    ("torchaudio._internal.module_utils", "is_module_available"),  # releases before 2.10
)
# A missing CUDA library, another CUDA than torch's, symbols or operators that torch has not.
_FAULTS = (OSError, ImportError, RuntimeError, AttributeError)


class _Finder:
    """Finds `torchaudio._extension` where everybody finds it, and loads it with care."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec with a loader around its loader; None for all other modules."""
        if name != _EXTENSION:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
        return spec


class _Loader:
    """Runs a module, and again without its library if that does not load."""

    def __init__(self, loader: Any):
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """What the loader makes."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run it."""
        try:
            self.loader.exec_module(module)
        except _FAULTS:
            with _no_library():
                self.loader.exec_module(module)


@contextmanager
def _no_library() -> Iterator[None]:
    """Let torchaudio find no library of its own."""
    asks = [(m, name) for where, name in _ASKS if hasattr(m := sys.modules.get(where), name)]
    before = [getattr(module, name) for module, name in asks]
    try:
        for module, name in asks:
            setattr(module, name, lambda *_, **__: False)
        yield
    finally:
        for (module, name), was in zip(asks, before, strict=True):
            setattr(module, name, was)


def install() -> None:
    """Put the finder before the others, once."""
    if not any(type(finder).__qualname__ == _Finder.__qualname__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def load_torchaudio(purpose: str) -> Any:
    """Import torchaudio with its transforms and functions, or say in one sentence why not.

    Args:
        purpose: what it is needed for, to begin the sentence with.

    Raises:
        ImportError: it is not installed, or does not load even without its extension.
    """
    install()
    try:
        import torchaudio.functional
        import torchaudio.transforms
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torchaudio":
            raise
        raise ImportError(
            f"{purpose}: torchaudio is needed, but not installed; pip install 'unlabel[audio]'."
        ) from None
    except _FAULTS as error:
        import torch

        raise ImportError(
            f"{purpose}: torchaudio does not load beside torch {torch.__version__}, even without "
            f"its compiled extension ({type(error).__name__}: {error}); install torchaudio 2.11."
        ) from error
    return torchaudio


__all__ = ["install", "load_torchaudio"]
