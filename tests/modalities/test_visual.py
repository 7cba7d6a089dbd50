import base64
import copy
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, BertConfig, BertModel

from unlabel.core import cat_views, split_encoding, view
from unlabel.media_embedding import media_vectors
from unlabel.modalities.visual import VisualEncoder
from unlabel.objectives import BarlowTwins, InstanceContrast, VICReg
from unlabel.objectives.autoencoder import MAE
from unlabel.objectives.contrastive import MoCo
from unlabel.objectives.masked import MaskedValues
from unlabel.objectives.pretext import ReorderPrediction
from unlabel.training.pretraining import Pretraining

KINDS = [
    ("videomae", 8, (2, 8, 8), (4, 4, 4)),
    ("vit", 1, (1, 8, 8), (1, 4, 4)),
    ("vit", 4, (1, 8, 8), (4, 4, 4)),
    ("resnet", 1, (1, 16, 16), (1, 2, 2)),
    ("resnet", 4, (1, 16, 16), (4, 2, 2)),
    ("convnext", 4, (1, 16, 16), (4, 2, 2)),
    ("r2plus1d", 8, (4, 8, 8), (2, 4, 4)),
]
NAMED = [f"{kind}-{frames}" for kind, frames, *_ in KINDS]
MASKED = view("mask_values", unit="patch", ratio=0.5)


def ids(kinds):
    return {"argvalues": kinds, "ids": NAMED}


@pytest.mark.parametrize(("kind", "frames", "cell", "grid"), **ids(KINDS))
def test_tokens_lie_on_the_grid_and_pool_to_one_vector(
    make_visual, make_clips, kind, frames, cell, grid
):
    encoder = make_visual(kind, frames=frames)
    assert (tuple(encoder.cell), encoder.grid) == (cell, grid)
    assert encoder.length == np.prod(grid) and encoder.token_values == 3 * np.prod(cell)
    made = encoder.view(make_clips(encoder, 3), MASKED)
    out = encoder(made, want=frozenset({"layers"}))
    assert out.tokens.shape == (3, encoder.length, encoder.width)
    assert out.pooled.shape == (3, encoder.width) and out.mask.all()
    torch.testing.assert_close(out.pooled, out.tokens.mean(1))
    assert made.target.shape == (3, encoder.length, encoder.token_values)
    if "layers" in encoder.gives:
        assert len(out.layers) == 3 and torch.equal(out.layers[-1], out.tokens)
    highest = make_visual(kind, frames=frames, pooling="max")(made)
    torch.testing.assert_close(highest.pooled, highest.tokens.amax(1))


@pytest.mark.parametrize(("kind", "frames", "cell", "grid"), **ids(KINDS))
def test_a_saved_folder_gives_the_same_vectors_in_unlabel_and_transformers(
    make_visual, make_clips, tmp_path, kind, frames, cell, grid
):
    encoder = make_visual(kind, frames=frames, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    batch = make_clips(encoder, 2, height=32, width=32)
    with torch.no_grad():
        wanted = encoder(encoder.view(batch, view("plain")))
    encoder.save_pretrained(tmp_path)
    again = VisualEncoder.from_pretrained(tmp_path)
    assert not any(part.training for part in again.modules())
    with torch.no_grad():
        found = again(again.view(batch, view("plain")))
    assert torch.equal(found.tokens, wanted.tokens) and again.settings == encoder.settings
    said = json.loads((tmp_path / "unlabel.json").read_text())
    assert said["modality"] == ("frames" if frames == 1 else "video")
    assert (tmp_path / "model.safetensors").is_file()

    # The processor saved beside and the plain model, without us.
    model = AutoModel.from_pretrained(tmp_path).eval()
    frames_ = batch.inputs["frames"].permute(0, 1, 3, 4, 2).numpy()
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    rows = [processor(list(clip), return_tensors="pt")["pixel_values"] for clip in frames_]
    pixels = torch.stack([r.reshape(frames, 3, 32, 32) for r in rows])
    with torch.no_grad():
        if kind in ("videomae", "r2plus1d"):
            out = model(pixels).last_hidden_state
        else:
            out = model(pixels.flatten(0, 1)).last_hidden_state
    if kind == "r2plus1d":
        out = out.flatten(2).transpose(1, 2)
    elif out.dim() == 4:
        out = out.flatten(2).transpose(1, 2).reshape(2, -1, encoder.width)
    elif kind == "vit":
        out = out[:, 1:].reshape(2, -1, encoder.width)
    torch.testing.assert_close(out, wanted.tokens, atol=1e-4, rtol=1e-4)


def test_pictures_of_many_sizes_are_encoded_in_the_order_given(make_visual):
    encoder, random = make_visual("vit", frames=1), np.random.default_rng(0)
    sizes = [(40, 52), (32, 32), (40, 52), (70, 33), (32, 32)]
    pictures = [random.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    expected = np.concatenate([encoder.encode([picture]) for picture in pictures])
    np.testing.assert_allclose(encoder.encode(pictures, batch_size=2), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(32, 32), (100, 67), (48, 50), (480, 853), (20, 20), (33, 95)])
def test_pictures_of_any_shape_are_cut_as_by_the_processor_and_as_files(
    make_visual, tmp_path, shape
):
    encoder = make_visual("vit", frames=1)
    encoder.save_pretrained(tmp_path)
    rough = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    picture = np.asarray(Image.fromarray(rough).resize(shape[::-1], Image.Resampling.BICUBIC))
    batch = encoder.collator()([{"frames": picture[None]}])
    found = encoder.clip(batch, view("plain")).frames[0, 0]
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    made = processor(Image.fromarray(picture), return_tensors="pt")["pixel_values"][0]
    wanted = made * encoder.std[:, None, None] + encoder.mean[:, None, None]
    assert (found - wanted).abs().max() < 1.1 / 255  # it rounds to 8 bits in between
    Image.fromarray(picture).save(tmp_path / "a.png")
    _, vectors = media_vectors(encoder, str(tmp_path / "a.png"))
    np.testing.assert_allclose(encoder.encode([picture]), vectors, atol=5e-3)


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("unit", ["patch", "tube", "frame", "block"])
def test_no_gradient_flows_from_visible_tokens_to_hidden_pixels(
    make_visual, make_clips, unit, drop
):
    encoder = make_visual().double()
    batch = make_clips(encoder, 3)
    clip = encoder.clip(batch, view("mask_values", unit=unit, ratio=0.5, drop=drop))
    clip.frames = clip.frames.double().requires_grad_()
    encoder(encoder.finish(clip)).tokens[..., 0].sum().backward()
    hidden = clip.is_hidden.repeat_interleave(2, 1).repeat_interleave(8, 2).repeat_interleave(8, 3)
    reach = clip.frames.grad.abs().amax(2)
    assert (reach[hidden] == 0).all() and (reach[~hidden] > 0).float().mean() > 0.99


@pytest.mark.parametrize(("kind", "frames", "cell", "grid"), **ids(KINDS))
def test_hidden_pixels_reach_no_output(make_visual, make_clips, kind, frames, cell, grid):
    encoder = make_visual(kind, frames=frames)
    batch, other = (make_clips(encoder, 2, height=32, width=32) for _ in range(2))
    hidden = encoder.clip(batch, MASKED).is_hidden
    for dim, size in enumerate(encoder.cell, start=1):
        hidden = hidden.repeat_interleave(size, dim)
    other.inputs["frames"] = torch.where(hidden[:, :, None], 255 - other.inputs["frames"], 0)
    other.inputs["frames"] += torch.where(hidden[:, :, None], 0, batch.inputs["frames"])
    with torch.no_grad():
        a, b = (encoder(encoder.view(x, MASKED)).tokens for x in (batch, other))
    assert torch.equal(a, b) and not torch.equal(batch.inputs["frames"], other.inputs["frames"])


@pytest.mark.parametrize(("kind", "frames", "cell", "grid"), **ids(KINDS))
def test_a_short_clip_is_encoded_as_it_is_alone(make_visual, make_clips, kind, frames, cell, grid):
    if frames == 1:
        return
    encoder = make_visual(kind, frames=frames)
    short = frames // 2
    batch = make_clips(encoder, lengths=[frames, short])
    with torch.no_grad():
        both = encoder(encoder.view(batch, view("plain")))
        alone_view = encoder.view(
            make_clips(encoder, lengths=[short], first=1), view("frames", count=short)
        )
        alone = encoder(alone_view)
    count = alone.tokens.shape[1]
    assert both.mask[1].tolist() == [True] * count + [False] * (encoder.length - count)
    torch.testing.assert_close(both.tokens[1:, :count], alone.tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both.pooled[1:], alone.pooled, atol=1e-5, rtol=1e-5)


def test_framewise_encoders_see_each_frame_alone(make_visual, make_clips):
    for kind, frames, *_ in KINDS:
        encoder = make_visual(kind, frames=frames)
        if frames == 1:
            assert "framewise" in encoder.gives
            continue
        made = encoder.clip(make_clips(encoder, 1, height=32, width=32), view("plain"))
        made.frames.requires_grad_()
        out = encoder(encoder.finish(made))
        (out.tokens[0, 0] * torch.linspace(1, 2, encoder.width)).sum().backward()
        alone = (made.frames.grad[0, 1:] == 0).all()
        assert bool(alone) == ("framewise" in encoder.gives)


def test_crops_of_another_size_and_number_of_frames(make_visual, make_clips):
    for kind in ("videomae", "vit", "resnet", "r2plus1d"):
        encoder = make_visual(kind, frames=8)
        batch = make_clips(encoder, lengths=[12, 12])
        small = encoder.view(batch, view("crop", size=16, frames=4))
        long = encoder.view(batch, view("crop", frames=12))
        cell = encoder.cell
        places = (16 // cell.rows) * (16 // cell.columns)
        assert encoder(small).tokens.shape[1] == 4 // cell.frames * places
        assert encoder(long).tokens.shape[1] == 12 // cell.frames * np.prod(encoder.grid[1:])
        assert encoder(small).tokens.isfinite().all()


def test_views_of_one_size_are_encoded_together_as_they_are_alone(make_visual, make_clips):
    encoder = make_visual("vit", frames=1)
    batch = make_clips(encoder, 2)
    specs = [view("crop"), MASKED, view("mask_values", ratio=0.5, drop=True), view("token_cutoff")]
    views = [encoder.view(batch, s) for s in specs]
    bare = [replace(v, target=None, is_target=None) for v in views]
    with torch.no_grad():
        parts = split_encoding(encoder(cat_views(bare)), [2] * 4)
        for part, made in zip(parts, views, strict=True):
            alone = encoder(made)
            torch.testing.assert_close(part.pooled, alone.pooled, atol=1e-5, rtol=1e-5)


def test_multi_crop_trains_with_a_teacher_that_never_saw_the_sizes(make_visual, make_clips):
    encoder = make_visual().train()
    teacher = copy.deepcopy(encoder)
    made = encoder.view(make_clips(encoder, 2), view("crop", size=16))
    torch.testing.assert_close(teacher(made).pooled, encoder(made).pooled)


def test_the_class_token_pools_where_there_is_one(make_visual, make_clips):
    for frames in (1, 4):
        encoder = make_visual("vit", frames=frames, pooling="cls")
        batch = make_clips(encoder, 2, height=32, width=32)
        made = encoder.view(batch, view("plain"))
        clip = encoder.clip(batch, view("plain")).frames
        scaled = (clip - encoder.mean[:, None, None]) / encoder.std[:, None, None]
        with torch.no_grad():
            wanted = encoder.model(scaled.flatten(0, 1)).last_hidden_state[:, 0]
            found = encoder(made).pooled
        wanted = wanted.unflatten(0, (2, frames)).mean(1)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="no class token"):
        make_visual("videomae", pooling="cls")


def test_encode_takes_clips_pictures_and_lists(make_visual):
    encoder = make_visual().train()
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 255, (5, 10, 40, 48, 3)).astype(np.uint8)
    whole = encoder.encode(clips, batch_size=2)
    assert whole.shape == (5, encoder.width) and encoder.training
    np.testing.assert_allclose(whole, encoder.encode(list(clips)), atol=1e-5)
    short = encoder.encode([clips[0], clips[1][:5]])
    np.testing.assert_allclose(short[0], whole[0], atol=1e-5)
    pictures = make_visual("resnet", frames=1).encode(clips[:, 0])
    assert pictures.shape == (5, 32)
    assert encoder.encode([]).shape == (0, encoder.width)


def test_show_gives_pictures_of_what_is_seen_and_asked(make_visual, make_clips):
    encoder = make_visual()
    batch = make_clips(encoder, 2, height=32, width=32)
    open_ = lambda s: np.asarray(Image.open(io.BytesIO(base64.b64decode(s))))  # noqa: E731
    blank = np.round(np.array(encoder.mean) * 255)
    is_blank = lambda x: (np.abs(x - blank) <= 1).all(2)  # noqa: E731
    plain = encoder.show(encoder.view(batch, view("plain")), 2)["clips"]
    frames = batch.inputs["frames"][0].permute(2, 0, 3, 1).reshape(32, 8 * 32, 3).numpy()
    assert np.abs(open_(plain[0]["seen"]).astype(int) - frames).max() <= 1
    for drop in (False, True):
        made = encoder.view(batch, view("mask_values", ratio=0.5, drop=drop))
        row = encoder.show(made, 2)["clips"][1]
        seen, asked = open_(row["seen"]).astype(int), open_(row["asked"]).astype(int)
        assert seen.shape == asked.shape == (32, 256, 3)
        hidden = is_blank(seen)
        assert 0.4 < hidden.mean() < 0.6
        # What is asked for fills the gaps and leaves the rest as it is seen.
        assert np.abs(asked - seen)[~hidden].max() <= 1
        assert not is_blank(asked).any()
    turned = encoder.show(encoder.view(batch, view("rotate", ask=True)), 1)["clips"][0]
    assert turned["target"] in (0, 1, 2, 3) and turned["asked"] == ""


def test_collator_pads_at_the_end_and_carries_partners(make_visual):
    frames = lambda n: np.full((n, 8, 8, 3), n, np.uint8)  # noqa: E731
    samples = [
        {
            "frames": frames(n),
            "times": np.arange(n) / 10,
            "index": n,
            "ordinal": 7 * n,
            "partners": {
                "view": {"frames": frames(n + 1)},
                "flow": {"flow": np.full((n - 1, 4, 6, 2), n, np.float16)},
            },
        }
        for n in (3, 2)
    ]
    batch = make_visual(size=16).collator(seed=5)(samples)
    assert batch.inputs["frames"].shape == (2, 3, 3, 8, 8)
    assert batch.inputs["frames"].dtype == torch.uint8
    assert batch.mask.tolist() == [[True, True, True], [True, True, False]]
    assert batch.ordinal.tolist() == [21, 14] and batch.seed == 5
    assert batch.partners["view"]["frames"].shape == (2, 4, 3, 8, 8)
    assert batch.partners["view"]["mask"].sum(1).tolist() == [4, 3]
    assert batch.partners["flow"]["flow"].shape == (2, 2, 2, 4, 6)
    torch.testing.assert_close(batch.inputs["times"][1], torch.tensor([0.0, 0.1, 0.0]))


def test_a_partner_is_encoded_in_its_place(make_visual, make_clips):
    encoder = make_visual()
    batch, other = make_clips(encoder, 2), make_clips(encoder, 2, first=5)
    batch.partners["view"] = {"frames": other.inputs["frames"], "mask": other.mask}
    made = encoder.view(batch, view("plain", partner="view"))
    torch.testing.assert_close(made.inputs, encoder.view(other, view("plain")).inputs)


def test_float64_and_bf16_run_forward_and_backward(make_visual, make_clips):
    for kind, frames, *_ in KINDS:
        encoder = make_visual(kind, frames=frames).double()
        out = encoder(encoder.view(make_clips(encoder, 2), MASKED))
        assert out.pooled.dtype == torch.float64
        out.pooled.sum().backward()
        encoder = make_visual(kind, frames=frames)
        batch = make_clips(encoder, lengths=[frames, max(1, frames - 3)])
        with torch.autocast("cpu", torch.bfloat16):
            out = encoder(encoder.view(batch, view("crop+jitter+mask_values")))
        out.pooled.float().square().sum().backward()
        grads = [p.grad for p in encoder.parameters() if p.grad is not None]
        assert grads and all(g.isfinite().all() for g in grads)


def test_padding_is_no_part_of_a_batch_norms_statistics(make_visual, make_clips):
    padded, whole = (make_visual("resnet", frames=8).train() for _ in range(2))
    batch = make_clips(padded, lengths=[8, 3])
    made = padded.view(batch, view("plain"))
    padded(made)
    whole.model(made.inputs["frames"][batch.mask])
    buffers = dict(whole.named_buffers())
    for name, found in padded.named_buffers():
        torch.testing.assert_close(found, buffers[name])


def test_pixels_of_a_plain_transformers_folder_are_scaled_as_its_processor_says(
    make_visual, tmp_path
):
    encoder = make_visual("vit", frames=1, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    encoder.save_pretrained(tmp_path)
    (tmp_path / "unlabel.json").unlink()
    assert VisualEncoder.from_pretrained(tmp_path).settings == encoder.settings
    (tmp_path / "preprocessor_config.json").unlink()
    assert VisualEncoder.from_pretrained(tmp_path).settings["mean"] == [0.485, 0.456, 0.406]


def test_every_weight_is_trained(make_visual, make_clips):
    for kind, frames, *_ in KINDS:
        pooling = "cls" if kind == "vit" else "mean"
        encoder = make_visual(kind, frames=frames, pooling=pooling)
        encoder(encoder.view(make_clips(encoder, 2), view("plain"))).pooled[:, 0].sum().backward()
        idle = [n for n, p in encoder.named_parameters() if p.grad is None]
        assert not [n for n in idle if "pooler" in n], kind


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"frames": 7}, "no whole cells"),
        ({"size": 30}, "no whole cells"),
        ({"pooling": "last"}, "not one of mean, cls, max"),
    ],
)
def test_sizes_and_settings_are_checked(make_visual, about, message):
    with pytest.raises(ValueError, match=message):
        make_visual(**about)


def test_models_and_folders_that_cannot_be_are_refused(tmp_path):
    bert = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(ValueError, match="BertModel is no encoder of frames"):
        VisualEncoder(bert, frames=1, size=32)
    with pytest.raises(ValueError, match="hidden_sise: no such key"):
        VisualEncoder.from_config({"hidden_sise": 3}, frames=1, size=32)
    with pytest.raises(FileNotFoundError, match="no config"):
        VisualEncoder.from_pretrained(tmp_path)


def test_frames_and_sizes_of_a_batch_are_checked(make_visual):
    collate = make_visual().collator()
    clip = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="uint8 RGB"):
        collate([{"frames": clip[0]}])
    with pytest.raises(ValueError, match="one size"):
        collate([{"frames": clip}, {"frames": clip[:, :4]}])


def test_single_frames_have_no_views_of_time(make_visual):
    encoder = make_visual("vit", frames=1)
    assert not {"reverse", "reorder", "speed", "triple", "span_cutoff"} & encoder.views
    assert "feature_cutoff" not in make_visual("resnet").views


def _train(encoder, objective, make_clips, steps, lr):
    torch.manual_seed(0)
    module = Pretraining(encoder.train(), objective)
    optimizer = torch.optim.AdamW(module.parameters(), lr)
    losses = []
    for step in range(steps):
        loss = module(make_clips(encoder, 16, first=16 * (step % 8))).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        module.step()
        losses.append(float(loss.detach()))
    return losses


OBJECTIVES = {
    "mae": (lambda: MAE(ratio=0.75, hidden=32), 0.7),
    "masked_values": (lambda: MaskedValues(ratio=0.5), 0.6),
    "simclr": (lambda: InstanceContrast(), 0.97),
    "barlow": (lambda: BarlowTwins(width=32), 0.97),
    "vicreg": (lambda: VICReg(width=32), 0.97),
    "moco": (lambda: MoCo(augment="crop+jitter", queue=64), 0.97),
    "reorder": (lambda: ReorderPrediction(segments=2), 0.95),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(
    ("kind", "frames"),
    [("videomae", 8), ("vit", 1), ("convmae", 1), ("resnet", 4), ("r2plus1d", 8)],
)
def test_objectives_learn_from_moving_squares(make_visual, make_clips, kind, frames, name):
    make, share = OBJECTIVES[name]
    encoder = make_visual(kind, frames=frames)
    if kind == "r2plus1d" and name in ("barlow", "vicreg", "moco"):
        return  # seconds of convolutions that SimCLR has spent already
    if (name == "mae" and not encoder.in_patches) or (name == "reorder" and frames == 1):
        with pytest.raises(ValueError, match="cannot give"):
            Pretraining(encoder, make())
        return
    losses = _train(encoder, make(), make_clips, 60, 1e-3)
    # The task of MoCo grows harder until its queue is full.
    start = 5 if name == "moco" else 0
    assert np.mean(losses[-10:]) < share * np.mean(losses[start : start + 5])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_view_and_an_encoding_compile_as_one_graph(make_visual, make_clips):
    encoder = make_visual("vit", frames=1).train()
    args: dict[str, Any] = {"mask_values.drop": True}
    spec = view("crop+flip+jitter+mask_values", **args)
    batch = make_clips(encoder, 4)
    whole = torch.compile(
        lambda b: encoder(encoder.view(b, spec)).pooled, fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(
        whole(batch), encoder(encoder.view(batch, spec)).pooled, atol=1e-4, rtol=1e-4
    )
