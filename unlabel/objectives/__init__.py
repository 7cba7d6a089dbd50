"""Methods of self-supervision: kernels, heads, state, and the catalogue of objectives."""

from unlabel.objectives.autoencoder import MAE
from unlabel.objectives.contrastive import Cutoff, MoCo, Pairs, SimCSE
from unlabel.objectives.crops import HierarchicalContrast
from unlabel.objectives.forecast import (
    Backcast,
    Forecast,
    ForecastHead,
    MaskedHistory,
    ShuffledHistory,
)
from unlabel.objectives.masked import MLM, MaskedValues
from unlabel.objectives.objective import Objective, Sum, Term, total
from unlabel.objectives.pretext import ReorderPrediction
from unlabel.objectives.sequence import CPC, TimeContrast
from unlabel.objectives.twins import BarlowTwins, InstanceContrast, SensorContrast, VICReg

# Every method, by the name that `unlabel list` and `--objective` know. A recipe may also name any
# other class by its import path.
CATALOGUE: dict[str, type[Objective]] = {
    "simcse": SimCSE,
    "cutoff": Cutoff,
    "mlm": MLM,
    "moco": MoCo,
    "pairs": Pairs,
    "masked_values": MaskedValues,
    "forecast": Forecast,
    "masked_history": MaskedHistory,
    "shuffled_history": ShuffledHistory,
    "backcast": Backcast,
    "mae": MAE,
    "cpc": CPC,
    "time_contrast": TimeContrast,
    "sensor_contrast": SensorContrast,
    "ts2vec": HierarchicalContrast,
    "reorder": ReorderPrediction,
    "simclr": InstanceContrast,
    "barlow": BarlowTwins,
    "vicreg": VICReg,
}

__all__ = [
    "CATALOGUE",
    "CPC",
    "MAE",
    "MLM",
    "Backcast",
    "BarlowTwins",
    "Cutoff",
    "Forecast",
    "ForecastHead",
    "HierarchicalContrast",
    "InstanceContrast",
    "MaskedHistory",
    "MaskedValues",
    "MoCo",
    "Objective",
    "Pairs",
    "ReorderPrediction",
    "SensorContrast",
    "ShuffledHistory",
    "SimCSE",
    "Sum",
    "Term",
    "TimeContrast",
    "VICReg",
    "total",
]
