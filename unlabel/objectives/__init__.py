"""Methods of self-supervision: kernels, heads, state, and the catalogue of objectives."""

from unlabel.objectives.autoencoder import MAE
from unlabel.objectives.bootstrap import BYOL, SimSiam
from unlabel.objectives.colorization import Colorization, VideoColorization
from unlabel.objectives.contrastive import Cutoff, MoCo, Pairs, SimCSE
from unlabel.objectives.crops import HierarchicalContrast
from unlabel.objectives.dense import PixContrast, PixPro
from unlabel.objectives.forecast import (
    Backcast,
    Forecast,
    ForecastHead,
    MaskedHistory,
    ShuffledHistory,
)
from unlabel.objectives.masked import MLM, MaskedValues
from unlabel.objectives.motion import MotionClustering, Tracking
from unlabel.objectives.objective import Objective, Sum, Term, total
from unlabel.objectives.pretext import ReorderPrediction, RotationPrediction, ShuffleAndLearn
from unlabel.objectives.prototypes import DINO, IBOT, SwAV
from unlabel.objectives.sequence import CPC
from unlabel.objectives.time_contrast import MultiViewTimeContrast, TimeContrast
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
    "multiview_time_contrast": MultiViewTimeContrast,
    "sensor_contrast": SensorContrast,
    "ts2vec": HierarchicalContrast,
    "reorder": ReorderPrediction,
    "shuffle_and_learn": ShuffleAndLearn,
    "rotation": RotationPrediction,
    "colorization": Colorization,
    "video_colorization": VideoColorization,
    "tracking": Tracking,
    "motion_clustering": MotionClustering,
    "simclr": InstanceContrast,
    "barlow": BarlowTwins,
    "vicreg": VICReg,
    "byol": BYOL,
    "simsiam": SimSiam,
    "swav": SwAV,
    "dino": DINO,
    "ibot": IBOT,
    "pix_contrast": PixContrast,
    "pix_pro": PixPro,
}

__all__ = [
    "BYOL",
    "CATALOGUE",
    "CPC",
    "DINO",
    "IBOT",
    "MAE",
    "MLM",
    "Backcast",
    "BarlowTwins",
    "Colorization",
    "Cutoff",
    "Forecast",
    "ForecastHead",
    "HierarchicalContrast",
    "InstanceContrast",
    "MaskedHistory",
    "MaskedValues",
    "MoCo",
    "MotionClustering",
    "MultiViewTimeContrast",
    "Objective",
    "Pairs",
    "PixContrast",
    "PixPro",
    "ReorderPrediction",
    "RotationPrediction",
    "SensorContrast",
    "ShuffleAndLearn",
    "ShuffledHistory",
    "SimCSE",
    "SimSiam",
    "Sum",
    "SwAV",
    "Term",
    "TimeContrast",
    "Tracking",
    "VICReg",
    "VideoColorization",
    "total",
]
