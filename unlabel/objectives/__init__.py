"""Methods of self-supervision: kernels, heads, state, and the catalogue of objectives."""

from unlabel.objectives.contrastive import Cutoff, MoCo, Pairs, SimCSE
from unlabel.objectives.masked import MLM
from unlabel.objectives.objective import Objective, Sum, Term, total

# Every method, by the name that `unlabel list` and `--objective` know. A recipe may also name any
# other class by its import path.
CATALOGUE: dict[str, type[Objective]] = {
    "simcse": SimCSE,
    "cutoff": Cutoff,
    "mlm": MLM,
    "moco": MoCo,
    "pairs": Pairs,
}

__all__ = [
    "CATALOGUE",
    "MLM",
    "Cutoff",
    "MoCo",
    "Objective",
    "Pairs",
    "SimCSE",
    "Sum",
    "Term",
    "total",
]
