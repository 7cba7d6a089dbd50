"""Methods of self-supervision: kernels, heads, state, and the catalogue of objectives."""

from unlabel.objectives.contrastive import Cutoff, MoCo, Pairs, SimCSE
from unlabel.objectives.forecast import (
    Backcast,
    Forecast,
    ForecastHead,
    MaskedHistory,
    ShuffledHistory,
)
from unlabel.objectives.masked import MLM, MaskedValues
from unlabel.objectives.objective import Objective, Sum, Term, total

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
}

__all__ = [
    "CATALOGUE",
    "MLM",
    "Backcast",
    "Cutoff",
    "Forecast",
    "ForecastHead",
    "MaskedHistory",
    "MaskedValues",
    "MoCo",
    "Objective",
    "Pairs",
    "ShuffledHistory",
    "SimCSE",
    "Sum",
    "Term",
    "total",
]
