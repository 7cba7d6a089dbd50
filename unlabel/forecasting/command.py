"""`unlabel forecast`: from a table and an encoder to a table of forecasts and a picture."""

import warnings
from pathlib import Path
from typing import Any, Literal

from unlabel.data_pipes.series import read_series
from unlabel.files import replacing
from unlabel.forecaster import Forecaster, is_forecaster


def forecast(
    model: str,
    data: str,
    output: str = "forecast.csv",
    *,
    prediction_length: int | None = None,
    target: list[str] | str | None = None,
    method: Literal["ridge", "linear", "finetune"] | None = None,
    features: Literal["tokens", "values+tokens"] | None = None,
    quantile_levels: list[float] | None = None,
    id_column: str | None = None,
    timestamp_column: str | None = None,
    covariates: list[str] | None = None,
    static: list[str] | None = None,
    freq: str | None = None,
    future: str | None = None,
    plot: str | None = None,
    save: str | None = None,
    seed: int | None = None,
    device: str | None = None,
) -> None:
    """Forecast the steps after the last row of each series, and say how good that is.

    Args:
        model: a run's output folder, a saved encoder's folder, `none` for a new untrained encoder,
            or a forecaster that was saved before, which is not fitted again.
        data: a file, folder or glob of series.
        output: ends in `.csv` or `.parquet`.
        prediction_length: steps; default 96, or what a saved forecaster was fitted for.
        target: columns to forecast; default all that hold numbers.
        method: how the head is fitted: in closed form (`ridge`, the default), by gradient, or with
            the encoder.
        features: what the head reads: the encoder's `tokens` (the default), or the window's values
            beside them.
        quantile_levels: default 0.1, 0.5 and 0.9, or what a saved forecaster was fitted for.
        id_column: which column tells series apart.
        timestamp_column: which column holds the time.
        covariates: columns known of the future too.
        static: columns that hold for a whole series.
        freq: the step, in pandas' names (`h`, `MS`).
        future: file with the covariates of the steps to forecast.
        plot: picture of the first series (`.png`, `.svg`, `.pdf`).
        save: folder for the fitted forecaster.
        seed: of a new encoder and of training; default 0.
        device: as for torch; a GPU where there is one.
    """
    if Path(output).suffix not in (".csv", ".parquet"):
        raise ValueError(f"{output}: forecasts are written as .csv or .parquet; choose one.")
    columns: dict[str, Any] = {
        "target": target, "id_column": id_column, "timestamp_column": timestamp_column,
        "covariates": covariates, "static": static, "freq": freq,
    }  # fmt: skip
    fitting = {"method": method, "features": features, "seed": seed}
    fitting = {name: value for name, value in fitting.items() if value is not None}
    if is_forecaster(Path(model)):
        if fitting:
            raise ValueError(
                f"{model} is a forecaster that is fitted already, so {', '.join(fitting)} would "
                "change nothing; leave that out, or give its encoder."
            )
        forecaster = Forecaster.from_pretrained(model, device=device)
        columns = {name: value for name, value in columns.items() if value is not None}
        columns = {**forecaster.columns_, **columns}
        source = read_series(data, **columns)
    else:
        source = read_series(data, **columns)
        forecaster = Forecaster(
            None if model == "none" else model,
            prediction_length=96 if prediction_length is None else prediction_length,
            quantile_levels=quantile_levels or (0.1, 0.5, 0.9),
            device=device, **fitting,
        ).fit(source, **columns)  # fmt: skip
    asked = {"prediction_length": prediction_length, "quantile_levels": quantile_levels}
    found = forecaster.predict(source, future_df=future, **asked)
    _write(found.to_df(), Path(output))
    print(f"{found.summary()}: {output}")
    if plot is not None:
        _draw(found, Path(plot))
    if save is not None:
        forecaster.save_pretrained(save)
        print(f"The fitted forecaster: {save}")


def _write(table: Any, output: Path) -> None:
    write = table.to_parquet if output.suffix == ".parquet" else table.to_csv
    with replacing(output) as partial:
        write(partial, index=False)


def _draw(found: Any, path: Path) -> None:
    from matplotlib.figure import Figure  # no window, whatever the backend

    figure = Figure(figsize=(8, 3), layout="constrained")
    found.plot(ax=figure.add_subplot())
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # glyphs that the font lacks
        figure.savefig(path, dpi=150)
    print(f"Picture of the first one: {path}")
