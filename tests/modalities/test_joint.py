import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from unlabel.core import View, cat_views, view
from unlabel.modalities import JointEncoder, JointModel
from unlabel.modalities.joint_config import JointConfig
from unlabel.objectives import CLIP, Objective
from unlabel.training.pretraining import Pretraining

KINDS = ("text", "series", "frames", "video", "audio")


@pytest.fixture
def make_pairs(joint_data):
    """Makes a batch of samples of an encoder's sides."""
    keys = {"series": "values", "frames": "frames", "video": "frames", "audio": "waveform"}

    def sample(encoder, name, row):
        if name == "text":
            return {"input_ids": encoder.towers[name].tokenize(joint_data[name])[row]}
        value = joint_data[name][row]
        return {keys[name]: value[None] if name == "frames" else value}

    def make(encoder, rows=4):
        samples = [
            {"sides": {n: sample(encoder, n, i) for n in encoder.sides}, "index": i, "ordinal": i}
            for i in range(rows)
        ]
        return encoder.collator(seed=3)(samples)

    return make


# -- the encoder ----------------------------------------------------------------------------------


def test_view_goes_to_the_side_that_its_partner_names(make_joint, make_pairs):
    encoder = make_joint("text", "video")
    batch = make_pairs(encoder)
    for side in encoder.sides:
        seen = encoder.view(batch, view("plain", partner=side))
        own = encoder.towers[side].view(batch.sides[side], view("plain"))
        assert seen.side == side
        for name, values in own.inputs.items():
            torch.testing.assert_close(seen.inputs[name], values)
        found, alone = encoder(seen), encoder.towers[side](own)
        torch.testing.assert_close(found.pooled, encoder.projections[side](alone.pooled))
        torch.testing.assert_close(found.tokens, alone.tokens)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_clip_between_sides_compiles_to_the_same_loss_and_gradients(make_joint, make_pairs):
    encoder = make_joint("text", "video")
    module, batch = Pretraining(encoder.eval(), CLIP()), make_pairs(encoder)
    found = []
    for forward in (module, torch.compile(module, backend="aot_eager")):
        module.zero_grad()
        loss = forward(batch).loss
        loss.backward()
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        found.append((loss.detach(), torch.cat([g.flatten() for g in grads])))
    torch.testing.assert_close(found[1], found[0])


def test_all_views_of_a_side_are_one_call(make_joint, make_pairs, monkeypatch):
    encoder = make_joint("text", "audio")
    batch, calls = make_pairs(encoder), []
    for name, tower in encoder.towers.items():
        whole = tower.forward
        monkeypatch.setattr(
            tower,
            "forward",
            lambda v, want=frozenset(), n=name, f=whole: (
                calls.append((n, len(v.mask))) or f(v, want=want)
            ),
        )
    objective = Objective()
    objective.views = tuple(
        view("plain", i, partner=side) for i in (0, 1) for side in encoder.sides
    )
    whole = Pretraining(encoder, objective)
    found = whole.encode_by("online", [encoder.view(batch, s) for s in objective.views])
    assert sorted(found) == [0, 1, 2, 3]
    assert sorted(calls) == [("audio", 8), ("text", 8)]


def test_some_sides_are_the_same_encoder_without_the_others(make_joint, make_pairs):
    whole = make_joint("text", "series", "audio", locked=["audio"])
    some = whole.only(["audio", "text"])
    assert some.sides == ("text", "audio") and some.locked == ("audio",)
    assert not some.training and some.towers["text"] is whole.towers["text"]
    batch = make_pairs(whole)
    for side in some.sides:
        seen = whole.view(batch, view("plain", partner=side))
        assert torch.equal(some(seen).pooled, whole(seen).pooled)
    with pytest.raises(ValueError, match="video is no side of it, which has text, ser"):
        whole.only(["text", "video"])
    with pytest.raises(ValueError, match="two or more, but text came"):
        whole.only(["text"])


def test_locked_side_gets_no_gradient_and_stays_in_evaluation_mode(make_joint, make_pairs):
    encoder = make_joint("text", "audio", locked=["text"]).train()
    assert not encoder.towers["text"].training
    assert encoder.towers["audio"].training
    batch = make_pairs(encoder)
    loss = sum(
        encoder(encoder.view(batch, view("plain", partner=s))).pooled.square().sum()
        for s in encoder.sides
    )
    loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in encoder.towers["text"].parameters())
    for part in (*encoder.projections.values(), encoder.towers["audio"].model):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_saved_and_loaded_it_encodes_alike_and_says_the_same(tmp_path, make_joint, joint_data):
    encoder = make_joint(locked=["frames"])
    encoder.save_pretrained(tmp_path)
    again = JointEncoder.from_pretrained(tmp_path, local_files_only=True)
    assert not any(part.training for part in again.modules())
    assert again.settings == encoder.settings
    assert JointEncoder.from_pretrained(tmp_path, locked=[]).locked == ()
    for side in KINDS:
        expected = encoder.encode(side, joint_data[side])
        np.testing.assert_allclose(again.encode(side, joint_data[side]), expected, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-6)
        # Each side's folder is one of its own kind.
        alone = type(encoder.towers[side]).from_pretrained(tmp_path / side)
        found = encoder.project(side, torch.from_numpy(alone.encode(joint_data[side])))
        np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-6)


def test_no_weight_is_written_twice(tmp_path, make_joint):
    encoder = make_joint()
    encoder.save_pretrained(tmp_path)
    written = sum(p.stat().st_size for p in tmp_path.rglob("*.safetensors"))
    weights = 4 * sum(p.numel() for p in encoder.parameters())
    assert weights <= written < weights + 30_000  # and their names


def test_what_cannot_be_is_refused(tmp_path, make_joint, make_pairs):
    encoder = make_joint("text", "audio")
    with pytest.raises(ValueError, match="two or more, but text came"):
        JointEncoder({"text": encoder.towers["text"]})
    with pytest.raises(ValueError, match="video is to be locked, but the sides are text, audio"):
        JointEncoder(dict(encoder.towers), locked=["video"])
    with pytest.raises(ValueError, match="a view of video, but the sides of the encoder"):
        encoder.view(make_pairs(encoder), view("plain", partner="video"))
    with pytest.raises(ValueError, match="a view of no side"):
        encoder.view(make_pairs(encoder), view("plain"))
    batch = make_pairs(encoder)
    del batch.sides["audio"]
    with pytest.raises(ValueError, match="a view of audio, but the sides of the data are text"):
        encoder.view(batch, view("plain", partner="audio"))
    with pytest.raises(ValueError, match="No side 'video'; there are text, audio"):
        encoder.encode("video", [])
    with pytest.raises(FileNotFoundError, match="holds no encoder of several kinds"):
        JointEncoder.from_pretrained(tmp_path)


def test_views_of_a_side_are_joined_as_that_side(make_joint, make_pairs):
    encoder = make_joint("text", "audio")
    seen = encoder.view(make_pairs(encoder), view("plain", partner="audio"))
    assert cat_views([seen, seen]).side == "audio"
    assert isinstance(seen, View)


# -- the transformers model -----------------------------------------------------------------------


def inputs_of(folder, side, data):
    """What a user gives the model, by the tools that transformers has for it."""
    if side == "text":
        words = AutoTokenizer.from_pretrained(folder / side)
        return dict(words(data, padding=True, truncation=True, return_tensors="pt"))
    if side in ("frames", "video"):
        look = AutoImageProcessor.from_pretrained(folder / side)
        return dict(look(list(data) if side == "frames" else [list(c) for c in data],
                         return_tensors="pt"))  # fmt: skip
    values = torch.from_numpy(data)
    return {"past_values": values} if side == "series" else {"input_values": values}


@pytest.fixture
def saved(tmp_path, make_joint):
    encoder = make_joint()
    torch.nn.init.normal_(encoder.towers["series"].missing.weight)
    encoder.save_pretrained(tmp_path / "model")
    return tmp_path / "model", encoder


@pytest.mark.parametrize("side", KINDS)
def test_auto_model_gives_the_vectors_of_encode(saved, joint_data, side):
    folder, encoder = saved
    model = AutoModel.from_pretrained(folder)
    assert isinstance(model, JointModel)
    inputs = inputs_of(folder, side, joint_data[side])
    with torch.no_grad():
        found = model.get_features(side, **inputs)
        whole = model({side: inputs})[side]
    np.testing.assert_allclose(found.numpy(), encoder.encode(side, joint_data[side]), atol=1e-5)
    torch.testing.assert_close(whole, found)


def test_masks_of_padding_and_of_gaps_are_heeded(saved, joint_data):
    folder, encoder = saved
    model = AutoModel.from_pretrained(folder)
    sound, short = torch.from_numpy(joint_data["audio"]), torch.ones(4, 3_840)
    short[:, 2_800:] = 0
    series = torch.from_numpy(joint_data["series"])
    is_seen = series.isfinite()
    is_seen[:, :7] = False
    gaps = np.where(is_seen.numpy(), joint_data["series"], np.nan)
    with torch.no_grad():
        heard = model.get_features("audio", input_values=sound * short, attention_mask=short)
        seen = model.get_features(
            "series", past_values=series.nan_to_num(), past_observed_mask=is_seen
        )
    alone = encoder.encode("audio", joint_data["audio"][:, :2_800])
    np.testing.assert_allclose(heard.numpy(), alone, atol=1e-5)
    np.testing.assert_allclose(seen.numpy(), encoder.encode("series", gaps), atol=1e-5)


def test_of_a_longer_series_the_newest_steps_count(saved, joint_data):
    folder, encoder = saved
    longer = np.concatenate([joint_data["series"][::-1], joint_data["series"]], 1)
    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        found = model.get_features("series", past_values=torch.from_numpy(longer))
    np.testing.assert_allclose(found.numpy(), encoder.encode("series", longer), atol=1e-5)


def test_features_have_gradients(saved, joint_data):
    model = JointModel.from_pretrained(saved[0])
    model.get_features("audio", input_values=torch.from_numpy(joint_data["audio"])).sum().backward()
    assert model.encoder.towers["audio"].model.embeddings.cls_token.grad is not None


def test_configuration_says_what_the_sides_are(saved):
    config = AutoConfig.from_pretrained(saved[0])
    assert isinstance(config, JointConfig)
    assert {n: s["kind"] for n, s in config.sides.items()} == {k: k for k in KINDS}
    assert config.side("text").hidden_size == 32
    assert config.side("video").model_type == "videomae"
    assert str(saved[0]) not in (saved[0] / "config.json").read_text()
    assert JointConfig.from_dict(json.loads(config.to_json_string())).sides == config.sides


def test_saved_again_it_is_the_same_folder(saved, tmp_path):
    JointModel.from_pretrained(saved[0]).save_pretrained(tmp_path / "again")
    names = lambda p: sorted(str(f.relative_to(p)) for f in p.rglob("*") if f.is_file())  # noqa: E731
    assert names(tmp_path / "again") == names(saved[0])
    for file in saved[0].rglob("*.safetensors"):
        again = tmp_path / "again" / file.relative_to(saved[0])
        assert again.read_bytes() == file.read_bytes()


def test_a_part_of_a_folder_and_another_precision_can_be_loaded(saved):
    model = AutoModel.from_pretrained(saved[0].parent, subfolder="model", dtype=torch.float64)
    assert model.dtype == torch.float64
    assert not model.training


def test_model_refuses_what_it_cannot_do(saved, tmp_path):
    with pytest.raises(ValueError, match="device_map cannot be set"):
        JointModel.from_pretrained(saved[0], device_map="cpu")
    with pytest.raises(ValueError, match="more than a configuration"):
        AutoModel.from_config(AutoConfig.from_pretrained(saved[0]))
    model = JointModel.from_pretrained(saved[0])
    with pytest.raises(ValueError, match="No side 'smell'"):
        model.get_features("smell")
    with pytest.raises(ValueError, match="upload_folder"):
        model.save_pretrained(tmp_path / "x", push_to_hub=True)


ORDERS = {
    "first": "import unlabel.modalities; from transformers import AutoModel",
    "last": "from transformers import AutoModel; import unlabel.modalities",
}


@pytest.mark.parametrize("order", ORDERS)
def test_auto_classes_know_the_model_whoever_is_imported_first(saved, order):
    code = (
        "; import sys; load = AutoModel.from_pretrained; assert load(sys.argv[1]).config.width == 8"
        "; load(sys.argv[1] + '/text')"
    )
    subprocess.run([sys.executable, "-c", ORDERS[order] + code, str(saved[0])], check=True)
