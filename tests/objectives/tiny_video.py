"""Tiny encoders of clips, and clips of squares that move over a background, for the objectives."""

import numpy as np
import torch
from tiny_series import PROTOTYPES, SWAV

from unlabel.core import Batch
from unlabel.modalities.visual import VisualEncoder
from unlabel.objectives import (
    BYOL,
    CMC,
    CPC,
    CURL,
    DINO,
    IBOT,
    MAE,
    S4L,
    SLA,
    VAE,
    AdversarialAutoencoder,
    Autoencoder,
    BEiT,
    BiGAN,
    Colorization,
    ContextEncoder,
    ContextPrediction,
    Counting,
    CPCv2,
    DeepMIM,
    DistillSides,
    Exemplar,
    Flow,
    Jigsaw,
    JigsawClustering,
    LocalMIM,
    MaskedValues,
    MoCoV3,
    Monodepth,
    MotionClustering,
    MultiViewTimeContrast,
    NextStep,
    PatchContrast,
    PixContrast,
    PixPro,
    ReorderPrediction,
    RotationPrediction,
    ShuffleAndLearn,
    SimMIM,
    SimSiam,
    Sum,
    SwAV,
    TimeContrast,
    Tracking,
    VideoColorization,
)

# Each with the encoder it is tried on: frames alone, or tubes over all frames.
VIDEO = {
    "rotation": (lambda: RotationPrediction(), "tubes"),
    "rotation_frames": (lambda: RotationPrediction(before="flip"), "frames"),
    "clip_order": (lambda: ReorderPrediction(), "tubes"),
    "clip_order_frames": (lambda: ReorderPrediction(segments=2), "frames"),
    "shuffle_and_learn": (lambda: ShuffleAndLearn(negatives=0.5), "frames"),
    "shuffle_and_learn_tubes": (lambda: ShuffleAndLearn(negatives=0.5), "tubes"),
    "time_contrast_clips": (lambda: TimeContrast(near=1, far=2, width=8), "frames"),
    "multiview": (lambda: MultiViewTimeContrast(width=8), "frames"),
    "multiview_npairs": (lambda: MultiViewTimeContrast(loss="npairs", width=8), "frames"),
    "colorization": (lambda: Colorization(), "tubes"),
    "video_colorization": (
        lambda: VideoColorization(references=2, clusters=4, width=8, floor=0.01),
        "frames",
    ),
    "tracking": (lambda: Tracking(width=8), "frames"),
    "motion_clustering": (lambda: MotionClustering(clusters=3), "tubes"),
    "cpc_clips": (lambda: CPC(steps=2, width=8), "frames"),
    "cpc_tubes": (lambda: CPC(steps=1, width=8), "tubes"),
    "byol": (lambda: BYOL(width=8, hidden=16, augment="crop+jitter"), "tubes"),
    "simsiam": (lambda: SimSiam(width=8, hidden=4, augment="crop+flip"), "frames"),
    "moco_v3": (lambda: MoCoV3(width=8, hidden=16, augment="crop+jitter"), "tubes"),
    "cmc": (lambda: CMC(width=8, augment="crop+flip"), "frames"),
    "cmc_flow": (lambda: CMC(width=8, sides=({"name": "plain"}, {"name": "flow"})), "tubes"),
    "tubes": (lambda: MAE(unit="tube", ratio=0.5, hidden=16, layers=1, heads=2), "tubes"),
    "simmim": (lambda: SimMIM(unit="square", args={"mask_values.side": 8}), "tubes"),
    "simmim_frames": (lambda: SimMIM(), "frames"),
    "maskfeat": (lambda: MaskedValues(unit="block", features="hog"), "tubes"),
    "mae_hog": (lambda: MAE(features="hog", hidden=16, layers=1, heads=2), "tubes"),
    "beit": (lambda: BEiT(codes=16, settle=0, unit="block", hidden=16), "tubes"),
    "beit_learns": (lambda: BEiT(codes=16, hidden=16), "frames"),
    "local_mim": (lambda: LocalMIM(hidden=16, heads=2), "tubes"),
    "deep_mim": (
        lambda: DeepMIM(depths=(0.5, 1), ratio=0.5, hidden=16, layers=1, heads=2),
        "tubes",
    ),
    "swav_clips": (lambda: SwAV(**SWAV), "frames"),
    "dino_clips": (lambda: DINO(**PROTOTYPES), "tubes"),
    "ibot_clips": (lambda: IBOT(**PROTOTYPES, unit="block"), "tubes"),
    "pix_contrast": (lambda: PixContrast(width=8, hidden=16, momentum=0.9), "tubes"),
    "pix_pro": (lambda: PixPro(width=8, hidden=16, momentum=0.9), "frames"),
    "video_sum": (
        lambda: Sum({"turn": RotationPrediction(), "color": VideoColorization(references=2)}),
        "frames",
    ),
    # Two players, and labels.
    "context_encoder_clips": (lambda: ContextEncoder(hidden=8, heads=2), "tubes"),
    "s4l_clips": (lambda: S4L(pretext=RotationPrediction(), classes=3), "tubes"),
    "sla_clips": (lambda: SLA(classes=3), "frames"),
    "aae_clips": (lambda: AdversarialAutoencoder(width=4, hidden=16), "frames"),
    "bigan_clips": (lambda: BiGAN(width=4, hidden=8, heads=2), "tubes"),
    "patch_contrast_clips": (lambda: PatchContrast(places=9, width=8), "tubes"),
    # Generative.
    "autoencoder_clips": (lambda: Autoencoder(hidden=16, after="mask_values"), "tubes"),
    "flow": (lambda: Flow(), "flow"),
    "next_patch": (lambda: NextStep(loss="mse"), "causal"),
    "vae_clips": (lambda: VAE(width=8, hidden=32), "frames"),
    # Pieces of a picture.
    "context_prediction": (lambda: ContextPrediction(hidden=16), "frames"),
    "context_prediction_tubes": (lambda: ContextPrediction(hidden=16), "tubes"),
    "jigsaw": (lambda: Jigsaw(orders=6, hidden=16), "frames"),
    "jigsaw_tubes": (lambda: Jigsaw(orders=4, grid=2, hidden=16), "tubes"),
    "counting": (lambda: Counting(width=16, hidden=16, margin=1.0), "frames"),
    "cpc_v2": (lambda: CPCv2(grid=3, ahead=(1, 2), width=8, hidden=8, blocks=2), "frames"),
    "cpc_v2_tubes": (lambda: CPCv2(grid=3, ahead=(1,), width=8, hidden=8, blocks=1), "tubes"),
    "exemplar": (lambda: Exemplar(copies=3, width=8), "frames"),
    "jigsaw_clustering": (lambda: JigsawClustering(width=8, temperature=0.3), "frames"),
    "jigsaw_clustering_tubes": (lambda: JigsawClustering(width=8, augment="jitter"), "tubes"),
    # What one side of a sample tells of another.
    "distill_sides": (lambda: DistillSides(), "frames"),
    "distill_flow": (lambda: DistillSides(sides=({"name": "plain"}, {"name": "flow"})), "tubes"),
    # Applications.
    "curl": (lambda: CURL(width=8), "tubes"),
    "monodepth": (lambda: Monodepth(scales=2, hidden=16), "frames"),
}
# Their views mix the samples of a rank: other ranks, other pictures, and another loss.
MIXED = frozenset({"jigsaw_clustering", "jigsaw_clustering_tubes"})
TIMES, FRAMES, SIZE = 12, 6, 16
_SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "patch_size": 4,
}
_FLOW = {"model_type": "coupling_flow", "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 2}


def tiny_video(kind: str = "frames", *, seed: int = 0) -> VisualEncoder:
    """A ViT by frame (`frames`), a VideoMAE of two frames a token (`tubes`), or a flow."""
    torch.manual_seed(seed)
    about = {"frames": FRAMES, "causal": kind == "causal"}
    config = (
        _FLOW
        if kind == "flow"
        else (
            dict(_SIZES)
            | {
                "frames": {"model_type": "vit"},
                "tubes": {"model_type": "videomae", "tubelet_size": 2},
                "causal": {"model_type": "videomae", "tubelet_size": 2},
            }[kind]
        )
    )
    return VisualEncoder.from_config(config, size=SIZE, dropout=0.0, **about)


def clip_of(index: int, *, times: int = TIMES, size: int = SIZE) -> dict:
    """A sample: a coloured square that moves, with another camera, a tracked patch and flow."""
    rng = np.random.default_rng(index)
    back = rng.integers(0, 90, (size, size, 3)) + rng.integers(0, 60, 3)
    color, speed = rng.integers(100, 255, 3), rng.choice([-1, 1], 2) * rng.integers(0, 3, 2)
    start = rng.integers(0, size, 2)
    frames = np.repeat(back[None], times, 0)
    for t in range(times):
        rows, columns = ((start + speed * t)[:, None] + np.arange(6)) % size
        frames[t][np.ix_(rows, columns)] = color
    frames = frames.astype(np.uint8)
    flow = np.broadcast_to(speed[::-1], (times - 1, 4, 4, 2)).astype(np.float16)
    return {
        "frames": frames,
        "index": index,
        "ordinal": index,
        "label": -1 if index % 4 == 3 else index % 3,
        "partners": {
            "view": {"frames": np.ascontiguousarray(frames[:, :, ::-1])},
            "tracked": {"frames": np.roll(frames, 1, axis=0)},
            "flow": {"flow": flow},
        },
    }


def make_video(encoder: VisualEncoder, rows: int = 8, first: int = 0, seed: int = 3) -> Batch:
    """Clips `first` to `first + rows`, with their partners."""
    return encoder.collator(seed=seed)([clip_of(i) for i in range(first, first + rows)])
