"""The report: one HTML page from what runs saved."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from unlabel.benchmarks.result import BenchmarkResult, EncoderScores, Score
from unlabel.benchmarks.retrieval import evaluate_retrieval
from unlabel.benchmarks.runs import bench as measured
from unlabel.cli import main
from unlabel.kinds.text import TextOptions
from unlabel.objectives import MLM, Cutoff, SimCSE, Sum
from unlabel.pictures import save_pictures
from unlabel.pretrain import train
from unlabel.report import figures, report, samples, words
from unlabel.report.runs import read_runs
from unlabel.report.scores import score_table, verdict
from unlabel.training.arguments import TrainingArguments

VOID = {"meta", "circle", "path", "use", "br", "wbr", "rect", "line", "link", "img"}


class Page(HTMLParser):
    """Tags with their attributes, and the text, of a page whose tags must be balanced."""

    def __init__(self, path: Path):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    def classed(self, name: str) -> int:
        return sum(name in (a.get("class") or "").split() for _, a in self.tags)


def encoders(before: float, after: float, name: str = "sts12") -> list[EncoderScores]:
    """Scores with bootstrap intervals, two points wide before training, one after."""
    random = np.random.default_rng(0).uniform(-1, 1, 2000)
    sides = (("untrained", before, 1.0), ("trained", after, 0.5))
    return [
        EncoderScores(side, {name: Score.of(x, x + random * width, pairs=3108)})
        for side, x, width in sides
    ]


def result(scores: list[EncoderScores], setting: str = "all") -> dict:
    """A result as the benchmarks save it."""
    return BenchmarkResult("sts", setting, tuple(scores), "A note <to> quote.").to_dict()


def bench(before: float, after: float, *, setting: str = "all", name: str = "sts12") -> dict:
    """The result of one run before and after training."""
    return result(encoders(before, after, name), setting)


def save(run: Path, name: str, content: dict) -> None:
    (run / "results").mkdir(exist_ok=True)
    (run / "results" / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sentences) -> Path:
    """A run that was really trained, for six steps."""
    folder = tmp_path_factory.mktemp("trained")
    data = folder / "sentences.txt"
    data.write_text("\n".join(sentences))
    config = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 40,
    }  # fmt: skip
    method = Sum(
        {"simcse": SimCSE(), "mlm": MLM(rate=0.3), "cutoff": Cutoff(ratio=0.3)}, {"mlm": 0.5}
    )
    arguments = TrainingArguments(
        output_dir=str(folder / "run"),
        max_steps=6,
        per_device_train_batch_size=8,
        logging_steps=2,
        use_cpu=True,
        disable_tqdm=True,
    )
    train(
        objective=method,
        data=str(data),
        text=TextOptions(config=config, vocabulary=200),
        training=arguments,
    )
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def test_page_asks_for_nothing_from_outside(run, sentences):
    save_pictures(run, sentences)
    save(run, "sts", bench(30, 50))
    path = report(str(run))
    page = Page(path)
    loading = {"src", "srcset", "data", "poster", "background", "action"}
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "img", "base")
        assert not loading & set(attributes)
        address = attributes.get("href") or attributes.get("xlink:href") or "#"
        assert address.startswith("#") or (tag == "a" and address.startswith("https://arxiv.org/"))
    # CSS: no import, and no url() but of the page's own clip paths.
    assert set(re.findall(r"@import|url\([^#)]", path.read_text())) == set()
    assert path == run / "report.html" and not list(run.glob("*.tmp"))


def test_report_of_records_alone_says_the_same_as_with_the_models(run, sentences, tmp_path):
    save_pictures(run, sentences)
    save(run, "sts", bench(30, 50))
    whole = Page(report(str(run)))
    for name in ("model", "untrained"):
        for file in (run / name).iterdir():
            if file.name != "config.json":
                file.unlink()
    assert Page(report(str(run))).text == whole.text


def test_report_made_twice_is_the_same_to_the_byte(run):
    first = report(str(run)).read_bytes()
    assert report(str(run)).read_bytes() == first


def test_weights_that_change_and_balance_are_said():
    part = {"class": "MLM", "settings": {}, "views": []}
    about = {"parts": {"m": part}, "weights": {"m": [[0, 1.0], [30, 0.3]]}, "balance": "gradient"}
    said = dict(words._methods(about))["MLM"]
    assert said == "MLM (weight 1 at step 0, 0.3 at step 30, balanced by gradient): defaults"


def test_page_says_what_was_trained(run):
    text = Page(report(str(run))).text
    about = json.loads((run / "run.json").read_text())
    for said in (
        "SimCSE (weight 1): ",
        "MLM (weight 0.5): views: mask tokens rate 0.3",
        "16 of 16 rows kept",
        f"{about['parameters']:,} parameters",
        "6 steps, batches of 8, float32",
        "arXiv 2104.08821",
        f"torch {about['versions']['torch']}",
        f"{about['result']['padding']['by_length'] * 100:.1f} %",
    ):
        assert said in text.replace("\xa0", " ").replace("/ ", "/"), said


def test_every_term_has_a_panel_and_those_with_a_chance_level_a_dashed_line(run):
    path = report(str(run))
    text = path.read_text()
    log = [json.loads(x) for x in (run / "log.jsonl").read_text().splitlines()]
    terms = [k.removeprefix("objective/") for k in log[0] if k.startswith("objective/")]
    assert len(terms) == 5
    captions = re.findall(r"<figcaption><b>(.*?)</b>", text)
    assert {t.replace("/", " / ") for t in terms} <= set(captions)
    # One for each chance level, one each for std and rank.
    levels = sum(k.startswith("chance/") for k in log[0]) + 2
    assert text.count("stroke-dasharray") == levels


def test_first_and_last_loss_are_those_of_the_log(run):
    log = [json.loads(x) for x in (run / "log.jsonl").read_text().splitlines()]
    ends = [words.significant(line["objective/mlm/token"]) for line in (log[0], log[-2])]
    assert " → ".join(ends) in Page(report(str(run))).text


def test_first_batch_shows_cut_tokens_and_the_target_of_masked_ones(run):
    saved = json.loads((run / "first_batch.json").read_text())
    tokens = [t for v in saved["views"] for s in v["sentences"] for t in s]
    states = {s: sum(t["state"] == s for t in tokens) for s in ("cut", "masked")}
    assert min(states.values()) > 0
    page = Page(report(str(run)))
    # One of each more in the legend.
    assert page.classed("cut") == states["cut"] + 1
    assert page.classed("masked") == states["masked"] + 1
    assert page.classed("target") == states["masked"]


def test_equal_views_are_shown_once_with_their_number(run):
    assert "plain × 2 the same tokens" in Page(report(str(run))).text


def test_pieces_of_a_word_stand_together_also_when_one_is_masked():
    tokens = [
        {"token": "[CLS]", "state": "seen"},
        {"token": "berg", "state": "seen"},
        {"token": "[MASK]", "state": "masked", "target": "##en"},
        {"token": "[MASK]", "state": "masked", "target": "is"},
        {"token": "##land", "state": "seen"},
        {"token": "[SEP]", "state": "seen"},
    ]
    (view,) = samples.views(
        {"index": [4], "views": [{"view": "v", "encoder": "online", "sentences": [tokens]}]}
    )
    ((index, words),) = view["rows"]
    assert index == 4
    assert [[t["target"] or t["text"] for t in w] for w in words] == [
        ["[CLS]"],
        ["berg", "en"],
        ["is", "land"],
        ["[SEP]"],
    ]


@pytest.mark.parametrize("start", ["Ġ", "▁"])
def test_words_of_byte_level_and_sentencepiece_tokenizers_are_grouped(start):
    tokens = ["<s>", f"{start}The", f"{start}ice", "berg", "</s>"]
    seen = [{"token": t, "state": "seen"} for t in tokens]
    first_batch = {"index": [0], "views": [{"view": "v", "encoder": "x", "sentences": [seen]}]}
    words = samples.views(first_batch)[0]["rows"][0][1]
    assert [[t["text"] for t in w] for w in words] == [["<s>"], ["The"], ["ice", "berg"], ["</s>"]]


def test_what_is_missing_is_said_with_the_command_that_makes_it(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    page = Page(report(str(tmp_path)))
    for said in (
        f"unlabel bench sts {tmp_path}",
        f"unlabel pictures {tmp_path} --data sentences.txt",
        f"No training step was logged in {tmp_path}/log.jsonl",
        f"{tmp_path}/first_batch.json",
        "--training.monitor_rows 0",
        "has no result yet",
    ):
        assert said in page.text, said
    assert not any(tag == "svg" for tag, _ in page.tags)


def test_command_of_a_missing_picture_makes_it(run, sentences):
    (run / "sentences.txt").write_text("\n".join(sentences))
    commands = re.findall(r"<code>(unlabel pictures .*?)</code>", report(str(run)).read_text())
    words = commands[0].replace("sentences.txt", str(run / "sentences.txt")).split()
    main(words[1:])
    text = Page(report(str(run))).text
    assert "16 sentences by t-SNE" in text
    assert f"among 16 sentences of {run / 'sentences.txt'}, by cosine" in text


def test_text_from_the_wild_stays_text(run):
    evil = "</title></style></script><script>alert(1)</script><b onclick=x>\ud800 {{ 7 * 7 }} $x$"
    near = [{"text": evil, "cosine": 0.5}] * 3
    save(run, "neighbours", {
        "seed": 0, "sentences": 12, "mean_cosine": {"before": 0.9, "after": 0.1},
        "queries": [{"query": evil, "before": near, "after": near}],
    })  # fmt: skip
    points = [[float(i), 0.0] for i in range(12)]
    save(run, "map", {
        "before": points, "after": points, "cluster": [0] * 12, "text": [evil] * 12,
        "sentences": 12,
    })  # fmt: skip
    save(run, "sts", bench(30, 50, name=evil.replace("\ud800", "")))
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**about, "data": evil, "papers": evil}))
    first = {"token": evil, "state": "masked", "target": evil}
    (run / "first_batch.json").write_text(json.dumps(
        {"index": [0], "views": [{"view": evil, "encoder": evil, "sentences": [[first]]}]}
    ))  # fmt: skip
    page = Page(report(str(run)))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not any("onclick" in attributes for _, attributes in page.tags)
    assert "alert(1)" in page.text and "{{ 7 * 7 }}" in page.text


def test_headline_names_before_after_and_gain(run):
    save(run, "sts", bench(30.04, 50.06))
    text = Page(report(str(run))).text
    assert "30.0 → 50.1 +20.0 [19." in text
    assert "The STS sts12 rose from 30.0 before training to 50.1 after." in text
    assert "A note <to> quote." in text
    assert "the spread between seeds is not in it" in text


def seeds(trained: Path, folder: Path, gains: list[float]) -> Path:
    """Seed folders with a result each, and the result of all together beside them."""
    each = [encoders(30.0, 30.0 + gain) for gain in gains]
    for i, own in enumerate(each):
        save(shutil.copytree(trained, folder / f"seed-{i}"), "sts", result(own))
    sides = zip(("untrained", "trained"), zip(*each, strict=True), strict=True)
    save(folder, "sts", result([EncoderScores.over_seeds(name, side) for name, side in sides]))
    return folder


def test_gain_over_seeds_has_students_interval_and_every_seed_its_row(trained, tmp_path):
    folder = seeds(trained, tmp_path, [1.0, 2.0, 3.0])
    text = Page(report(str(folder))).text
    # t(0.975, 2 degrees) = 4.3027, standard error 1/sqrt(3): 2 ± 2.484.
    assert "+2.0 [−0.5, 4.5]" in text and "+2.00 [−0.48, 4.48]" in text
    assert "did not clearly change" in text
    for name, gain in (("seed-0", "+1.00"), ("seed-1", "+2.00"), ("seed-2", "+3.00")):
        assert re.search(rf"{name} 30\.00 \[[^\]]*\] 3\d\.00 \[[^\]]*\] {re.escape(gain)}", text)
    assert "3 seeds" in text


def test_seeds_are_read_in_the_order_of_their_numbers(trained, tmp_path):
    folder = seeds(trained, tmp_path, [float(i) for i in range(11)])
    assert [r.path.name for r in read_runs(folder)] == [f"seed-{i}" for i in range(11)]


def test_seeds_without_a_result_of_all_say_the_command_that_makes_it(trained, tmp_path):
    folder = seeds(trained, tmp_path, [1.0, 2.0])
    shutil.rmtree(folder / "results")
    assert f"unlabel bench sts {folder}" in Page(report(str(folder))).text
    spaced = Path(
        shutil.copytree(folder, tmp_path / "with spaces")
    )  # the command can be pasted as it is
    assert f"unlabel bench sts '{spaced}'" in Page(report(str(spaced))).text


def test_undefined_score_says_why():
    scores = encoders(30, 50)
    scores[1] = EncoderScores("trained", {"sts12": Score(np.nan, reason="it has collapsed")})
    table = score_table(result(scores))
    assert table.change[2]["score"] is None
    assert verdict(*table.change) == "is undefined: it has collapsed."


def test_seed_measured_differently_is_refused():
    with pytest.raises(ValueError, match="seed-1 was measured with 'mean'"):
        score_table(bench(30, 50), {"seed-1": bench(30, 50, setting="mean")})


def test_gain_stands_before_the_baselines():
    before, after = encoders(30, 50)
    table = score_table(result([before, after, EncoderScores("TF-IDF", before.scores)]))
    assert table.columns == ("untrained", "trained", "gain", "TF-IDF")


def test_encoders_that_are_no_run_are_compared_with_the_first():
    before, after = encoders(30, 50)
    scores = [EncoderScores("mine", after.scores), EncoderScores("theirs", before.scores)]
    table = score_table(result(scores))
    assert table.columns == ("mine", "theirs", "theirs − mine")
    assert not table.has_gain


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.1, 2, "rose from"), (-2, -0.1, "fell from"), (-1, 1, "did not clearly change"),
     (0.0, 1, "did not clearly change"), (None, None, "no interval")],
)  # fmt: skip
def test_verdict_says_no_more_than_the_interval_allows(low, high, said):
    ends = {"score": 1.0, "low": None, "high": None, "reason": None}
    assert said in verdict(ends, ends, {"score": 1.0, "low": low, "high": high, "reason": None})


def test_collapse_is_said_with_the_steps_where_it_was_seen(run):
    log = run / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines[1:3]:
        line["monitor/std"] = 0.002
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = Page(report(str(run)))
    assert "steps 4 to 6: The encoder has collapsed" in page.text
    assert "No sign of collapse" not in page.text


def test_a_slow_loader_is_said_beside_the_time_and_is_no_sign_of_collapse(run):
    about = json.loads((run / "run.json").read_text())
    about["result"]["waiting_share"] = 0.504
    (run / "run.json").write_text(json.dumps(about))
    log = run / "log.jsonl"
    lines = [json.loads(line) | {"monitor/waiting": 0.9} for line in log.read_text().splitlines()]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = Page(report(str(run))).text
    assert "50.4 %" not in text and "50 % of the training time was waiting" in text
    assert "No sign of collapse" in text


def test_values_that_are_not_finite_are_said_and_do_not_stop_the_report(run):
    log = run / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    lines[0]["objective/mlm/token"] = lines[0]["grad_norm"] = float("nan")
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "not finite → " in Page(report(str(run))).text


def test_line_torn_at_the_end_of_the_log_is_left_out(run):
    log = run / "log.jsonl"
    whole = read_runs(run)[0].log
    log.write_text(log.read_text() + '{"loss": 1.0, "st')
    assert read_runs(run)[0].log == whole


def test_broken_files_are_refused_by_name(run):
    log = run / "log.jsonl"
    log.write_text("not json\n" + log.read_text())
    with pytest.raises(ValueError, match=r"log\.jsonl:1 is no JSON: 'not json'"):
        report(str(run))
    (run / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is no JSON"):
        report(str(run))


def test_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no run\.json and no seed-0"):
        report(str(tmp_path))


def test_run_that_stopped_early_says_how_to_go_on(run):
    about = json.loads((run / "run.json").read_text())
    about["result"].update(finished=False, steps=4)
    (run / "run.json").write_text(json.dumps(about))
    text = Page(report(str(run))).text
    assert "stopped early, at step 4. Continue it with the same command and --resume" in text


def test_scores_from_before_a_run_went_on_are_said_to_be_so(run, sentences):
    pairs = (sentences[:8], sentences[8:16])
    measured(run, lambda embed: evaluate_retrieval(embed, *pairs, bootstrap=0))
    assert json.loads((run / "results" / "retrieval.json").read_text())["steps"] == [6]
    assert "Measure again" not in Page(report(str(run))).text
    about = json.loads((run / "run.json").read_text())
    about["result"].update(steps=12)  # as if it had been continued
    (run / "run.json").write_text(json.dumps(about))
    said = "The scores of retrieval are those after 6 steps, but now 12 are made. Measure again"
    assert said in Page(report(str(run))).text


def test_figures_take_their_colours_from_the_page():
    svg = figures.lines([([1, 2, 3], [3.0, 2.0, 1.0])], level=2.5, label='a "label"')
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#000000", "#ffffff"}
    assert "var(--after)" in svg and "var(--muted)" in svg
    assert 'aria-label="a &#34;label&#34;"' in svg


def test_dots_leave_out_what_is_undefined():
    blank = {"score": None, "low": None, "high": None}
    good = {"score": 50.0, "low": 49.0, "high": 51.0}
    both = figures.dots([("sts12", good, good)])
    one = figures.dots([("sts12", good, blank)])
    assert "var(--after)" in both and "var(--after)" not in one and "var(--before)" in one


@pytest.mark.parametrize(
    ("value", "said"),
    [(8.2508, "8.25"), (0.025526, "0.0255"), (1234.5, "1,234"), (123.4, "123"), (0.0, "0.00"),
     (2e-6, "2e−06"), (-0.289, "−0.289"), (float("inf"), "not finite"), (None, "–")],
)  # fmt: skip
def test_three_significant_digits(value, said):
    assert words.significant(value) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(19.72, "19.7 s"), (59.96, "1 min 00 s"), (252, "4 min 12 s"), (3599.7, "1 h 00 min"),
     (11100, "3 h 05 min")],
)  # fmt: skip
def test_durations_read_as_people_say_them(seconds, said):
    assert words.duration(seconds) == said


def test_forecasts_are_shown_with_their_digits_and_drawn(run):
    scores = [
        EncoderScores(side, {"ETTh1 96 MSE": Score(x, x - 0.01, x + 0.01, pairs=2785)})
        for side, x in (("untrained", 0.3733), ("trained", 0.3651))
    ]
    content = BenchmarkResult("forecasting", "MSE", tuple(scores), better="lower", digits=4)
    save(run, "forecasting", content.to_dict())
    lines = {"untrained": [0.1, 0.2], "trained": [0.2, 0.3], "ridge on values": [0.0, 0.1]}
    example = {"channel": "OT", "history": [0.0] * 9, "truth": [0.1, 0.3], "encoders": lines}
    save(run, "forecasting_examples", {"ETTh1 96, test window 7": example})
    page = Page(report(str(run)))
    assert "0.3733 [0.3633, 0.3833]" in page.text and "Lower is better." in page.text
    assert "0.373 → 0.365" in page.text.replace("0.373→0.365", "0.373 → 0.365")
    assert "ETTh1 96, test window 7, OT" in page.text
    svg = (run / "report.html").read_text()
    assert "forecasts of OT by ridge on values, untrained, trained" in svg


def test_a_profile_is_shown_part_by_part(run):
    assert "time goes" not in Page(report(str(run))).text
    found = {"steps": 3, "step": {"cpu": 20.0}, "operators": {"aten::mm": {"cpu": 5.0}}}
    parts = {"encode": {"cpu": 15.0}, "trainer": {"cpu": 5.0}}
    (run / "profile.json").write_text(json.dumps({**found, "parts": parts}))
    page = Page(report(str(run)))
    assert "encode 15.00 75 %" in page.text and "all 20.00" in page.text
    assert "aten::mm" in page.text and page.classed("bar") == 2
