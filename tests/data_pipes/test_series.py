import bz2
import gzip
import json
import lzma
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

from unlabel.data_pipes.series import read_series

HOURS = pd.date_range("2024-01-01", periods=6, freq="h")
NAN = np.nan


def wide(**columns) -> pd.DataFrame:
    return pd.DataFrame({"date": HOURS, "a": np.arange(6.0), "b": 10 + np.arange(6.0), **columns})


def long(ids=("x", "y"), names=("item_id", "timestamp", "target")) -> pd.DataFrame:
    parts = [
        pd.DataFrame({names[0]: i, names[1]: HOURS, names[2]: 10 * k + np.arange(6.0)})
        for k, i in enumerate(ids)
    ]
    return pd.concat(parts, ignore_index=True)


def clock() -> pd.DataFrame:
    """Two days, whose times lie in two columns."""
    stamps = pd.date_range("2024-01-01", periods=24, freq="2h")
    return pd.DataFrame(
        {"date": stamps.strftime("%Y-%m-%d"), "time": stamps.strftime("%H:%M"), "load": range(24)}
    )


def same(values, expected) -> None:
    np.testing.assert_array_equal(values, np.asarray(expected, dtype=np.float32))


# --- the same table, whatever its form ----------------------------------------------------------


@pytest.mark.parametrize("packer", [None, gzip, bz2, lzma])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_wide_table_is_one_series_of_channels_however_it_is_packed(tmp_path, separator, packer):
    text = wide().to_csv(index=False, sep=separator).encode()
    path = tmp_path / "meter.csv"
    path.write_bytes(packer.compress(text) if packer else text)
    (one,) = read_series(path)
    same(one.values, np.stack([np.arange(6), 10 + np.arange(6)], 1))
    assert (one.id, one.names, one.freq, one.start) == ("meter", ("a", "b"), "h", HOURS[0])
    assert one.values.dtype == np.float32


@pytest.mark.parametrize(
    "names", [("item_id", "timestamp", "target"), ("unique_id", "ds", "y"), ("ID", "at", "load")]
)
def test_a_long_table_is_a_series_an_id(tmp_path, names):
    frame = long(names=names)
    named: dict[str, Any] = {}
    if names[0] == "ID":
        named = {"id_column": "ID", "timestamp_column": "at", "target": "load"}
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv", index=False)
    for source in (frame, tmp_path / "t.parquet", tmp_path / "t.csv"):
        data = read_series(source, **named)
        assert [s.id for s in data] == ["x", "y"]
        same(data[1].values, 10 + np.arange(6)[:, None])
        assert data[1].names == (names[2],)
        assert np.shares_memory(data[0].values.base, data[1].values.base)


def test_space_around_the_names_of_columns_is_none_of_them(tmp_path):
    (tmp_path / "t.csv").write_text("item_id , ds,y \n007,2024-01-01,1\nb,2024-01-01,2\n")
    data = read_series(tmp_path / "t.csv")
    assert [(s.id, s.names, s.values[0, 0]) for s in data] == [("007", ("y",), 1), ("b", ("y",), 2)]


def test_ids_stay_text(tmp_path):
    (tmp_path / "t.csv").write_text("item_id,target\n007,1\nNA,2\n007,3\n,4\n")
    data = read_series(tmp_path / "t.csv")
    assert [(s.id, s.values[:, 0].tolist()) for s in data] == [("007", [1, 3]), ("NA", [2])]
    assert data.report.dropped == {"without_id": 1}
    assert data.report.examples["without_id"][0].endswith("t.csv:5")


def test_decimal_commas_and_tables_without_header_are_read(tmp_path):
    (tmp_path / "eu.csv").write_text("date;a\n13/01/2024;1,5\n14/01/2024;2,5\n15/01/2024;\n")
    (tmp_path / "ends.csv").write_text("date,a,\n2024-01-13,1,\n2024-01-14,2,\n")
    assert read_series(tmp_path / "ends.csv")[0].names == ("a",)
    (tmp_path / "bare.csv").write_text("1.5,2\n3,?\n")
    (tmp_path / "dated.csv").write_text("2024-01-13,1.5\n2024-01-15,2\n2024-01-14,3\n")
    (one,) = read_series(tmp_path / "dated.csv")
    same(one.values, [[1.5], [3], [2]])
    (one,) = read_series(tmp_path / "eu.csv")
    same(one.values, [[1.5], [2.5], [NAN]])
    assert (one.start, one.freq) == (pd.Timestamp("2024-01-13"), "D")
    (one,) = read_series(tmp_path / "bare.csv")
    same(one.values, [[1.5, 2], [3, NAN]])
    assert (one.names, one.start, one.freq) == (("0", "1"), None, None)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("-1.5,-1.5\n3,4\n", [-1.5, -1.5]), ("0.123,0.123\n3,4\n", [0.123, 0.123]),
        ("1.5,?\n3,4\n", [1.5, NAN]), ("2,\n3,4\n", [2, NAN]), ("0.0,1.0\n3,4\n", [0, 1]),
        ("1,5;2,5\n3;4\n", [1.5, 2.5]), ("0.0e+00 1.0e+00\n3 4\n", [0, 1]),
    ],
)  # fmt: skip
def test_a_first_row_of_numbers_is_no_header_whatever_they_are(tmp_path, text, first):
    (tmp_path / "t.txt").write_text(text)
    (one,) = read_series(tmp_path / "t.txt")
    assert one.names == ("0", "1")
    same(one.values, [first, [3, 4]])


@pytest.mark.parametrize("text", ["0,1\n3,4\n", ",0,1\n0,3,4\n", ",1990,1991\n0,3,4\n"])
def test_numbers_that_pandas_writes_as_names_are_a_header(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    (one,) = read_series(tmp_path / "t.csv")
    same(one.values, [[3, 4]])


def test_decimal_commas_are_told_by_later_rows_and_separators_from_names(tmp_path):
    (tmp_path / "late.csv").write_text("Zeit, lokal;a;Ort\n1;5;x 1,5\n2;,5;y\n3;-2,5;z\n")
    (one,) = read_series(tmp_path / "late.csv", target="a")
    same(one.values, [[5], [0.5], [-2.5]])
    (tmp_path / "words.csv").write_text("n;a;where\n1;5.5;at 1,5\n2;2.5;at 2,5\n")
    same(read_series(tmp_path / "words.csv", target="a")[0].values, [[5.5], [2.5]])
    assert "late.csv: ,5 is .5" in read_series(tmp_path / "late.csv", target="a").summary()


def test_commas_between_thousands_are_no_decimal_commas_where_others_have_points(tmp_path):
    (tmp_path / "t.tsv").write_text("a\tb\n900\t0.5\n1,000\t1.5\n")
    with pytest.raises(ValueError, match=r"column 'a', row 3: '1,000' is no number"):
        read_series(tmp_path / "t.tsv")
    same(read_series(tmp_path / "t.tsv", target="b")[0].values, [[0.5], [1.5]])


@pytest.mark.parametrize(("step", "start"), [("D", "2024-03-25"), ("MS", "2024-01-01")])
def test_local_midnights_of_summer_and_winter_are_days_in_text_too(step, start):
    times = pd.date_range(start, periods=14, freq=step, tz="Europe/Berlin")
    for written in (times, [t.isoformat() for t in times], [str(t) for t in times]):
        (one,) = read_series(pd.DataFrame({"date": written, "a": np.arange(14.0)}))
        assert (one.start, one.freq, len(one)) == (pd.Timestamp(start), step, 14)
    hours = pd.date_range(start, periods=24 * 14, freq="h", tz="Europe/Berlin")
    (one,) = read_series(pd.DataFrame({"date": hours.map(str), "a": np.arange(24 * 14.0)}))
    assert (one.start, one.freq, len(one)) == (hours[0].tz_convert(None), "h", 24 * 14)


@pytest.mark.parametrize(
    ("written", "freq"),
    [
        ("%d.%m.%Y", "D"), ("%d/%m/%Y", "MS"), ("%m/%d/%Y", "MS"),
        ("%d/%m/%Y %H:%M", "h"), ("%m/%d/%Y %H:%M", "h"),
    ],
)  # fmt: skip
def test_the_day_or_the_month_first_whichever_leaves_no_gaps(written, freq):
    days = pd.date_range("2024-01-01", periods=11 if freq == "D" else 60, freq=freq)
    data = read_series(pd.DataFrame({"date": days.strftime(written), "a": np.arange(len(days))}))
    assert (data[0].start, data[0].freq, len(data[0])) == (days[0], freq, len(days))


def test_whole_numbers_that_are_dates_are_read_as_such(tmp_path):
    days = pd.date_range("2024-01-01", periods=60)
    table = pd.DataFrame({"date": days.strftime("%Y%m%d"), "a": np.arange(60.0)})
    table.to_csv(tmp_path / "d.csv", index=False)
    (one,) = read_series(tmp_path / "d.csv")
    assert (one.start, one.freq, len(one)) == (days[0], "D", 60)
    table["date"] = np.arange(60) + 20240101  # no such days: steps are counted
    assert read_series(table)[0].start == 20240101


@pytest.mark.parametrize("shape", [(5,), (5, 2), (3, 5, 2)])
def test_arrays_are_read_in_memory_and_from_a_file(tmp_path, shape):
    array = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    np.save(tmp_path / "x.npy", array)
    for source in (array, tmp_path / "x.npy"):
        data = read_series(source)
        got = np.stack([s.values for s in data])
        same(got, array.reshape(got.shape))
        assert len(data) == (shape[0] if len(shape) == 3 else 1)


def test_a_list_of_arrays_or_tables_is_a_series_each():
    data = read_series([np.arange(3), np.ones((4, 1)), [5.0, 6.0]])
    assert [(s.id, len(s)) for s in data] == [("0", 3), ("1", 4), ("2", 2)]
    assert [s.id for s in read_series([wide(), wide()])] == ["0", "1"]
    assert len(read_series([1, 2.5, 3])[0]) == 3


def test_an_index_of_dates_is_the_time_and_a_pandas_series_a_channel():
    frame = wide().set_index("date")
    for source in (frame, frame["a"], frame.to_period("h")):
        one = read_series(source)[0]
        assert (one.start, one.freq, len(one)) == (HOURS[0], "h", 6)


@pytest.mark.slow
def test_data_sets_of_rows_and_of_whole_series_are_read():
    rows = datasets.Dataset.from_pandas(long(names=("unique_id", "ds", "y")))
    whole = datasets.Dataset.from_list(
        [
            {"id": "p", "timestamp": list(HOURS), "target": [1.0, 2, 3, 4, 5, NAN]},
            {"id": "q", "timestamp": list(HOURS[:2]), "target": [7.0, 8]},
        ]
    )
    gluon = datasets.Dataset.from_list(
        [{"target": [1.0, 2, 3], "feat_static_cat": [4]}, {"target": [5.0], "feat_static_cat": [1]}]
    )
    assert [s.id for s in read_series(rows)] == ["x", "y"]
    for source in (whole, whole.to_iterable_dataset()):
        data = read_series(source)
        assert [(s.id, len(s), s.freq) for s in data] == [("p", 6, "h"), ("q", 2, "h")]
        same(data[1].values, [[7], [8]])
    assert [s.values[:, 0].tolist() for s in read_series(gluon)] == [[1, 2, 3], [5]]
    with pytest.raises(ValueError, match=r"Several splits came \(train\)"):
        read_series(datasets.DatasetDict(train=rows))


CASES = """#comment
@problemName Toy
@timeStamps false
@classLabel true cat dog
@data
1,2,3:4,?,6:dog
7,8:9,:cat
"""


def test_a_ts_file_gives_cases_of_unequal_length_with_their_class(tmp_path):
    (tmp_path / "toy.ts.gz").write_bytes(gzip.compress(CASES.encode()))
    data = read_series(tmp_path / "toy.ts.gz")
    same(data[0].values, [[1, 4], [2, NAN], [3, 6]])
    same(data[1].values, [[7, 9], [8, NAN]])
    assert [s.label for s in data] == [1, 0]
    assert data.classes == ("cat", "dog")
    assert [s.id for s in data] == ["toy:0", "toy:1"]


def test_what_is_missing_in_values_is_so_in_covariates_and_statics():
    frame = pd.DataFrame({"item_id": ["a"] * 4 + ["b"] * 4, "y": np.arange(8.0)})
    frame["size"] = [NAN, 2, 2, 2, 7, 7, 7, 7]
    frame["price"] = [1, np.inf, -9999, 4, -9999, 6, 7, 8]
    data = read_series(frame, target="y", covariates="price", static="size", missing=[-9999])
    known = [s.covariates[:, 0].tolist() for s in data if s.covariates is not None]
    assert known == [[1, 1, 1, 4], [0, 6, 7, 8]]
    assert [s.static.tolist() for s in data if s.static is not None] == [[0], [7]]
    assert "1 missing static value taken as 0 (size)" in data.summary()
    assert data.report.counts["infinite"] == 1 and data.report.counts["declared_missing"] == 2


def test_covariates_and_statics_go_beside_the_values():
    frame = long().assign(
        price=[1, NAN, 3, 4, 5, 6, NAN, 8, 9, 10, 11, 12], size=[4] * 6 + [7] * 6, city="Rome"
    )
    frame = frame.drop(index=3)
    data = read_series(frame, covariates="price", static=["size"])
    same(data[0].values, [[0], [1], [2], [NAN], [4], [5]])
    same(data[0].covariates, [[1], [1], [3], [3], [5], [6]])
    same(data[1].covariates, [[0], [8], [9], [10], [11], [12]])
    assert [s.static.tolist() for s in data] == [[4], [7]]
    assert data.report.counts["filled_covariates"] == 3


# --- time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "freq",
    ["h", "15min", "D", "W-FRI", "MS", "ME", "QS-JAN", "QE-MAR", "YS-JAN", "YE-DEC", "B", "10s"],
)
@pytest.mark.parametrize("given", [False, True])
def test_missing_rows_are_found_at_every_frequency(freq, given):
    stamps = pd.date_range("2021-01-01", periods=40, freq=freq)
    frame = pd.DataFrame({"ds": stamps, "y": np.arange(40.0)}).drop(index=[3, 20, 21])
    data = read_series(frame, freq=freq if given else None)
    assert data[0].freq == freq
    assert data[0].start == stamps[0]
    expected = np.where(np.isin(np.arange(40), [3, 20, 21]), NAN, np.arange(40))
    same(data[0].values[:, 0], expected)
    assert (data.report.counts["gaps"], data.report.counts["gap_steps"]) == (2, 3)
    assert "2 gaps, 3 steps" in data.summary()
    assert data.report.examples["gaps"][0] == f"DataFrame after {stamps[2]}"


def test_rows_are_sorted_and_of_repeated_times_the_last_is_kept(tmp_path):
    frame = wide().iloc[[0, 2, 1, 3, 5, 4, 2]]
    frame.iloc[-1, 1] = 99
    frame.to_csv(tmp_path / "m.csv", index=False)
    data = read_series(tmp_path / "m.csv")
    same(data[0].values[:, 0], [0, 1, 99, 3, 4, 5])
    report = data.report
    assert (report.lines, report.kept, report.dropped) == (7, 6, {"repeated": 1})
    assert report.examples["repeated"] == [f"{tmp_path / 'm.csv'}:3"]
    assert (report.counts["unsorted"], report.examples["unsorted"]) == (1, ["m"])


def test_each_series_may_have_its_own_step_and_an_irregular_one_keeps_its_rows():
    parts = [
        long(["hourly"]),
        long(["daily"]).assign(timestamp=pd.date_range("2024", periods=6, freq="D")),
        long(["odd"]).assign(timestamp=HOURS[0] + pd.to_timedelta([0, 7, 9, 60, 61, 90], "min")),
        long(["single"]).head(1),
    ]
    data = read_series(pd.concat(parts))
    assert {s.id: (len(s), s.freq) for s in data} == {
        "hourly": (6, "h"), "daily": (6, "D"), "odd": (6, None), "single": (1, "h"),
    }  # fmt: skip
    assert data.report.counts == {"irregular": 1}
    assert "1 series of irregular step (odd)" in data.summary()


def test_numbers_in_a_time_column_count_steps():
    (one,) = read_series(pd.DataFrame({"time": [10, 20, 40, 30, 60], "y": [1.0, 2, 4, 3, 6]}))
    same(one.values[:, 0], [1, 2, 3, 4, NAN, 6])
    assert (one.start, one.freq) == (10, None)
    (one,) = read_series(pd.DataFrame({"time": [0.0, 0.1, 0.2, 0.4], "y": [0.0, 1, 2, 4]}))
    same(one.values[:, 0], [0, 1, 2, NAN, 4])


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_numbers_since_1970_are_dates(unit):
    since = HOURS.astype(f"datetime64[{unit}]").astype("int64")
    (one,) = read_series(wide().assign(date=since))
    assert (one.start, one.freq) == (HOURS[0], "h")


@pytest.mark.parametrize(
    ("text", "freq", "start", "steps"),
    [
        (("01/02/2024", "13/02/2024", "14/02/2024", "15/02/2024"), "D", "2024-02-01", 15),
        (("2020Q1", "2020Q2", "2020Q4", "2021Q1"), "QS-JAN", "2020-01-01", 5),
        (("1990/1/1 0:00", "1990/1/2 0:00", "1990/1/3 0:00"), "D", "1990-01-01", 3),
        (("2024-01-15", "2024-02-15", "2024-04-15", "2024-05-15"), None, "2024-01-15", 5),
        (("2024-01-01T00:00Z", "2024-01-01T00:30Z"), "30min", "2024-01-01", 2),
        (("1500-01-01", "1501-01-01", "1503-01-01", "1504-01-01"), "YS-JAN", "1500-01-01", 5),
    ],
)
def test_dates_are_read_as_people_write_them(text, freq, start, steps):
    (one,) = read_series(pd.DataFrame({"when": text, "y": np.arange(len(text))}))
    assert (one.freq, one.start, len(one)) == (freq, pd.Timestamp(start), steps)


def test_the_hour_that_a_clock_change_repeats_is_kept():
    stamps = pd.date_range("2024-10-27", periods=6, freq="h", tz="Europe/Berlin")
    text = pd.DataFrame({"date": stamps.map(str), "y": np.arange(6.0)})
    for frame in (text, text.assign(date=stamps)):
        (one,) = read_series(frame)
        assert (len(one), one.freq, one.start) == (6, "h", pd.Timestamp("2024-10-26 22:00"))
    days = pd.date_range("2024-10-25", periods=6, freq="D", tz="Europe/Berlin")
    assert read_series(text.assign(date=days))[0].freq == "D"


# --- what is odd is counted, and what cannot be used is refused ---------------------------------


def test_empty_constant_and_infinite_channels_are_named_and_stay():
    data = read_series(wide(gone=NAN, flat=3.0, inf=[1, 2, np.inf, 4, 5, -1e39], town="Rome"))
    assert data[0].names == ("a", "b", "gone", "flat", "inf")
    assert data.report.counts == {
        "empty_channels": 1, "constant_channels": 1, "infinite": 2, "text_columns": 1,
    }  # fmt: skip
    summary = data.summary()
    assert "1 channel without a value (DataFrame/gone)" in summary
    assert "1 constant channel (DataFrame/flat)" in summary
    same(data[0].values[:, 4], [1, 2, NAN, 4, 5, NAN])


def test_columns_beside_the_target_of_a_long_table_are_named_unless_it_was_chosen():
    frame = long().assign(price=1.0)
    assert "1 column not used (DataFrame: 'price')" in read_series(frame).summary()
    assert not read_series(frame, target="target").report.counts
    assert read_series(frame, target=["target", "price"])[0].names == ("target", "price")


def test_rows_without_a_time_are_left_out_and_counted():
    data = read_series(wide().assign(date=[h if h.hour != 2 else None for h in HOURS]))
    same(data[0].values[:, 0], [0, 1, NAN, 3, 4, 5])
    assert data.report.dropped == {"without_time": 1}
    assert data.report.examples["without_time"] == ["DataFrame:2"]
    assert "1 without time row(s) left out (DataFrame:2)" in data.summary()


def test_a_recurring_value_far_from_all_others_is_suspected():
    x = np.random.default_rng(0).normal(20, 5, (500, 3))
    x[[7, 70, 300], 1] = -9999
    x[5, 2] = 1e6  # once: an outlier, not a code
    data = read_series(x)
    assert data.report.counts == {"sentinels": 1}
    assert "-9999 3 times in '1' of ndarray: missing=[-9999]?" in data.summary()
    data = read_series(x, missing=[-9999])
    assert data.report.counts == {"declared_missing": 3}
    assert np.isnan(data[0].values[[7, 70, 300], 1]).all()


GOOD = b"date,a\n2024-01-01,1\n2024-01-02,2\n"


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("t.csv", b"", {}, "the file is empty"),
        ("t.csv", b"date,a\n", {}, "header but no rows"),
        ("t.csv", b"date,a\n2024-01-01,1\n2024-01-02,oops\n", {}, "'a', row 3: 'oops' is no num"),
        ("t.csv", b"date,a\n2024-01-01,1\nsoon,2\n", {"timestamp_column": "date"},
         "'date', row 3: 'soon' is no date"),
        ("t.csv", b"town,b\nRome,\n", {"target": "town"}, "'town', row 2: 'Rome' is no number"),
        ("t.csv", b"town,where\nRome,here\n", {}, "no column of numbers among 'town', 'where'"),
        ("t.csv", b"a,b\n1,2\n1,2,3\n", {}, "Expected 2 fields in line 3, saw 3"),
        ("t.csv", b"date,a\n2024-01-01,1,7\n2024-01-02,2,7\n", {}, "line 1 has 2 field(s) and"),
        ("t.csv", b"\n" + GOOD, {}, "line 1 is empty, but the names of the columns"),
        ("t.csv", b"date,a\n2024-01-01,1\n02.01.2024,2\n", {"timestamp_column": "date"},
         "'date', row 3: '02.01.2024' is no date written like '2024-01-01' before it"),
        ("t.csv", GOOD, {"target": "z"}, "no column 'z'; it has the columns 'date', 'a'"),
        ("t.csv", GOOD, {"freq": "2D"}, "do not lie on a step of '2D'"),
        ("t.csv", b"date,gr\xf6sse\n2024-01-01,1\n", {}, "not utf-8 text; save it as UTF-8, or"),
        ("t.csv.gz", gzip.compress(GOOD * 9, mtime=0)[:-12], {},
         "cannot be read: Compressed file ended"),
        ("t.csv", bytes(range(256)) * 4, {}, "looks binary"),
        ("t.csv", b"ds,y\n" + b"".join(b"%d,1\n" % i for i in (1, 2, 3, 99999999)), {},
         "span 99,999,999 steps"),
        ("t.npy", b"\x93NUMPY broken", {}, "cannot be read"),
        ("t.parquet", b"PAR1 broken", {}, "cannot be read"),
        ("t.ts", b"@data\n1,2:a,4\n", {}, "line 2, dimension 2: 'a' is no number"),
        ("t.ts", b"@data\n1,2:3\n", {}, "line 2: its dimensions have"),
        ("t.ts", b"@data\n1,2:3,4\n1,2\n", {}, "line 3 has 1 dimensions, but the first case has 2"),
        ("t.ts", b"@classLabel true a b\n@data\n1:c\n", {}, "'c' is none of its classes a, b"),
        ("t.ts", b"1,2\n", {}, "no line @data"),
        ("t.ts", b"@data\n", {}, "no case after @data"),
        ("t.ts", b"@timeStamps true\n@data\n(1,2)\n", {}, "carry time stamps"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_in_one_sentence_by_name(tmp_path, name, content, options, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_series(tmp_path / name, **options)
    text = str(error.value)
    assert message in text and name in text and "\n" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freq": "h33"}, "no step that pandas knows"),
        ({"freq": "SMS"}, "'SMS' is not supported"),
        ({"limit": 0}, "limit must be 1 or more"),
    ],
)
def test_a_wrong_argument_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        read_series(wide(), **options)


def test_another_encoding_is_read_when_named(tmp_path):
    (tmp_path / "t.csv").write_bytes("date,größe\n2024-01-01,1\n".encode("latin-1"))
    assert read_series(tmp_path / "t.csv", encoding="latin-1")[0].names == ("größe",)


def test_a_bad_file_of_a_folder_is_skipped_and_reported(tmp_path):
    for name in ("a", "b", "sub/a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.csv").write_bytes(GOOD)
    (tmp_path / "bad.csv").write_bytes(b"date,a\n2024-01-01,1\n2024-01-02,oops\n")
    (tmp_path / "notes.md").write_text("hello")
    data = read_series(tmp_path)
    assert [s.id for s in data] == ["a", "b", "a#2"]
    assert [len(data.report.broken), len(data.report.ignored), len(data.report.files)] == [1, 1, 3]
    assert "1 broken file(s) skipped" in data.summary() and "row 3: 'oops'" in data.summary()
    assert [s.id for s in read_series(str(tmp_path / "*.csv"), limit=1)] == ["a"]
    assert len(read_series([tmp_path / "a.csv", tmp_path / "b.csv"])) == 2
    assert data.report.lines == data.report.kept + data.report.dropped.total()
    for name in ("a", "b", "sub/a"):
        (tmp_path / f"{name}.csv").write_bytes(b"")
    with pytest.raises(ValueError, match=r"No usable series among 4 sources: .*empty"):
        read_series(tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "An empty list"),
        (iter([1]), "list_iterator"),
        (7, "from a int"),
        ({"train": 1}, "Several splits came"),
        (np.array(["a"]), "array of <U1"),
        (np.zeros((2, 2, 2, 2)), r"shape \(2, 2, 2, 2\)"),
        (pd.DataFrame({"a": []}), "no rows"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "several columns called 'a'"),
        (clock(), "'time' seems to hold the rest of it; join them into one column"),
        (clock().assign(time=range(0, 48, 2)), "'time' seems to hold the rest of it"),
        (long(names=("city", "date", "load")), r"repeat a time of 'date'.* id_column='city'"),
        (pd.DataFrame({"item_id": [None], "target": [1]}), "no row has an id"),
        (pd.DataFrame({"ds": [None], "y": [1]}), "no row has both an id and a time"),
    ],
)
def test_what_is_no_source_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        read_series(source)
    with pytest.raises(FileNotFoundError, match=r"series is read from \.csv"):
        read_series("no/such/*.csv")


# --- real data ----------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "shape", "freq", "start", "counts"),
    [
        ("ETTh1", (17420, 7), "h", "2016-07-01", {}),
        ("ETTm2", (69680, 7), "15min", "2016-07-01", {}),
        ("exchange_rate", (7588, 8), "D", "1990-01-01", {}),
        ("national_illness", (966, 7), "W-TUE", "2002-01-01", {}),
        ("weather", (52704, 21), "10min", "2020-01-01 00:10",
         {"gaps": 1, "gap_steps": 9, "sentinels": 2}),
        ("small/AirPassengers", (144, 1), "MS", "1949-01-01", {}),
        ("small/monthly-milk-incomplete", (168, 1), "MS", "1962-01-01",
         {"gaps": 8, "gap_steps": 13}),
        ("small/us_gasoline", (1578, 1), "W-FRI", "1991-02-08", {"unsorted": 1}),
        ("small/taylor", (4032, 1), None, None, {}),
        ("small/australian_tourism", (36, 96), None, None, {}),
    ],
)  # fmt: skip
def test_real_tables_are_read_whole(data_folder, name, shape, freq, start, counts):
    data = read_series(data_folder / "series" / f"{name}.csv.gz")
    (one,) = data
    assert (one.values.shape, one.freq) == (shape, freq)
    assert one.start == (start if start is None else pd.Timestamp(start))
    assert data.report.counts == counts
    missing = counts.get("gap_steps", 0) * shape[1]
    assert np.isnan(one.values).sum() == missing


@pytest.mark.data
def test_real_values_stand_where_the_file_has_them(data_folder):
    (ett,) = read_series(data_folder / "series/ETTh1.csv.gz")
    assert ett.names == ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
    assert ett.values[1, 6] == np.float32(27.78700065612793)
    (gas,) = read_series(data_folder / "series/small/us_gasoline.csv.gz")
    assert gas.values[-1, 0] == 8864  # the first line of the file is its newest week
    weather = read_series(data_folder / "series/weather.csv.gz", missing=[-9999])
    assert weather.report.counts["declared_missing"] == 81
    assert weather[0].values[np.isfinite(weather[0].values)].min() > -100


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "train", "test", "lengths", "channels", "classes"),
    [
        ("JapaneseVowels", 270, 370, (7, 29), 12, 9),
        ("PLAID", 537, 537, (100, 1344), 1, 11),
        ("PickupGestureWiimoteZ", 50, 50, (29, 361), 1, 10),
        ("BasicMotions", 40, 40, (100, 100), 6, 4),
        ("ECG200", 100, 100, (96, 96), 1, 2),
    ],
)
def test_real_cases_are_read_whole(data_folder, name, train, test, lengths, channels, classes):
    data = read_series(str(data_folder / "series/classification" / f"{name}_T*.ts.gz"))
    assert [sum(p in s.id for s in data) for p in ("TRAIN", "TEST")] == [train, test]
    steps = [len(s) for s in data]
    assert (min(steps), max(steps)) == lengths
    assert {s.values.shape[1] for s in data} == {channels}
    assert {s.label for s in data} == set(range(classes)) and len(data.classes) == classes
    assert not data.missing


def test_a_report_can_be_written_as_json():
    report = read_series(wide().drop(index=2)).report
    assert json.loads(json.dumps(report.__dict__))["counts"] == {"gaps": 1, "gap_steps": 1}


def test_rows_without_a_series_are_left_out_and_counted_wherever_they_stand(tmp_path):
    for place, without in enumerate((None, [], None)):
        lists: list[list[float] | None] = [[1.0, 2.0], [3.0, 4.0, 5.0]]
        lists.insert(place, without)
        pd.DataFrame({"target": lists}).to_parquet(tmp_path / "x.parquet")
        data = read_series(tmp_path / "x.parquet")
        assert [s.id for s in data] == [str(i) for i in range(3) if i != place]
        assert [len(s) for s in data] == [2, 3]
        arrow = pd.read_parquet(tmp_path / "x.parquet", dtype_backend="pyarrow")
        assert [len(s) for s in read_series(arrow)] == [2, 3]
        assert f"1 row without steps left out ({tmp_path}/x.parquet: row {place})" in data.summary()


def test_none_in_lists_is_missing_and_rows_may_be_dicts():
    same(read_series([1.0, None, 2])[0].values, [[1], [NAN], [2]])
    same(read_series([[1.0, None], [3, 4, 5]])[0].values, [[1], [NAN]])
    same(read_series(np.array([1, None, 2], dtype=object))[0].values, [[1], [NAN], [2]])
    (one,) = read_series([{"ds": "2024-01-01", "y": 1}, {"ds": "2024-01-02", "y": 2}])
    same(one.values, [[1], [2]])
    assert one.freq == "D"


@pytest.mark.parametrize("freq", ["h", "W", "MS", "B"])
def test_a_date_for_a_whole_series_is_its_start_where_the_step_is_said(freq):
    starts = pd.to_datetime(["2024-01-01", "2024-03-01"])
    rows = pd.DataFrame({"id": ["a", "b"], "start": starts, "target": [[1.0, 2, 3], [4.0, 5]]})
    for table in (rows, rows.assign(start=rows["start"].dt.strftime("%Y-%m-%d %H:%M:%S"))):
        data = read_series(table, freq=freq)
        assert [(s.id, s.start, s.freq, len(s)) for s in data] == [
            ("a", starts[0], freq, 3),
            ("b", starts[1], freq, 2),
        ]
        same(data[0].values, [[1], [2], [3]])
    without = read_series(rows)
    assert without[0].start is None and "give freq=" in without.summary()
