"""ConvMAE's encoder: what is hidden reaches nothing, at any scale."""

from typing import Any

import pytest
import torch
from transformers import AutoModel

from unlabel.core import view
from unlabel.modalities.conv_mae import ConvMAEConfig, ConvMAEModel, places
from unlabel.objectives import MAE, DeepMIM, MaskedValues
from unlabel.training.pretraining import Pretraining

SMALL: dict[str, Any] = {"hidden_sizes": [8, 8, 16], "depths": [2, 2, 2], "strides": [4, 2, 2]}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ConvMAEModel(ConvMAEConfig(**SMALL)).eval()


def leak(model, is_visible, masked: bool) -> torch.Tensor:
    """Gradient of all visible tokens by the pixels, `(2, 4, 4)` by token's cell."""
    pictures = torch.randn(2, 3, 64, 64, requires_grad=True)
    at = (~is_visible).flatten(1).long().argsort(dim=1, stable=True)[:, : int(is_visible[0].sum())]
    tokens = model(pictures, is_visible if masked else None, at).last_hidden_state
    (slope,) = torch.autograd.grad(tokens.square().sum(), pictures)
    return slope.abs().unflatten(3, (4, 16)).unflatten(2, (4, 16)).sum((1, 3, 5))


@pytest.fixture
def is_visible():
    draws = torch.rand(2, 16, generator=torch.Generator().manual_seed(1))
    return (draws.argsort(1).argsort(1) < 6).unflatten(1, (4, 4))


def test_no_gradient_reaches_visible_tokens_from_masked_pixels(model, is_visible):
    slope = leak(model, is_visible, masked=True)
    assert not slope[~is_visible].any() and (slope[is_visible] > 0).all()


def test_without_the_mask_it_would(model, is_visible):
    slope = leak(model, is_visible, masked=False)
    assert slope[~is_visible].any()


def test_a_token_knows_every_stage(model):
    pictures = torch.randn(2, 3, 64, 64)
    whole = model(pictures).last_hidden_state
    for fuse in model.fuse:
        kept = fuse.weight.detach().clone()
        with torch.no_grad():
            fuse.weight.zero_()
            assert not torch.allclose(model(pictures).last_hidden_state, whole)
            fuse.weight.copy_(kept)
    assert torch.equal(model(pictures).last_hidden_state, whole)


def test_the_first_stages_join_behind_the_transformer(model):
    pictures = torch.randn(2, 3, 64, 64)
    before = model(pictures)
    _, fine = model.embedded(pictures, None)
    wanted = fine.flatten(2).mT + model.blocks[-1](before.hidden_states[-2])
    torch.testing.assert_close(before.last_hidden_state, model.norm(wanted))
    with torch.no_grad():
        model.fuse[0].weight.zero_()
    for old, new in zip(before.hidden_states[:-1], model(pictures).hidden_states, strict=False):
        assert torch.equal(old, new)


def test_tokens_are_counted_row_by_row_and_padding_is_not_looked_at(model):
    pictures = torch.randn(2, 3, 32, 64)
    out = model(pictures)
    assert out.last_hidden_state.shape == (2, 8, 16) and len(out.hidden_states) == 3
    torch.testing.assert_close(out.pooler_output, out.last_hidden_state.mean(1))
    at = torch.tensor([[1, 5, 0], [2, 7, 0]])
    mask = torch.tensor([[True, True, False]] * 2)
    padded, alone = model(pictures, None, at, mask), model(pictures, None, at[:, :2])
    torch.testing.assert_close(padded.last_hidden_state[:, :2], alone.last_hidden_state)
    torch.testing.assert_close(padded.pooler_output, alone.pooler_output)
    whole = model.embedded(pictures, None)[0].flatten(2).transpose(1, 2)
    torch.testing.assert_close(
        alone.hidden_states[0], whole.gather(1, at[:, :2, None].expand(-1, -1, 16))
    )


def test_positions_are_sines_and_cosines_of_row_and_column():
    made = places(8, 3, 5).double()
    for y, x in ((0, 0), (2, 1), (1, 4)):
        angles = torch.tensor([y, y / 100, x, x / 100]).double()
        row, column = angles[:2], angles[2:]
        wanted = torch.cat([row.sin(), row.cos(), column.sin(), column.cos()])
        torch.testing.assert_close(made[:, y, x], wanted, atol=1e-6, rtol=0)


def test_automodel_loads_what_was_saved(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    pictures = torch.randn(1, 3, 64, 64)
    assert isinstance(again, ConvMAEModel)
    assert torch.equal(again(pictures).last_hidden_state, model(pictures).last_hidden_state)


def test_gradients_are_right_in_float64():
    small = ConvMAEModel(ConvMAEConfig(hidden_sizes=[4, 4, 8], depths=[1, 1, 1])).double()
    pictures = torch.randn(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    is_visible = torch.tensor([[[True, False], [True, True]]])
    assert torch.autograd.gradcheck(
        lambda x: small(x, is_visible).pooler_output.sum(), pictures, fast_mode=True
    )


def test_mae_hides_what_it_asks_for(make_visual, make_clips):
    encoder = make_visual("convmae", frames=1)
    module: Any = Pretraining(encoder, MAE(hidden=16, layers=1, heads=2))
    batch = make_clips(encoder, 4, height=32, width=32)
    (seen,) = module.view(batch)
    assert seen.inputs["patches"].shape == (4, 4, 192)
    (encoding,) = module.encode([seen])
    # The same picture with other pixels where it is hidden.
    noisy = make_clips(encoder, 4, height=32, width=32)
    hidden = seen.is_target[:, :, 0].unflatten(1, (4, 4))
    pixels = hidden.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None, None]
    frames = noisy.inputs["frames"]
    noisy.inputs["frames"] = torch.where(pixels, 255 - frames, frames)
    (again,) = module.view(noisy)
    assert not torch.equal(again.target, seen.target)
    assert torch.equal(module.encode([again])[0].tokens, encoding.tokens)
    module(batch).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_a_view_of_patches_is_the_models_own_picture(make_visual, make_clips):
    encoder = make_visual("convmae", frames=1)
    batch = make_clips(encoder, 3)
    clip = encoder.clip(batch, view("plain"))
    scaled = (clip.frames - encoder.mean[:, None, None]) / encoder.std[:, None, None]
    wanted = encoder.model(scaled[:, 0]).last_hidden_state
    torch.testing.assert_close(encoder(encoder.view(batch, view("plain"))).tokens, wanted)


def test_a_cut_token_reaches_no_other(make_visual, make_clips):
    encoder = make_visual("convmae", frames=1)
    batch = make_clips(encoder, 3)
    seen = encoder.view(batch, view("token_cutoff", ratio=0.3))
    kept = encoder(seen).tokens
    spoilt = seen.inputs["patches"].masked_fill(~seen.keep_positions[:, :, None], 9.0)
    seen.inputs["patches"] = spoilt
    assert torch.equal(encoder(seen).tokens, kept)
    plain = encoder(encoder.view(batch, view("plain"))).tokens
    assert not torch.allclose(kept, plain)


@pytest.mark.parametrize("make", [lambda: DeepMIM(hidden=16, heads=2), lambda: MaskedValues()])
def test_other_masked_objectives_take_it(make_visual, make_clips, make):
    encoder = make_visual("convmae", frames=1)
    assert Pretraining(encoder, make())(make_clips(encoder, 3)).loss.isfinite()


def test_on_clips_it_sees_each_frame_alone(make_visual, make_clips):
    encoder = make_visual("convmae", frames=2)
    assert "framewise" in encoder.gives and "visible_only" not in encoder.gives
    assert encoder(encoder.view(make_clips(encoder, 2), view("plain"))).tokens.shape == (2, 32, 32)


def test_sizes_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="give three hidden sizes"):
        ConvMAEConfig(depths=[1, 1])
    with pytest.raises(ValueError, match="must be a multiple of 4 and of the 4 heads"):
        ConvMAEConfig(hidden_sizes=[8, 8, 18])
