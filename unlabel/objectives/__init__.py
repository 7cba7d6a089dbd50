"""Methods of self-supervision: kernels, heads, state, and the catalogue of objectives."""

from unlabel.objectives.adversarial import AdversarialAutoencoder, BiGAN, ContextEncoder
from unlabel.objectives.autoencoder import MAE
from unlabel.objectives.banks import InstDisc, LocalAggregation
from unlabel.objectives.bootstrap import BYOL, MoCoV3, SimSiam
from unlabel.objectives.clip import CLIP, SigLIP
from unlabel.objectives.colorization import Colorization, VideoColorization
from unlabel.objectives.contrastive import Cutoff, MoCo, Pairs, SimCSE
from unlabel.objectives.crops import HierarchicalContrast
from unlabel.objectives.curl import CURL
from unlabel.objectives.deep_masked import DeepMIM, LocalMIM
from unlabel.objectives.dense import PixContrast, PixPro
from unlabel.objectives.distill import DistillSides
from unlabel.objectives.electra import Electra
from unlabel.objectives.exemplar import Exemplar
from unlabel.objectives.flows import Flow, FlowPrior
from unlabel.objectives.forecast import (
    Backcast,
    Forecast,
    ForecastHead,
    MaskedHistory,
    ShuffledHistory,
)
from unlabel.objectives.generative import VAE, Autoencoder, NextStep
from unlabel.objectives.grid import CPCv2
from unlabel.objectives.infomax import DeepInfoMax
from unlabel.objectives.instance import (
    Debiased,
    Decoupled,
    FlatNCE,
    HardNegatives,
    InstanceContrast,
    InvariantSpread,
)
from unlabel.objectives.labels import S4L, SLA, Supervised
from unlabel.objectives.language import NextSentence, NextToken, PermutationLM
from unlabel.objectives.masked import MLM, MaskedValues, SimMIM
from unlabel.objectives.monodepth import Monodepth
from unlabel.objectives.montage import JigsawClustering
from unlabel.objectives.motion import MotionClustering, Tracking
from unlabel.objectives.objective import Objective, Term, total
from unlabel.objectives.patches import PatchContrast
from unlabel.objectives.pieces import ContextPrediction, Counting, Jigsaw
from unlabel.objectives.pretext import ReorderPrediction, RotationPrediction, ShuffleAndLearn
from unlabel.objectives.prototypes import DINO, IBOT, SwAV
from unlabel.objectives.sequence import CPC
from unlabel.objectives.sides import CMC, SensorContrast
from unlabel.objectives.sum import Sum
from unlabel.objectives.supervised import SupCon
from unlabel.objectives.time_contrast import MultiViewTimeContrast, TimeContrast
from unlabel.objectives.tokenizer import BEiT
from unlabel.objectives.tsdae import TSDAE
from unlabel.objectives.twins import AlignUniform, BarlowTwins, VICReg

# Every method, by the name that `unlabel list` and `--objective` know. A recipe may also name any
# other class by its import path.
CATALOGUE: dict[str, type[Objective]] = {
    "simcse": SimCSE,
    "cutoff": Cutoff,
    "mlm": MLM,
    "nsp": NextSentence,
    "electra": Electra,
    "tsdae": TSDAE,
    "next_token": NextToken,
    "permutation_lm": PermutationLM,
    "moco": MoCo,
    "pairs": Pairs,
    "masked_values": MaskedValues,
    "forecast": Forecast,
    "masked_history": MaskedHistory,
    "shuffled_history": ShuffledHistory,
    "backcast": Backcast,
    "simmim": SimMIM,
    "beit": BEiT,
    "mae": MAE,
    "local_mim": LocalMIM,
    "deep_mim": DeepMIM,
    "context_encoder": ContextEncoder,
    "autoencoder": Autoencoder,
    "vae": VAE,
    "adversarial_autoencoder": AdversarialAutoencoder,
    "bigan": BiGAN,
    "next_step": NextStep,
    "flow": Flow,
    "flow_prior": FlowPrior,
    "cpc": CPC,
    "cpc_v2": CPCv2,
    "time_contrast": TimeContrast,
    "multiview_time_contrast": MultiViewTimeContrast,
    "sensor_contrast": SensorContrast,
    "ts2vec": HierarchicalContrast,
    "reorder": ReorderPrediction,
    "shuffle_and_learn": ShuffleAndLearn,
    "rotation": RotationPrediction,
    "context_prediction": ContextPrediction,
    "jigsaw": Jigsaw,
    "counting": Counting,
    "exemplar": Exemplar,
    "jigsaw_clustering": JigsawClustering,
    "colorization": Colorization,
    "video_colorization": VideoColorization,
    "tracking": Tracking,
    "motion_clustering": MotionClustering,
    "monodepth": Monodepth,
    "s4l": S4L,
    "sla": SLA,
    "supcon": SupCon,
    "simclr": InstanceContrast,
    "debiased": Debiased,
    "hard_negatives": HardNegatives,
    "decoupled": Decoupled,
    "flat_nce": FlatNCE,
    "inva_spread": InvariantSpread,
    "align_uniform": AlignUniform,
    "deep_infomax": DeepInfoMax,
    "instdisc": InstDisc,
    "local_aggregation": LocalAggregation,
    "clip": CLIP,
    "siglip": SigLIP,
    "cmc": CMC,
    "distill_sides": DistillSides,
    "barlow": BarlowTwins,
    "vicreg": VICReg,
    "byol": BYOL,
    "moco_v3": MoCoV3,
    "curl": CURL,
    "simsiam": SimSiam,
    "swav": SwAV,
    "dino": DINO,
    "ibot": IBOT,
    "pix_contrast": PixContrast,
    "pix_pro": PixPro,
    "patch_contrast": PatchContrast,
}

__all__ = [
    "BYOL",
    "CATALOGUE",
    "CLIP",
    "CMC",
    "CPC",
    "CURL",
    "DINO",
    "IBOT",
    "MAE",
    "MLM",
    "S4L",
    "SLA",
    "TSDAE",
    "VAE",
    "AdversarialAutoencoder",
    "AlignUniform",
    "Autoencoder",
    "BEiT",
    "Backcast",
    "BarlowTwins",
    "BiGAN",
    "CPCv2",
    "Colorization",
    "ContextEncoder",
    "ContextPrediction",
    "Counting",
    "Cutoff",
    "Debiased",
    "Decoupled",
    "DeepInfoMax",
    "DeepMIM",
    "DistillSides",
    "Electra",
    "Exemplar",
    "FlatNCE",
    "Flow",
    "FlowPrior",
    "Forecast",
    "ForecastHead",
    "HardNegatives",
    "HierarchicalContrast",
    "InstDisc",
    "InstanceContrast",
    "InvariantSpread",
    "Jigsaw",
    "JigsawClustering",
    "LocalAggregation",
    "LocalMIM",
    "MaskedHistory",
    "MaskedValues",
    "MoCo",
    "MoCoV3",
    "Monodepth",
    "MotionClustering",
    "MultiViewTimeContrast",
    "NextSentence",
    "NextStep",
    "NextToken",
    "Objective",
    "Pairs",
    "PatchContrast",
    "PermutationLM",
    "PixContrast",
    "PixPro",
    "ReorderPrediction",
    "RotationPrediction",
    "SensorContrast",
    "ShuffleAndLearn",
    "ShuffledHistory",
    "SigLIP",
    "SimCSE",
    "SimMIM",
    "SimSiam",
    "Sum",
    "SupCon",
    "Supervised",
    "SwAV",
    "Term",
    "TimeContrast",
    "Tracking",
    "VICReg",
    "VideoColorization",
    "total",
]
