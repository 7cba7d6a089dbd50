"""Runs of pairs: sides that are read, heard, shared and written; faults; resuming."""

import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from unlabel.core import Encoding, cat_batches
from unlabel.data_pipes import decoded as decoding
from unlabel.data_pipes.audio import read_waveform
from unlabel.kinds import pairs as kinds_pairs
from unlabel.kinds.pairs import DEFAULT_SIDES, PairsOptions
from unlabel.modalities.joint import JointEncoder
from unlabel.objectives import CLIP, CMC, Objective
from unlabel.pretrain import train
from unlabel.training.arguments import TrainingArguments

BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
        "intermediate_size": 16}  # fmt: skip
TEXT: dict[str, Any] = {"column": "caption", "vocabulary": 60, "config": BERT}
CONV = {"model_type": "dilated_conv", "hidden_size": 8, "output_size": 8, "num_hidden_layers": 2}
SERIES: dict[str, Any] = {"kind": "series", "column": "series", "context": 24, "config": CONV}
VIDEO: dict[str, Any] = {"kind": "video", "column": "path", "frames": 4, "size": 16, "stride": 2,
                         "config": {"model_type": "r2plus1d"}}  # fmt: skip


def sides_of(*names: str, **views: str) -> CMC:
    """CMC over these sides; `views` names another view than the plain one."""
    return CMC(sides=[{"name": views.get(n, "plain"), "partner": n} for n in names], width=8)


def prepared(tmp_path: Path, data: Any, sides: dict[str, Any], *, seed: int = 0, **more: Any):
    """Encoder and samples of a run."""
    objective = more.pop("objective", None) or Objective()
    args = TrainingArguments(output_dir=str(tmp_path / "run"), seed=seed)
    return PairsOptions(sides=sides, width=8, **more).prepare(data, objective, args, None)


@pytest.fixture
def listed(tmp_path) -> Path:
    """Eight series of 2 channels, each with a caption."""
    random = np.random.default_rng(0)
    for i in range(8):
        np.save(tmp_path / f"{i}.npy", random.normal(size=(30, 2)).cumsum(0))
    table = [(f"{i}.npy", f"walk number {i}") for i in range(8)]
    pd.DataFrame(table, columns=["series", "caption"]).to_csv(tmp_path / "list.csv", index=False)
    return tmp_path / "list.csv"


def test_a_run_that_stops_ends_as_the_one_that_did_not(listed, tmp_path):
    def run(name: str, steps: int, **more: Any) -> dict[str, torch.Tensor]:
        train(
            objective=sides_of("text", "slope", slope="derivative"),
            data=str(listed),
            modality="pairs",
            pairs=PairsOptions(sides={"text": TEXT, "slope": SERIES}, width=8),
            training=TrainingArguments(
                output_dir=str(tmp_path / name), max_steps=steps, save_steps=4,
                per_device_train_batch_size=3, learning_rate=1e-2, report_to=[],
            ),
            **more,
        )  # fmt: skip
        found = tmp_path / name / "model"
        return {f"{p.parent.name}/{k}": v for p in sorted(found.rglob("*.safetensors"))
                for k, v in load_file(p).items()}  # fmt: skip

    whole = run("whole", 8)
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for name in ("model", "checkpoint-8"):
        shutil.rmtree(tmp_path / "resumed" / name)
    resumed = run("resumed", 8, resume=True)
    assert whole.keys() == resumed.keys() and {k.split("/")[0] for k in whole} == {
        "model", "text", "slope",
    }  # fmt: skip
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    begun = load_file(tmp_path / "whole" / "untrained" / "slope" / "model.safetensors")
    assert not all(torch.equal(v, whole[f"slope/{k}"]) for k, v in begun.items())


# -- what is broken -------------------------------------------------------------------------------


def test_broken_halves_drop_their_pairs_alone_and_are_named(tmp_path, make_video):
    frames = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3)).astype(np.uint8)
    for i in range(4):
        make_video(tmp_path / f"{i}.mp4", frames)
    (tmp_path / "4.mp4").write_bytes(b"")
    (tmp_path / "5.mp4").write_bytes((tmp_path / "0.mp4").read_bytes()[:300])
    for i in range(6):
        np.save(tmp_path / f"{i}.npy", np.arange(30.0))
    np.save(tmp_path / "1.npy", np.full(30, np.nan))
    np.save(tmp_path / "2.npy", np.arange(1.0))
    captions = ["zero", "one", "two", "three", "four", "five", "six", " "]
    table = [(f"{i % 6}.mp4", f"{i % 6}.npy", c) for i, c in enumerate(captions)]
    pd.DataFrame(table, columns=["path", "series", "caption"]).to_json(
        tmp_path / "list.jsonl", orient="records", lines=True
    )
    sides = {"text": TEXT, "video": VIDEO, "series": SERIES}
    made = prepared(tmp_path, str(tmp_path / "list.jsonl"), sides)
    assert made.store.rows.tolist() == [0, 3, 6] and made.samples == 3
    assert "4.mp4: the file is empty" in made.read and "5.mp4: " in made.read
    assert "1.npy: it holds no number" in made.read and "2.npy: it is too short" in made.read
    assert "1 rows without text" in made.read
    batch = made.encoder.collator()([made.store[i] for i in range(3)])
    assert {n: len(b) for n, b in batch.sides.items()} == {"text": 3, "video": 3, "series": 3}


def test_a_file_that_goes_bad_during_the_run_takes_its_pair_alone(tmp_path, make_video):
    frames = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3)).astype(np.uint8)
    for i in range(3):
        make_video(tmp_path / f"{i}.mp4", frames)
    table = pd.DataFrame({"path": [f"{i}.mp4" for i in range(3)], "caption": list("abc")})
    table.to_csv(tmp_path / "list.csv", index=False)
    sides = {"text": TEXT, "video": {**VIDEO, "cache_gb": 0}}
    store = prepared(tmp_path, str(tmp_path / "list.csv"), sides).store
    (tmp_path / "1.mp4").unlink()
    made = [store[i] for i in range(12)]
    assert {m["index"] for m in made} == {0, 2}
    assert all(m["sides"]["text"]["index"] == m["index"] for m in made)
    assert store.stores["video"].lost == [str(tmp_path / "1.mp4")]


def test_a_series_of_other_channels_or_of_several_series_drops_its_pair(listed, tmp_path):
    np.save(tmp_path / "2.npy", np.zeros((30, 3)))
    np.save(tmp_path / "3.npy", np.ones((2, 30, 2)))
    made = prepared(tmp_path, str(listed), {"text": TEXT, "series": SERIES})
    assert made.samples == 6
    assert "it has 3 channels, and most have 2" in made.read
    assert "it holds 2 series, but a sample has one" in made.read


# -- one file, several rows -----------------------------------------------------------------------


def test_a_clip_of_five_captions_is_decoded_once_and_drawn_for_each(
    tmp_path, make_video, monkeypatch
):
    frames = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3)).astype(np.uint8)
    for i in range(2):
        make_video(tmp_path / f"{i}.mp4", frames)
    table = [(f"{i // 5}.mp4", f"caption {i}") for i in range(10)]
    pd.DataFrame(table, columns=["path", "caption"]).to_csv(tmp_path / "list.csv", index=False)
    decoded = []
    read = decoding.read_clip

    def reading(source: Any, *args: Any, **more: Any) -> Any:
        decoded.append(source)
        return read(source, *args, **more)

    monkeypatch.setattr(decoding, "read_clip", reading)
    for kept in (True, False):  # by reading, or by the store
        if not kept:
            monkeypatch.setattr(decoding.DecodedFrames, "_adopt", lambda self: None)
        store = prepared(tmp_path, str(tmp_path / "list.csv"), {"text": TEXT, "video": VIDEO}).store
        assert len(store) == 10 and len(store.stores["video"].data) == 2
        times = [tuple(store[i]["sides"]["video"]["times"]) for i in range(20)]
        assert len(decoded) == (0 if kept else 2)
        assert len(set(times[:5])) > 1 and len(set(times)) > 5


def test_of_several_captions_one_is_drawn_each_epoch(tmp_path, listed):
    rows = [{"series": f"{i}.npy", "caption": [f"first {i}", f"second {i}"]} for i in range(8)]
    pd.DataFrame(rows).to_parquet(tmp_path / "list.parquet")
    made = prepared(tmp_path, str(tmp_path / "list.parquet"), {"text": TEXT, "series": SERIES})
    decode = made.encoder.towers["text"].tokenizer.decode
    seen = {decode(made.store[8 * e]["sides"]["text"]["input_ids"]) for e in range(20)}
    assert len(seen) == 2 and all("0" in text for text in seen)


def test_samples_of_one_caption_are_no_negatives_where_they_are_to_be_alike(tmp_path, listed):
    table = pd.read_csv(listed).assign(caption=["rises", "falls"] * 4)
    table.to_csv(tmp_path / "list.csv", index=False)
    losses = []
    for alike in ([], ["text"]):
        made = prepared(tmp_path, str(listed), {"text": TEXT, "series": SERIES}, alike=alike)
        collate = made.encoder.collator()
        parts = [collate([made.store[i] for i in places]) for places in (range(3), range(3, 8))]
        batch = cat_batches(parts).to("cpu")
        assert len(set(batch.same.tolist())) == (2 if alike else 8)
        assert batch.index.tolist() == [*range(8)]
        z = torch.ones(8, 8)
        encodings = [Encoding(z, z[:, None], torch.ones(8, 1, dtype=torch.bool))] * 2
        term = CLIP(sides=["text", "series"])(encodings, [], batch)["text_series"]
        losses.append(term.loss.exp().item())
    assert losses == pytest.approx([8, 5])  # among itself and those of the other caption


# -- shards ---------------------------------------------------------------------------------------


def test_clips_sounds_and_series_are_read_out_of_shards(tmp_path, make_video):
    folder = tmp_path / "files"
    frames = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3)).astype(np.uint8)
    for i in range(4):
        make_video(folder / f"{i}.mp4", frames)
        soundfile.write(folder / f"{i}.wav", np.sin(np.arange(4000) / (5 + i)), 8000)
        np.save(folder / f"{i}.npy", np.arange(30.0))
        (folder / f"{i}.txt").write_text(f"clip {i}")
    (folder / "2.mp4").write_bytes((folder / "2.mp4").read_bytes()[:200])
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    shutil.rmtree(folder)
    sides: dict[str, Any] = {
        "text": {k: v for k, v in TEXT.items() if k != "column"},
        "video": {k: v for k, v in VIDEO.items() if k != "column"},
        "audio": {"seconds": 0.2},
        "series": {k: v for k, v in SERIES.items() if k != "column"},
    }
    made = prepared(tmp_path, str(tmp_path / "a.tar"), sides)
    assert made.samples == 3 and "2.mp4: " in made.read
    sample = made.store[1]["sides"]
    assert sample["video"]["frames"].shape == (4, 16, 16, 3)
    assert sample["audio"]["waveform"].shape == (1600,)
    assert sample["series"]["values"].shape == (24, 1)
    assert not folder.exists() and not (tmp_path / "run" / "media.json").exists()


# -- sound out of a video -------------------------------------------------------------------------


def test_sound_is_of_the_moment_of_its_clip(data_folder, tmp_path):
    folder = data_folder / "video" / "av_grid"
    silent = next((data_folder / "video" / "colored_shapes").rglob("*.mp4"))
    table = pd.read_csv(folder / "captions.csv")
    table["path"] = [str(folder / p) for p in table["path"]]
    table.loc[len(table)] = [str(silent), "nothing to hear"]
    table.to_csv(tmp_path / "list.csv", index=False)
    sides = {"text": TEXT, "video": VIDEO, "audio": {"sound_of": "video", "rate": 16_000}}
    made = prepared(tmp_path, str(tmp_path / "list.csv"), sides)
    assert made.samples == 11 and "1 rows lost their video" in made.read
    assert f"{silent.name}: it has no sound track" in made.read
    assert made.encoder.towers["audio"].seconds == pytest.approx(4 * 2 / 25)
    for ordinal in (3, 14, 25):
        sample = made.store[ordinal]["sides"]
        path = made.store.data.columns["video"][made.store.rows[ordinal % 11]]
        begin = float(sample["video"]["times"][0])
        whole, _ = read_waveform(path, rate=16_000)
        first = round(begin * 16_000)
        assert np.array_equal(sample["audio"]["waveform"], whole[first : first + 5120])
    batch = made.encoder.collator()([made.store[i] for i in range(4)])
    specs = sides_of("text", "video", "audio").views
    assert all(made.encoder(made.encoder.view(batch, s)).pooled.shape == (4, 8) for s in specs)


# -- several sides of one source ------------------------------------------------------------------


def test_sides_of_one_column_are_read_and_kept_once_and_see_the_same_window(listed, tmp_path):
    sides = {"raw": SERIES, "slope": {**SERIES, "norm": "none"}}
    made = prepared(tmp_path, str(listed), sides, objective=sides_of("raw", "slope"))
    assert list(made.store.stores) == ["raw"] and made.store.shared == {"slope": "raw"}
    sample = made.store[11]["sides"]
    assert sample["raw"]["values"] is sample["slope"]["values"]
    towers = made.encoder.towers
    assert towers["raw"] is not towers["slope"] and towers["slope"].norm == "none"
    other = {"raw": SERIES, "slope": {**SERIES, "context": 12}}
    assert list(prepared(tmp_path, str(listed), other).store.stores) == ["raw", "slope"]


def test_pictures_and_their_flow_are_sides_of_one_clip(tmp_path, make_video):
    random = np.random.default_rng(0)
    for i in range(3):
        still = random.integers(0, 255, (32, 32, 3)).astype(np.uint8)
        make_video(tmp_path / f"{i}.mp4", np.stack([np.roll(still, 2 * t, 1) for t in range(12)]))
    table = pd.DataFrame({"path": [f"{i}.mp4" for i in range(3)]})
    table.to_csv(tmp_path / "list.csv", index=False)
    objective = sides_of("rgb", "moves", moves="flow")
    made = prepared(
        tmp_path, str(tmp_path / "list.csv"), {"rgb": VIDEO, "moves": VIDEO}, objective=objective
    )
    assert list(made.store.stores) == ["rgb"]
    batch = made.encoder.collator()([made.store[i] for i in range(3)])
    found = [made.encoder(made.encoder.view(batch, spec)) for spec in objective.views]
    assert [f.pooled.shape for f in found] == [(3, 8), (3, 8)]


# -- series in words ------------------------------------------------------------------------------


def test_text_is_written_from_the_window_that_its_series_shows(tmp_path):
    for i in range(6):
        np.save(tmp_path / f"{i}.npy", np.abs(np.arange(60.0) - 10 * i))
    table = pd.DataFrame({"series": [f"{i}.npy" for i in range(6)]})
    table.to_csv(tmp_path / "list.csv", index=False)
    text = {"describes": "series", "vocabulary": 200, "config": BERT}
    made = prepared(tmp_path, str(tmp_path / "list.csv"), {"text": text, "series": SERIES})
    decode = made.encoder.towers["text"].tokenizer.decode
    told = set()
    for ordinal in range(60):
        sample = made.store[ordinal]["sides"]
        change = np.diff(sample["series"]["values"][:, 0])
        sentence = decode(sample["text"]["input_ids"])
        assert ("rises steadily" in sentence) or (change <= 0).any()
        assert ("falls steadily" in sentence) or (change >= 0).any()
        told.add(sentence)
    assert len(told) > 6
    batch = made.encoder.collator()([made.store[i] for i in range(4)])
    for spec in sides_of("text", "series").views:
        assert made.encoder(made.encoder.view(batch, spec)).pooled.shape == (4, 8)


# -- which sides ----------------------------------------------------------------------------------


def test_without_sides_those_of_the_pretrained_folder_are_taken(listed, tmp_path):
    folder = tmp_path / "pre"
    sides = {"text": TEXT, "series": SERIES}
    prepared(tmp_path, str(listed), sides).encoder.save_pretrained(folder)
    pd.read_csv(listed).rename(columns={"caption": "text"}).to_csv(listed, index=False)
    made = prepared(tmp_path, str(listed), {}, pretrained=str(folder))
    assert made.encoder.sides == ("text", "series") and made.samples == 8
    saved, found = JointEncoder.from_pretrained(folder), made.encoder
    assert all(
        torch.equal(a, b) for a, b in zip(saved.parameters(), found.parameters(), strict=True)
    )
    assert found.towers["series"].context == 24  # and not the option's default
    with pytest.raises(ValueError, match="has the sides text, series, but those of the recipe"):
        prepared(tmp_path, str(listed), {"text": TEXT, "raw": SERIES}, pretrained=str(folder))


def test_without_sides_the_generated_files_have_their_own(listed, tmp_path, monkeypatch):
    monkeypatch.setattr(kinds_pairs, "_synthetic", lambda: listed)
    own = {"text": TEXT, "series": SERIES}
    monkeypatch.setattr(kinds_pairs, "DEFAULT_SIDES", own)
    assert prepared(tmp_path, "synthetic", {}).encoder.sides == ("text", "series")
    assert set(DEFAULT_SIDES) == {"video", "audio", "text", "series"}
    with pytest.raises(ValueError, match="Name the sides of a sample"):
        prepared(tmp_path, str(listed), {})


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ({"a": {}}, "The side 'a' is of kind 'a', but there are text, series"),
        ({"text": {"colum": "x"}}, "pairs.sides.text has no option colum"),
        ({"text": {**TEXT, "limit": 3}}, "pairs.sides.text has no option limit"),
        ({"text": TEXT, "series": {"column": "values"}}, "no column 'values'; it has the columns"),
        ({"text": TEXT, "video": {"column": "series"}}, "its files end in .npy; .* kind: series"),
        ({"text": TEXT, "audio": {"sound_of": "clip"}}, "names a side of video, but 'clip' came"),
        ({"text": TEXT, "video": {"sound_of": "text"}}, "sound_of is for a side of audio"),
        ({"text": {"describes": "series"}}, "names a side of series, but 'series' came"),
        ({"text": {"describes": "series", "column": "x"}, "series": SERIES}, "not both"),
        ({"text": TEXT}, "two or more"),
    ],
)
def test_sides_that_cannot_be_are_refused_in_one_sentence(listed, tmp_path, sides, message):
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, str(listed), sides)
