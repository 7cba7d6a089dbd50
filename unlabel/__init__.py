"""unlabel: pretrain encoders on data nobody labelled."""

from typing import TYPE_CHECKING, Any

from unlabel import _torchaudio

if TYPE_CHECKING:
    from unlabel.forecaster import Forecaster

# Before transformers is imported: where torchaudio is installed, that imports it.
_torchaudio.install()

__version__ = "0.1.0"
__all__ = ["Forecaster", "__version__"]


def __getattr__(name: str) -> Any:
    # On first use: importing unlabel must not wait for torch.
    if name == "Forecaster":
        from unlabel.forecaster import Forecaster

        return Forecaster
    raise AttributeError(f"module 'unlabel' has no attribute {name!r}")
