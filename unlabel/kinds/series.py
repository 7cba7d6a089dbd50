"""Time series in a run: their options, and how data, encoder and windows are made from them."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from unlabel.data_pipes.labels import kept_labels
from unlabel.data_pipes.series import SeriesData, read_series
from unlabel.data_pipes.series_store import SeriesStore
from unlabel.data_pipes.series_stream import stream_series
from unlabel.data_pipes.stream_windows import StreamWindows
from unlabel.data_pipes.synthetic_series import embedded_series
from unlabel.kinds.prepared import Prepared, encoder_of, is_named, stream_bytes
from unlabel.modalities.series import SeriesEncoder
from unlabel.objectives import Objective
from unlabel.objectives.gather import world
from unlabel.training.arguments import TrainingArguments

logger = logging.getLogger(__name__)


@dataclass
class SeriesOptions:
    """Time series: how to read them, and which encoder to train on their windows.

    Args:
        pretrained: folder or hub name to start from; None starts from random weights. `{seed}`
            in it becomes the run's seed, so that each seed continues its own earlier run.
        config: transformers configuration of a new encoder: `model_type` `patchtst` (default,
            small, patches of 12 steps) or `dilated_conv`, and its keys.
        context: steps of history that the encoder sees.
        channels: `independent`, one channel a sample, or `together`, all channels of a series.
        norm: what is taken out of each window: `standard`, `last` or `none`; None takes the
            pretrained folder's, else `standard`.
        pooling: `mean`, `last` or `max`; None takes the pretrained folder's, else `mean`.
        causal: every token sees itself and earlier ones only.
        dropout: sets every dropout probability; None leaves the model's own.
        id_column: which column of a table tells the series apart.
        timestamp_column: which column holds the time.
        target: columns of values; None takes every column of numbers.
        covariates: columns known beside the values, now and later.
        static: columns that hold for a whole series.
        label_column: of a table, the class of a whole series.
        freq: the step, in pandas' names (`h`, `MS`); None takes the commonest difference.
        time_gap: for irregular times: each row is a step, and the log of the time since the one
            before is a covariate; `true`, or the unit in seconds.
        missing: values that mean 'missing', such as -9999.
        rows: train on rows `[start, end]` of each series only; shares where they are below 1.
        stride: steps between the starts of neighbouring windows.
        balance: `windows`, each window once an epoch, or `series`, each series equally often.
        limit: series read at most.
        labels: share of the labels of each class that training sees, where the data has labels
            (`s4l` and `sla` use them).
        streaming: read while training and hold a part at a time (needs `max_steps`).
        mapped: read `.npy` files where they lie, window by window, and never whole. (A folder
            that `SeriesStore(..., path=)` wrote is always read so.)
    """

    corpus: ClassVar[str] = "synthetic"  # the data that needs no download, and the default

    pretrained: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    context: int = 336
    channels: Literal["independent", "together"] = "independent"
    norm: str | None = None
    pooling: str | None = None
    causal: bool = False
    dropout: float | None = None
    id_column: str | None = None
    timestamp_column: str | None = None
    target: list[str] | None = None
    covariates: list[str] | None = None
    static: list[str] | None = None
    label_column: str | None = None
    freq: str | None = None
    time_gap: bool | float = False
    missing: list[float] = field(default_factory=list)
    rows: list[float] | None = None
    stride: int = 1
    balance: Literal["windows", "series"] = "windows"
    limit: int | None = None
    labels: float = 1.0
    streaming: bool = False
    mapped: bool = False

    def prepare(
        self,
        data: Any,
        objective: Objective,
        args: TrainingArguments,
        begun: Path | None,
    ) -> Prepared:
        """Read the series, make the encoder and its windows.

        Args:
            data: what `read_series` takes or gave, or `synthetic` for generated series.
            objective: what is trained; its `horizon` lengthens the windows.
            args: of the training.
            begun: folder of the encoder as the run began, where it is resumed.

        Raises:
            ValueError: the data cannot be read, or no window fits into it.
        """
        windows: dict[str, Any] = {
            "context": self.context,
            "horizon": objective.horizon,
            "channels": self.channels,
            "stride": self.stride,
            "sensor": any(v.partner == "sensor" for v in objective.views),
            "balance": self.balance,
        }
        rows = (0, None) if self.rows is None else _rows(self.rows)
        if self.streaming:
            return self._stream(data, windows, rows, args, begun)
        store, read = self._store(data, windows)
        logger.info("%s", read)
        store.labels = kept_labels(store.labels, self.labels, seed=args.seed)
        store = store.part(*rows)
        encoder, classes = self.encoder(store, args.seed, begun), int(store.labels.max()) + 1
        # Generated numbers may differ in their last digits from machine to machine.
        content = None if is_named(data, self.corpus) else store.fingerprint
        return Prepared(encoder, store, read, len(store), classes or None, content=content)

    def _store(self, data: Any, windows: dict[str, Any]) -> tuple[SeriesStore, str]:
        """All windows, and a line on what was read."""
        written = isinstance(data, (str, Path)) and (Path(data) / "store.json").is_file()
        if not self.mapped and not written:
            source = self._read(data)
            return SeriesStore(source, **windows), source.summary()
        given = {**self.reading(), "label_column": self.label_column}
        if unused := [k for k, v in given.items() if v not in (None, [], False)]:
            raise ValueError(
                f"What lies on disk is taken as it is, so {', '.join(unused)} cannot be heeded; "
                "leave it out, or leave out mapped."
            )
        store = (SeriesStore.open if written else SeriesStore.from_npy)(data, **windows)
        return store, store.summary()

    def _stream(
        self,
        data: Any,
        windows: dict[str, Any],
        rows: tuple[float, float | None],
        args: TrainingArguments,
        begun: Path | None,
    ) -> Prepared:
        if self.mapped or is_named(data, self.corpus):
            raise ValueError(
                "streaming reads series one after the other, and a part at a time: leave out "
                "mapped, and give data that is not generated in memory."
            )
        if self.label_column is not None:
            raise ValueError("A stream of series has no labels: leave out label_column.")
        if args.max_steps <= 0:
            raise ValueError("A stream has no end that is known: give --training.max_steps.")
        rank, size = world()
        source = stream_series(data, **self.reading())
        store = StreamWindows(
            source,
            args.per_device_train_batch_size,
            seed=args.seed,
            rank=rank,
            world_size=size,
            passes=None,
            rows=rows,
            **windows,
        )
        first = store.first()
        first.time_gap = source.time_gap
        read = f"a stream that begins with {first.summary()}"
        logger.info("%s", read)
        encoder = self.encoder(first, args.seed, begun)
        return Prepared(encoder, store, read, None, bytes=stream_bytes(source))

    def _read(self, data: Any) -> SeriesData:
        if isinstance(data, SeriesData):
            return data
        if is_named(data, self.corpus):
            return embedded_series()
        return read_series(data, **self.reading(), label_column=self.label_column)

    def reading(self) -> dict[str, Any]:
        """What `read_series` is told."""
        names = ("id_column", "timestamp_column", "target", "covariates", "static", "freq")
        names = (*names, "time_gap", "missing", "limit")
        return {n: getattr(self, n) for n in names}

    def encoder(self, store: SeriesStore, seed: int, begun: Path | None) -> SeriesEncoder:
        """The encoder alone, of these windows: as the run began, a pretrained one, or a new one."""
        said = {"norm": self.norm, "pooling": self.pooling, "causal": self.causal or None}
        new = {
            "context": self.context,
            "channels": 1 if self.channels == "independent" else int(store.widths[0]),
            "covariates": store.known,
            "static": store.static.shape[1],
            "time_gap": store.time_gap,
        }
        how: dict[str, Any] = {"settings": {k: v for k, v in said.items() if v is not None}}
        encoder = encoder_of(SeriesEncoder, self, seed=seed, begun=begun, new=new, **how)
        if begun is None and self.pretrained is not None:
            encoder.check_gaps(store.time_gap)
            if encoder.names != store.names and set(encoder.names) == set(store.names):
                raise ValueError(
                    f"The pretrained encoder takes the channels {', '.join(encoder.names)} in this "
                    "order; give target: with their names in it."
                )
        if begun is None and encoder.channels > 1:
            encoder.names = store.names
        return encoder


def _rows(rows: list[float]) -> tuple[float, float | None]:
    if len(rows) not in (1, 2):
        raise ValueError(f"rows is [start, end] or [start], but {rows} came.")
    # A whole number is a row, what lies below 1 a share: part() tells them apart by type.
    start, end = (int(r) if float(r).is_integer() else r for r in [*rows, *[0]][:2])
    alike = type(end) is type(start) and (end < 0) == (start < 0)
    if len(rows) == 2 and ((alike and end <= start) or (0 < start < 1 and end == 1)):
        raise ValueError(
            "rows is [start, end], both rows or both shares below 1, the end behind the start, or "
            f"[start] for all from there on, but {rows} came."
        )
    return start, None if len(rows) == 1 else end
