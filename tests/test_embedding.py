import json
import tracemalloc
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from scipy.io import wavfile
from transformers import (
    ASTConfig,
    ASTModel,
    BertConfig,
    BertModel,
    PatchTSTConfig,
    PatchTSTModel,
    VideoMAEConfig,
    VideoMAEModel,
    ViTConfig,
    ViTModel,
)

from unlabel.data_pipes.series import read_series
from unlabel.data_pipes.series_store import SeriesStore
from unlabel.data_pipes.synthetic_video import write_video
from unlabel.embedding import Embedder, embed, load_embedder, modality_of
from unlabel.kinds.series import SeriesOptions
from unlabel.media_embedding import media_vectors
from unlabel.modalities.joint import JointEncoder
from unlabel.modalities.text import TextEncoder
from unlabel.text_embedding import embed_file


@pytest.fixture
def run_folder(tmp_path, make_encoder):
    """A run's output folder with a trained and an untrained model."""
    make_encoder(seed=1).save_pretrained(tmp_path / "run" / "model")
    make_encoder(seed=0).save_pretrained(tmp_path / "run" / "untrained")
    return tmp_path / "run"


@pytest.fixture
def lengths():
    """Embeds a sentence as (words, characters, 1)."""
    return Embedder(
        "lengths", lambda s, b: np.array([[len(x.split()), len(x), 1] for x in s], dtype=float)
    )


def test_run_folder_embeds_with_its_trained_model(run_folder, make_encoder, sentences):
    expected = make_encoder(seed=1).encode(sentences)
    for path in (run_folder, run_folder / "model"):
        found = load_embedder(path, device="cpu")(sentences)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_pooling_and_length_come_from_the_folder_and_can_be_changed(
    tmp_path, make_encoder, sentences
):
    encoder = make_encoder(pooling="cls")
    encoder.save_pretrained(tmp_path)
    np.testing.assert_allclose(
        load_embedder(tmp_path)(sentences), encoder.encode(sentences), atol=1e-6
    )
    encoder.pooling, encoder.max_length = "first_last", 5
    found = load_embedder(tmp_path, pooling="first_last", max_length=5)(sentences)
    np.testing.assert_allclose(found, encoder.encode(sentences), atol=1e-6)


def test_plain_transformers_folder_is_pooled_by_mean_at_full_length(
    tmp_path, make_encoder, sentences
):
    encoder = make_encoder(pooling="cls")
    encoder.save_pretrained(tmp_path)
    (tmp_path / "unlabel.json").unlink()
    encoder.pooling, encoder.max_length = "mean", 40  # the model's own limit
    np.testing.assert_allclose(
        load_embedder(tmp_path)(sentences), encoder.encode(sentences), atol=1e-6
    )


def test_unknown_folder_says_what_was_expected(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"holds notes\.txt; expected a run's output folder"):
        load_embedder(tmp_path)
    with pytest.raises(ValueError, match=r"does not exist; expected"):
        load_embedder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"is a file; expected"):
        load_embedder(tmp_path / "notes.txt")


def test_a_name_that_is_no_folder_and_not_on_the_hub_is_one_sentence():
    with pytest.raises(ValueError, match="There is no folder no/such, and no model") as error:
        load_embedder("no/such")
    assert "huggingface.co" not in str(error.value)


def test_a_hub_that_does_not_answer_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://localhost:9")
    monkeypatch.setattr("time.sleep", lambda s: pytest.fail("waited"))
    with pytest.raises(ValueError, match="There is no folder no/such"):
        load_embedder("no/such")
    with pytest.raises(FileNotFoundError, match="There is no folder no/such"):
        TextEncoder.from_pretrained("no/such")


def test_channels_together_are_taken_by_the_names_they_were_trained_by(tmp_path, caplog):
    table = pd.DataFrame({"a": np.arange(60.0), "b": np.sin(np.arange(60)), "c": 2.0})
    turned = table[["c", "a", "b"]]
    small = {"model_type": "dilated_conv", "hidden_size": 8, "output_size": 8}
    options = SeriesOptions(config=small, context=24, channels="together")
    store = SeriesStore(read_series(table), context=24, channels="together", path=tmp_path / "s")
    store = SeriesStore.open(tmp_path / "s")
    options.encoder(store, 0, None).save_pretrained(tmp_path / "model")
    others = [table, turned.assign(more=1.0), table.set_axis(["x", "y", "z"], axis=1)]
    found = []
    for i, other in enumerate(others):
        other.to_csv(tmp_path / f"{i}.csv", index=False)
        embed(str(tmp_path / "model"), str(tmp_path / f"{i}.csv"), str(tmp_path / "o.npy"))
        found.append(np.load(tmp_path / "o.npy"))
        assert ("channels a, b, c, but series" in caplog.text) == (i == 2)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    options.pretrained = str(tmp_path / "model")
    store = SeriesStore(read_series(turned), context=24, channels="together")
    with pytest.raises(ValueError, match=r"takes the channels a, b, c in this order; give target:"):
        options.encoder(store, 0, None)


def test_encoder_of_another_modality_is_refused(run_folder):
    settings = run_folder / "model" / "unlabel.json"
    settings.write_text(json.dumps({"modality": "series"}))
    with pytest.raises(ValueError, match="is an encoder of series"):
        load_embedder(run_folder)


def test_truncated_weights_are_one_clear_error(run_folder):
    weights = run_folder / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"Could not load .*run.*may be incomplete"):
        load_embedder(run_folder)


def test_parquet_has_each_text_its_place_and_its_vector(tmp_path, lengths):
    lines = ["one two three", "", "four", "one two three", "  ", "five six"]
    (tmp_path / "in.txt").write_text("\n".join(lines) + "\n")
    done = embed_file(lengths, tmp_path / "in.txt", tmp_path / "out.parquet", progress=False)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column("index").to_pylist() == [0, 2, 3, 5]
    assert table.column("text").to_pylist() == [lines[i] for i in (0, 2, 3, 5)]
    assert table.column("embedding").to_pylist() == [[3, 13, 1], [1, 4, 1], [3, 13, 1], [2, 8, 1]]
    assert str(table.schema.field("embedding").type).startswith("fixed_size_list")
    assert (done.rows, done.width) == (4, 3)
    assert "2 empty" in done.summary()


def test_npy_grows_over_many_chunks_and_loads_as_a_memory_map(tmp_path, lengths):
    texts = [f"{'word ' * (i % 7)}{i}" for i in range(1000)]
    (tmp_path / "in.txt").write_text("\n".join(texts))
    embed_file(lengths, tmp_path / "in.txt", tmp_path / "out.npy", batch_size=2, progress=False)
    found = np.load(tmp_path / "out.npy", mmap_mode="r")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, 0], [i % 7 + 1 for i in range(1000)])


def test_npy_warns_when_its_rows_are_not_the_sources_rows(tmp_path, lengths):
    (tmp_path / "in.txt").write_text("a\n\nb\n")
    with pytest.warns(UserWarning, match="2 vectors for 3 rows"):
        embed_file(lengths, tmp_path / "in.txt", tmp_path / "out.npy", progress=False)


def test_normalized_vectors_have_length_one(tmp_path, lengths):
    embed_file(lengths, ["a b", "c d e"], tmp_path / "o.npy", normalize=True, progress=False)
    norms = np.linalg.norm(np.load(tmp_path / "o.npy"), axis=1)
    np.testing.assert_allclose(norms, 1, rtol=1e-6)


def test_column_of_a_table_is_embedded(tmp_path, lengths):
    (tmp_path / "in.csv").write_text('id,text\n1,"hello, you"\n2,bye\n')
    embed_file(lengths, tmp_path / "in.csv", tmp_path / "o.parquet", column="text", progress=False)
    assert pq.read_table(tmp_path / "o.parquet").column("text").to_pylist() == ["hello, you", "bye"]


def test_failed_run_leaves_the_earlier_file_and_no_partial_one(tmp_path, lengths):
    output = tmp_path / "o.parquet"
    embed_file(lengths, ["a"], output, progress=False)
    before = output.read_bytes()
    broken = Embedder("broken", lambda s, b: np.full((len(s), 2), np.nan))
    with pytest.raises(ValueError, match=r"row 0 of the source \('b'\) is not finite"):
        embed_file(broken, ["b"], output, progress=False)
    assert output.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["o.parquet"]


def test_batches_of_nothing_are_refused(tmp_path, lengths):
    with pytest.raises(ValueError, match="batch_size is at least 1, but 0"):
        embed_file(lengths, ["a"], tmp_path / "v.parquet", batch_size=0)


def test_unknown_ending_is_refused_before_anything_is_read(tmp_path, lengths):
    with pytest.raises(ValueError, match=r"written as \.parquet or \.npy"):
        embed_file(lengths, tmp_path / "missing.txt", tmp_path / "out.csv")
    with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
        embed_file(lengths, tmp_path / "missing.txt", tmp_path / "out.npy")


@pytest.mark.parametrize("ending", ["parquet", "npy"])
def test_memory_does_not_grow_with_the_file(tmp_path, ending):
    wide = Embedder("wide", lambda s, b: np.ones((len(s), 256), dtype=np.float32))

    def peak(lines):
        path = tmp_path / f"{lines}.txt"
        path.write_text("".join(f"sentence number {i}\n" for i in range(lines)))
        tracemalloc.start()
        embed_file(wide, path, tmp_path / f"{lines}.{ending}", batch_size=8, progress=False)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(600)  # imports and caches
    small, large = peak(2000), peak(16000)
    # The vectors alone would be 2 MB and 16 MB. What grows is the set in which repeated lines
    # are found; it is bounded, and small beside the vectors.
    assert large - small < 6e6


@pytest.fixture
def joint_run(tmp_path, make_joint, joint_data):
    """A run of pairs, and files of each of its sides."""
    encoder = make_joint("text", "series", "video", "audio")
    encoder.save_pretrained(tmp_path / "run" / "model")
    sides = {"text": {}, "series": {"target": ["y"], "context": 48}, "video": {"stride": 2}}
    about = {"modality": "pairs", "encoder": {"sides": {**sides, "audio": {}}}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(about))
    (tmp_path / "said.txt").write_text("\n".join(joint_data["text"]) + "\n")
    values = joint_data["series"][0, :, 0]
    pd.DataFrame({"y": values, "other": values[::-1]}).to_csv(tmp_path / "y.csv", index=False)
    sound = (joint_data["audio"][0] * 32_767).clip(-32_768, 32_767).astype(np.int16)
    wavfile.write(tmp_path / "heard.wav", 8_000, sound)
    frames = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    write_video(tmp_path / "seen.mp4", frames.repeat(4, 1).repeat(4, 2), 10)
    return tmp_path / "run", encoder, {"audio": sound[None] / np.float32(32_768)}


@pytest.mark.parametrize(
    ("file", "side"),
    [("said.txt", "text"), ("y.csv", "series"), ("heard.wav", "audio"), ("seen.mp4", "video")],
)
def test_file_goes_to_its_side_of_a_run_of_pairs(
    joint_run, tmp_path, joint_data, file, side, capsys
):
    run, encoder, made = joint_run
    embed(str(run), str(tmp_path / file), str(tmp_path / "o.parquet"))
    assert "vectors of width 8" in capsys.readouterr().out
    found = np.stack(pq.read_table(tmp_path / "o.parquet").column("embedding").to_pylist())
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    if side != "video":
        data = {**joint_data, "series": joint_data["series"][:1], **made}[side]
        np.testing.assert_allclose(found, encoder.encode(side, data), atol=1e-5)


def test_video_of_pairs_is_read_as_it_was_in_training(joint_run, tmp_path):
    run, encoder, _ = joint_run
    file, tower = str(tmp_path / "seen.mp4"), encoder.towers["video"]
    embed(str(run), file, str(tmp_path / "o.npy"), side="video")
    found = np.load(tmp_path / "o.npy")
    _, own = media_vectors(tower, file, sampling={"stride": 2})
    expected = encoder.project("video", torch.from_numpy(own)).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    _, dense = media_vectors(tower, file)
    assert np.abs(dense - own).max() > 1e-3


def test_video_is_read_as_the_run_read_it(make_joint, tmp_path):
    encoder = make_joint("text", "video").towers["video"]
    encoder.save_pretrained(tmp_path / "run" / "model")
    about = {"modality": "video", "encoder": {"stride": 2, "fps": None, "duration": None}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(about))
    frames = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), np.uint8)
    file = str(tmp_path / "a.mp4")
    write_video(file, frames.repeat(4, 1).repeat(4, 2), 10)
    embed(str(tmp_path / "run"), file, str(tmp_path / "o.npy"))
    _, own = media_vectors(encoder, file, sampling={"stride": 2})
    np.testing.assert_allclose(np.load(tmp_path / "o.npy"), own, atol=1e-6)
    assert np.abs(media_vectors(encoder, file)[1] - own).max() > 1e-3


def test_plain_transformers_folder_says_by_its_model_what_it_takes(tmp_path, capsys):
    small: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    picture = {**small, "intermediate_size": 16, "image_size": 16, "patch_size": 8}
    series: dict[str, Any] = {
        "d_model": 16,
        "context_length": 12,
        "patch_length": 4,
        "patch_stride": 4,
    }
    models = {
        "frames": ViTModel(ViTConfig(**picture)),
        "video": VideoMAEModel(VideoMAEConfig(**picture, num_frames=4)),
        "audio": ASTModel(ASTConfig(**small, intermediate_size=16, max_length=32)),
        "series": PatchTSTModel(PatchTSTConfig(**series, num_input_channels=1)),
        "text": BertModel(BertConfig(**small, intermediate_size=16)),
    }
    for kind, model in models.items():
        model.save_pretrained(tmp_path / kind)
        assert modality_of(tmp_path / kind) == kind
    assert modality_of(tmp_path) == "text" and modality_of(tmp_path, unsaid="video") == "video"
    pd.DataFrame({"y": np.arange(30.0)}).to_csv(tmp_path / "y.csv", index=False)
    embed(str(tmp_path / "series"), str(tmp_path / "y.csv"), str(tmp_path / "o.npy"))
    assert "1 vectors of width 16" in capsys.readouterr().out
    with pytest.raises(ValueError, match="is an encoder of frames"):
        load_embedder(tmp_path / "frames")


def test_side_that_is_not_told_or_not_there_is_refused(
    joint_run, tmp_path, make_encoder, make_joint
):
    run, _, _ = joint_run
    text, output = str(tmp_path / "said.txt"), str(tmp_path / "o.parquet")
    with pytest.raises(ValueError, match=r"No side 'smell'; there are text \(text\), series"):
        embed(str(run), text, output, side="smell")
    with pytest.raises(ValueError, match="encoder of audio, which has no column"):
        embed(str(run), text, output, side="audio", column="said")
    with pytest.raises(ValueError, match="pools as it was trained"):
        embed(str(run), text, output, pooling="cls")
    make_encoder().save_pretrained(tmp_path / "text")
    with pytest.raises(ValueError, match="which has no sides"):
        embed(str(tmp_path / "text"), text, output, side="text")
    ears = {n: make_joint("text", "audio").towers["audio"] for n in ("left", "right")}
    JointEncoder(ears, width=8).save_pretrained(tmp_path / "ears")
    with pytest.raises(ValueError, match=r"give --side, one of left \(audio\), right \(audio\)"):
        embed(str(tmp_path / "ears"), str(tmp_path / "heard.wav"), output)
    with pytest.raises(ValueError, match=r"said\.txt fits no side of .*ears"):
        embed(str(tmp_path / "ears"), text, output)


def test_command_says_what_it_wrote(run_folder, tmp_path, sentences, capsys):
    (tmp_path / "in.txt").write_text("\n".join(sentences))
    embed(str(run_folder), str(tmp_path / "in.txt"), str(tmp_path / "v.npy"))
    assert f"{len(sentences)} vectors of width 32" in capsys.readouterr().out
