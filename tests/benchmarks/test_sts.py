import gzip
import io
import json
import os

import numpy as np
import pytest
from scipy import stats

from unlabel.benchmarks.result import BenchmarkResult
from unlabel.benchmarks.sts import bench_sts, evaluate_sts
from unlabel.benchmarks.sts_data import SEVEN, read_sts_file

HEADER = "subset\tscore\tsentence1\tsentence2\n"
MINILM = os.environ.get("UNLABEL_MINILM")


def rows_of(count, seed, subsets=("a", "b")):
    rng = np.random.default_rng(seed)
    return [
        (subsets[i % len(subsets)], round(rng.uniform(0, 5), 2), f"left {seed} {i}", f"right {i}")
        for i in range(count)
    ]


def write(path, rows):
    text = HEADER + "".join("\t".join(map(str, row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(SEVEN):
        write(tmp_path / f"{name}.tsv.gz", rows_of(40 + seed, seed))
    return tmp_path


def cosines(embed, rows):
    left, right = (np.asarray(embed([r[k] for r in rows]), dtype=float) for k in (2, 3))
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return (left * right).sum(axis=1) / norms


def correlation(embed, rows):
    return 100 * stats.spearmanr(cosines(embed, rows), [r[1] for r in rows]).statistic


def test_all_is_one_correlation_over_the_subsets_together(folder, random_embed):
    result = evaluate_sts(random_embed, folder, sets=["sts12"], bootstrap=0)
    expected = correlation(random_embed, rows_of(40, 0))
    assert result.encoders[0].scores["sts12"].score == pytest.approx(expected, abs=1e-9)


def test_mean_and_wmean_average_the_subsets(tmp_path, random_embed):
    rows = rows_of(30, 3, "aab")
    write(tmp_path / "sts13.tsv", rows)
    parts = {s: correlation(random_embed, [r for r in rows if r[0] == s]) for s in "ab"}
    by_setting = {
        s: evaluate_sts(random_embed, tmp_path, sets=["sts13"], setting=s, bootstrap=0)
        for s in ("mean", "wmean", "all")
    }
    scores = {s: r.encoders[0].scores["sts13"] for s, r in by_setting.items()}
    assert scores["mean"].score == pytest.approx((parts["a"] + parts["b"]) / 2)
    assert scores["wmean"].score == pytest.approx((2 * parts["a"] + parts["b"]) / 3)
    assert [s.subset_mean for s in scores.values()] == [pytest.approx(scores["mean"].score)] * 3


def test_average_over_subsets_that_are_missing_is_refused(tmp_path, random_embed):
    write(tmp_path / "sts13.tsv", rows_of(20, 0, ("",)))
    with pytest.raises(ValueError, match="sts13 came without its subsets"):
        evaluate_sts(random_embed, tmp_path, sets=["sts13"], setting="mean")


def test_every_sentence_is_encoded_once(folder, random_embed):
    seen = []

    def embed(sentences):
        seen.extend(sentences)
        return random_embed(sentences)

    evaluate_sts(embed, folder, bootstrap=0)
    assert len(seen) == len(set(seen)) > 0


def test_average_needs_all_seven_sets(folder, random_embed):
    whole = evaluate_sts(random_embed, folder, bootstrap=20).encoders[0]
    mean = np.mean([whole.scores[name].score for name in SEVEN])
    assert whole.average is not None
    assert whole.average.score == pytest.approx(mean)
    assert whole.average.low < mean < whole.average.high
    assert evaluate_sts(random_embed, folder, sets=SEVEN[:6]).encoders[0].average is None


def test_encoder_that_knows_the_scores_gets_100_and_a_closed_interval(tmp_path):
    rows = rows_of(50, 0)
    write(tmp_path / "mine.tsv", rows)
    angle = {r[2]: np.arccos(r[1] / 5) for r in rows}
    embed = lambda s: [[np.cos(angle.get(x, 0)), np.sin(angle.get(x, 0))] for x in s]  # noqa: E731
    score = evaluate_sts(embed, tmp_path, sets=["mine"]).encoders[0].scores["mine"]
    assert (score.score, score.low, score.high) == pytest.approx((100, 100, 100))


def test_same_encoder_twice_differs_by_exactly_nothing(folder, random_embed):
    both = evaluate_sts(random_embed, folder) + evaluate_sts(random_embed, folder, name="again")
    gain = both.differences[0].scores["sts14"]
    assert (gain.score, gain.low, gain.high) == (0, 0, 0)


def test_paired_interval_is_narrower_than_the_scores_own(tmp_path):
    rng = np.random.default_rng(0)
    rows = [("a", round(rng.uniform(0, 5), 3), f"l{i}", f"r{i}") for i in range(300)]
    write(tmp_path / "mine.tsv", rows)
    angle = {r[2]: np.arccos(r[1] / 5) + rng.normal(0, 0.7) for r in rows}
    jitter = {r[2]: rng.normal(0, 0.05) for r in rows}

    def embed(sentences, scale):
        a = np.array([angle.get(s, 0) + scale * jitter.get(s, 0) for s in sentences])
        return np.stack([np.cos(a), np.sin(a)], axis=1)

    one, two = (evaluate_sts(lambda s, k=k: embed(s, k), tmp_path, sets=["mine"]) for k in (0, 1))
    both = one + two
    own, gain = both.encoders[0].scores["mine"], both.differences[0].scores["mine"]
    assert gain.high - gain.low < (own.high - own.low) / 2


@pytest.mark.parametrize(
    ("vector", "reason"),
    [([1.0, 2.0], "collapsed"), ([np.nan, 1.0], "nan or infinite"), ([0.0, 0.0], "collapsed")],
)
def test_collapsed_or_broken_encoder_has_no_score_and_a_reason(folder, vector, reason):
    with pytest.warns(UserWarning, match=reason):
        result = evaluate_sts(lambda s: np.array([vector] * len(s)), folder, sets=["sts12"])
    score = result.encoders[0].scores["sts12"]
    assert np.isnan(score.score)
    assert reason in (score.reason or "")
    saved = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert saved["encoders"][0]["scores"]["sts12"]["score"] is None


def test_float_noise_of_a_collapsed_encoder_earns_no_score(folder):
    rng = np.random.default_rng(0)
    embed = lambda s: np.ones((len(s), 8)) + rng.normal(0, 1e-5, (len(s), 8))  # noqa: E731
    with pytest.warns(UserWarning, match="collapsed"):
        evaluate_sts(embed, folder, sets=["sts12"])


def test_lone_quotes_are_text(tmp_path):
    write(tmp_path / "x.tsv", [("a", 1, '"I said', 'he "said'), ("a", 2, "b", "c")])
    assert read_sts_file(tmp_path / "x.tsv")[0] == ("a", 1.0, '"I said', 'he "said')


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"a\t1\tonly one", r"x\.tsv:3: 3 tab-separated cells instead of 4"),
        (b"a\tnan\tb\tc", r"x\.tsv:3: the score 'nan' is not a number"),
        (b"a\tfour\tb\tc", r"x\.tsv:3: the score 'four'"),
        (b"a\t1\t\tc", r"x\.tsv:3: one of the two sentences is empty"),
        (b"a\t1\tcaf\xe9\tc", r"x\.tsv:3: not UTF-8"),
        (b"", r"x\.tsv:3: 1 tab-separated cells"),
    ],
)
def test_broken_row_is_named_by_file_and_line(tmp_path, line, message):
    good = b"a\t1\tb\tc\n"
    (tmp_path / "x.tsv").write_bytes(HEADER.encode() + good + line + b"\n" + good)
    with pytest.raises(ValueError, match=message):
        read_sts_file(tmp_path / "x.tsv")


def test_wrong_header_and_empty_file_are_refused(tmp_path):
    (tmp_path / "x.tsv").write_text("score,sentence1,sentence2\n1,a,b\n")
    with pytest.raises(ValueError, match=r"x\.tsv:1: the header is"):
        read_sts_file(tmp_path / "x.tsv")
    (tmp_path / "x.tsv").write_text(HEADER)
    with pytest.raises(ValueError, match="no pairs after the header"):
        read_sts_file(tmp_path / "x.tsv")


def test_truncated_gzip_is_named(tmp_path):
    write(tmp_path / "x.tsv.gz", rows_of(200, 0))
    raw = (tmp_path / "x.tsv.gz").read_bytes()
    (tmp_path / "x.tsv.gz").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match="broken gzip"):
        read_sts_file(tmp_path / "x.tsv.gz")


def test_unknown_set_lists_what_there_is(folder, random_embed):
    with pytest.raises(ValueError, match=r"No set 'sts17'.*sts12\.tsv\.gz"):
        evaluate_sts(random_embed, folder, sets=["sts17"])
    with pytest.raises(ValueError, match="choose one of all, mean, wmean"):
        evaluate_sts(random_embed, folder, setting="micro")  # pyright: ignore[reportArgumentType]
    with pytest.raises(FileNotFoundError, match="is no folder"):
        evaluate_sts(random_embed, folder / "nowhere")


def test_result_is_saved_drawn_and_printed(folder, tmp_path, random_embed):
    import matplotlib

    matplotlib.use("Agg")
    from rich.console import Console

    result = evaluate_sts(random_embed, folder, name="one") + evaluate_sts(
        lambda s: random_embed(s)[:, :2], folder, name="two"
    )
    saved = json.loads(result.save(tmp_path / "results" / "sts.json").read_text())
    assert [e["name"] for e in saved["encoders"]] == ["one", "two"]
    score = saved["encoders"][0]["scores"]["sts12"]
    assert {"score", "low", "high", "pairs", "subset_mean"} <= set(score)
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(result.table())
    text = console.export_text()
    assert "setting 'all'" in text
    assert "stsb_test" in text
    assert "published set" in text  # these files are not the published ones
    axes = result.plot()
    assert len(axes.get_legend().get_texts()) == 2
    matplotlib.pyplot.close("all")


def test_bench_puts_a_run_before_and_after_in_one_saved_table(
    tmp_path, make_encoder, sentences, capsys
):
    folder = tmp_path / "sts"
    folder.mkdir()
    for seed, name in enumerate(SEVEN):
        mixed = [
            (*row[:2], sentences[i % 16], sentences[(5 * i + seed) % 16])
            for i, row in enumerate(rows_of(40, seed))
        ]
        write(folder / f"{name}.tsv", mixed)
    make_encoder(seed=0).save_pretrained(tmp_path / "run" / "untrained")
    make_encoder(seed=1).save_pretrained(tmp_path / "run" / "model")
    (tmp_path / "words.txt").write_text("\n".join(sentences))
    result = bench_sts(
        tmp_path / "run",
        folder=folder,
        compare=[str(tmp_path / "run" / "untrained")],
        controls_from=str(tmp_path / "words.txt"),
        controls=["TF-IDF"],
        bootstrap=50,
    )
    saved = json.loads((tmp_path / "run" / "results" / "sts.json").read_text())
    names = ["untrained", "trained", "run/untrained", "TF-IDF"]
    assert [e["name"] for e in saved["encoders"]] == names
    assert saved["differences"][0]["name"] == "trained - untrained"
    same = result.differences[1].average
    assert same is not None
    assert (same.score, same.low, same.high) == (0, 0, 0)
    trained = evaluate_sts(make_encoder(seed=1).encode, folder, bootstrap=0).encoders[0].average
    assert trained is not None
    assert result.encoders[1].average is not None
    assert result.encoders[1].average.score == pytest.approx(trained.score, abs=1e-3)
    assert "TF-IDF" in capsys.readouterr().out


def test_results_of_two_settings_do_not_go_in_one_table(folder, random_embed):
    one = evaluate_sts(random_embed, folder, sets=["sts12"], bootstrap=0)
    two = evaluate_sts(random_embed, folder, sets=["sts12"], bootstrap=0, setting="mean")
    with pytest.raises(ValueError, match="same setting"):
        _ = one + two
    assert isinstance(one, BenchmarkResult)


@pytest.mark.data
def test_shared_sets_have_the_published_counts(data_folder, random_embed):
    sets = (*SEVEN, "stsb_dev", "sickr_all")
    result = evaluate_sts(random_embed, data_folder / "sts", sets=sets, bootstrap=0)
    counts = [s.pairs for s in result.encoders[0].scores.values()]
    assert counts == [3108, 1500, 3750, 3000, 1186, 1379, 4927, 1500, 9927]
    assert "published set" not in result.note


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not MINILM, reason="UNLABEL_MINILM names no all-MiniLM-L6-v2 folder")
def test_minilm_gets_its_published_scores(data_folder):
    from unlabel.embedding import load_embedder

    published = {
        "sts12": 72.37,
        "sts13": 80.60,
        "sts14": 75.59,
        "sts15": 85.39,
        "sts16": 78.99,
        "stsb_test": 82.03,
        "sickr_test": 77.15,
        "sickr_all": 77.58,
    }
    result = evaluate_sts(
        load_embedder(str(MINILM)), data_folder / "sts", sets=list(published), bootstrap=0
    )
    found = {name: score.score for name, score in result.encoders[0].scores.items()}
    assert found == pytest.approx(published, abs=0.1)
