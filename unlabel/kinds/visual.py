"""Frames and video in a run: their options, and how data, encoder and clips are made from them."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pandas as pd

from unlabel.data_pipes.frame_store import FrameStore
from unlabel.data_pipes.kept_frames import Keep
from unlabel.data_pipes.synthetic_video import embedded_videos
from unlabel.data_pipes.video_data import VideoData
from unlabel.data_pipes.video_store import VideoStore
from unlabel.data_pipes.videos import read_frames, read_videos
from unlabel.kinds.prepared import Prepared, encoder_of, is_named
from unlabel.modalities.configs import saved_config
from unlabel.modalities.visual import VisualEncoder, said_of
from unlabel.objectives import Objective
from unlabel.training.arguments import TrainingArguments

logger = logging.getLogger(__name__)
_USUAL = {"size": 64, "frames": 16}  # of a new encoder
_FLOW = 32  # rows and columns of the optical flow that the view `motion` reads


def _labelled_synthetic() -> pd.DataFrame:
    """The generated files, and what each shows."""
    rows = [(str(clip.path), clip.action) for clip in embedded_videos()]
    return pd.DataFrame(rows, columns=["path", "label"])


@dataclass
class FramesOptions:
    """Pictures, or single frames of videos: how to read them, and which encoder to train on them.

    Args:
        pretrained: folder or hub name to start from; None starts from random weights. `{seed}`
            in it becomes the run's seed, so that each seed continues its own earlier run.
        config: transformers configuration of a new encoder: its `model_type` and keys. Of frames:
            `vit` (default, small), `convmae`, `resnet` or any image model. Of video: `videomae`
            (default, small), `r2plus1d`, or any image model, applied frame by frame.
        size: rows and columns that the encoder sees; None takes the pretrained folder's, else 64.
        spare: frames are kept so many times as large, so that crops have pixels to choose from.
        pooling: `mean`, `cls` or `max`; None takes the pretrained folder's, else `mean`.
        causal: every patch of a `vit` or `videomae` sees itself and those before it only.
        dropout: sets every dropout probability; None leaves the model's own.
        start: where samples lie in a video: `random`, `even`, or `motion` for where it moves.
        hop: seconds from sample to sample of a video, each epoch the same; None draws them.
        path_column: of a list of files; default `path`.
        label_column: likewise; default `label`.
        damaged: `skip` a damaged file, or `use` what lies before the damage.
        cache_gb: decoded frames kept on disk at most; 0 decodes each time again.
        limit: files read at most.
        labels: share of the labels of each class that training sees, where the data has labels
            (`s4l` and `sla` use them).
    """

    corpus: ClassVar[str] = "synthetic"  # the data that needs no download, and the default

    pretrained: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    size: int | None = None
    spare: float = 1.0
    pooling: str | None = None
    causal: bool = False
    dropout: float | None = None
    start: Literal["random", "even", "motion"] = "random"
    hop: float | None = None
    path_column: str | None = None
    label_column: str | None = None
    damaged: Literal["skip", "use"] = "skip"
    cache_gb: float = 2.0
    limit: int | None = None
    labels: float = 1.0

    def prepare(
        self,
        data: Any,
        objective: Objective,
        args: TrainingArguments,
        begun: Path | None,
        **more: Any,
    ) -> Prepared:
        """Read the files, make the encoder and its samples.

        Args:
            data: what `read_videos` takes, or `synthetic` for the generated files.
            objective: what is trained; partners that its views name are read beside each sample.
            args: of the training.
            begun: folder of the encoder as the run began, where it is resumed.
            more: of `VideoStore`, what no option says.

        Raises:
            ValueError: nothing in the data can be decoded, or no clip fits into it.
        """
        self = self.settled(args.seed, begun)
        source = _labelled_synthetic() if is_named(data, self.corpus) else data
        about = {
            "manifest": Path(str(args.output_dir)) / "media.json",
            "keep": self._keep(objective),
        }
        read = self._read(source, **about, **self._named("damaged", "limit"))
        read.keep_labels(self.labels, seed=args.seed)
        store = self._store(read, objective, args.seed, **more)
        logger.info("%s", store.summary())
        encoder, classes = self.encoder(args.seed, begun), len(store.classes) or None
        return Prepared(encoder, store, store.summary(), len(store), classes, read.bytes)

    def _read(self, source: Any, **options: Any) -> VideoData:
        return read_frames(source, **options, **self._named("path_column", "label_column"))

    def _store(self, data: VideoData, objective: Objective, seed: int, **more: Any) -> VideoStore:
        return FrameStore(data, seed=seed, **self._kept, **more)

    def _keep(self, objective: Objective) -> Keep:
        tracked = "tracked" in {v.partner for v in objective.views}
        return Keep.of(self._kept["size"], tracked=tracked, limit=self._kept["cache_bytes"])

    @property
    def _kept(self) -> dict[str, Any]:
        """What every store is told."""
        assert self.size is not None
        side, room = round(self.size * self.spare), int(self.cache_gb * 2**30)
        return {"size": side, "cache_bytes": room, **self._named("start", "hop")}

    def settled(self, seed: int, begun: Path | None) -> Self:
        """With the size and the frames that an earlier encoder says, where the options do not."""
        name = begun or (self.pretrained or "").replace("{seed}", str(seed))
        unsaid = [n for n in _USUAL if getattr(self, n, 0) is None]
        said: dict[str, Any] = {}
        if unsaid and name:
            config = saved_config(name, dropout=None, local_files_only=False)
            said = said_of(name, config, False)
        return replace(self, **{n: said.get(n) or _USUAL[n] for n in unsaid})

    def _named(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names}

    def encoder(self, seed: int, begun: Path | None) -> VisualEncoder:
        """The encoder alone: as the run began, a pretrained one, or a new one."""
        self = self.settled(seed, begun)
        settings = {"frames": getattr(self, "frames", 1), "size": self.size}
        settings |= {} if self.pooling is None else {"pooling": self.pooling}
        settings |= {"causal": True} if self.causal else {}
        how: dict[str, Any] = {"settings": settings, "new": {}}
        return encoder_of(VisualEncoder, self, seed=seed, begun=begun, **how)


@dataclass
class VideoOptions(FramesOptions):
    """Video: how to read it, how clips lie in it, and which encoder to train on them.

    Args:
        frames: of a clip that the encoder sees; None takes the pretrained folder's, else 16.
        window: frames of a sample, from which views may choose; None is `frames`.
        stride: frames of the file from one frame of the clip to the next.
        fps: frames of the clip a second, whatever the file's rate, in place of `stride`.
        duration: seconds that a clip lasts, in place of `stride`.
        clips: drawn of each video in an epoch.
        short: a video shorter than a clip is `pad`ded, `loop`ed or `skip`ped.
        view_column: of a list of files: which camera; rows equal in all else show the same take.
    """

    frames: int | None = None
    window: int | None = None
    stride: int | None = None
    fps: float | None = None
    duration: float | None = None
    clips: int = 1
    short: Literal["pad", "loop", "skip"] = "pad"
    view_column: str | None = None

    def _read(self, source: Any, **options: Any) -> VideoData:
        columns = self._named("path_column", "label_column", "view_column")
        return read_videos(source, **options, **columns)

    def _store(self, data: VideoData, objective: Objective, seed: int, **more: Any) -> VideoStore:
        beside = {v.partner for v in objective.views}
        links = {part.name for v in objective.views for part in v.parts()}
        return VideoStore(
            data,
            frames=self.window or self.frames or 0,
            view="view" in beside,
            flow=self.size if "flow" in links else _FLOW if "motion" in links else None,
            tracked="tracked" in beside,
            seed=seed,
            **self._named("stride", "fps", "duration", "clips", "short"),
            **self._kept,
            **more,
        )
