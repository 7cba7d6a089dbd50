"""Sound in a run: its options, and how data, encoder and samples are made from them."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from unlabel.data_pipes.audio_store import AudioStore, read_audio
from unlabel.data_pipes.labels import kept_labels
from unlabel.data_pipes.synthetic_audio import SyntheticAudio, generate_audio
from unlabel.kinds.prepared import Prepared, encoder_of, is_named
from unlabel.modalities.audio import AudioEncoder
from unlabel.objectives import Objective
from unlabel.training.arguments import TrainingArguments

logger = logging.getLogger(__name__)

# Clips that a run generates, and how many the fixed norm's statistics are taken from.
GENERATED, MEASURED = 4_000, 512
RATE = 8_000  # samples a second of a new encoder


@dataclass
class AudioOptions:
    """Sound: how to read it, and which encoder to train on it.

    Args:
        pretrained: folder or hub name to start from; None starts from random weights. `{seed}`
            in it becomes the run's seed, so that each seed continues its own earlier run.
        config: transformers configuration of a new encoder: `model_type`
            `audio-spectrogram-transformer` (default, small, 64 mel bands, patches of 16 frames
            and 16 bands) or `wave_conv`, and its keys. With `num_mel_bins` equal to `patch_size` a
            token hears all bands of its time, and the mean over tokens still knows pitch from
            timbre; of square patches among 64 bands it does not.
        rate: samples a second that recordings are brought to; None takes the pretrained
            folder's, else 8,000.
        seconds: that the encoder hears at a time; None takes the pretrained folder's, else 1.
        sample: seconds of a recording that views are cut from; None is `seconds`. A longer one
            lets two views by `crop` come from places far apart.
        norm: `clip` takes each clip's own mean and deviation out, `fixed` those of the data; None
            takes the pretrained folder's, else `clip`.
        pooling: `mean`, `max`, `last` or `cls`; None takes the pretrained folder's, else `mean`.
        hop: seconds from frame to frame of the spectrogram; None takes the pretrained folder's,
            else 0.01.
        window: seconds that a frame looks at; likewise, else 0.025.
        dropout: sets every dropout probability; None leaves the model's own.
        path_column: of a list of recordings.
        label_column: likewise.
        start_column: likewise, in seconds.
        end_column: likewise.
        pattern: reads label and speaker or the like out of file names, by named groups.
        damaged: `skip` a recording that is cut off, or `use` what there is of it.
        short: recordings shorter than a sample: `pad`, `loop` or `skip`.
        clips: samples of each recording in an epoch.
        limit: recordings read at most.
        labels: share of the labels of each class that training sees, where the data has labels
            (`s4l` and `sla` use them).
    """

    corpus: ClassVar[str] = "synthetic"  # the data that needs no download, and the default

    pretrained: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    rate: int | None = None
    seconds: float | None = None
    sample: float | None = None
    norm: str | None = None
    pooling: str | None = None
    hop: float | None = None
    window: float | None = None
    dropout: float | None = None
    path_column: str | None = None
    label_column: str | None = None
    start_column: str | None = None
    end_column: str | None = None
    pattern: str | None = None
    damaged: Literal["skip", "use"] = "skip"
    short: Literal["pad", "loop", "skip"] = "pad"
    clips: int = 1
    limit: int | None = None
    labels: float = 1.0

    def prepare(
        self,
        data: Any,
        objective: Objective,
        args: TrainingArguments,
        begun: Path | None,
    ) -> Prepared:
        """Make the encoder, and read recordings at its rate.

        Args:
            data: what `read_audio` takes, or `synthetic` for generated sounds.
            objective: what is trained.
            args: of the training.
            begun: folder of the encoder as the run began, where it is resumed.

        Raises:
            ValueError: the data cannot be read.
        """
        encoder = self.encoder(args.seed, begun)
        store = self._store(data, encoder, args)
        logger.info("%s", store.summary())
        self.measure(encoder, store, begun)
        classes = len(store.classes) or None
        size = store.data.bytes if isinstance(store, AudioStore) else None
        return Prepared(encoder, store, store.summary(), len(store), classes, size)

    def encoder(self, seed: int, begun: Path | None) -> AudioEncoder:
        """The encoder alone: as the run began, a pretrained one, or a new one."""
        names = ("rate", "seconds", "norm", "pooling", "hop", "window")
        settings = {n: v for n in names if (v := getattr(self, n)) is not None}
        how: dict[str, Any] = {"settings": settings, "new": {"rate": RATE}}
        return encoder_of(AudioEncoder, self, seed=seed, begun=begun, **how)

    def measure(self, encoder: AudioEncoder, store: Any, begun: Path | None) -> None:
        """Take the statistics of a new encoder's fixed norm from the data."""
        if encoder.norm.kind == "fixed" and begun is None and self.pretrained is None:
            places = np.linspace(0, len(store) - 1, min(MEASURED, len(store))).astype(int)
            encoder.measure(encoder.collator()([store[int(p)] for p in places]))

    def _store(
        self, data: Any, encoder: AudioEncoder, args: TrainingArguments
    ) -> AudioStore | SyntheticAudio:
        seconds, seed = max(encoder.seconds, self.sample or 0.0), args.seed
        if is_named(data, self.corpus):
            count = min(GENERATED, self.limit or GENERATED)
            made = generate_audio(count, rate=encoder.rate, seconds=seconds, seed=seed)
            return replace(made, label=kept_labels(made.label, self.labels, seed=seed))
        source = read_audio(
            data,
            path_column=self.path_column,
            label_column=self.label_column,
            start_column=self.start_column,
            end_column=self.end_column,
            pattern=self.pattern,
            damaged=self.damaged,
            manifest=Path(str(args.output_dir)) / "media.json",
            limit=self.limit,
        )
        source.keep_labels(self.labels, seed=seed)
        return AudioStore(
            source,
            rate=encoder.rate,
            seconds=seconds,
            short=self.short,
            clips=self.clips,
            seed=seed,
        )


__all__ = ["AudioOptions"]
