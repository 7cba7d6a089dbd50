import pytest
import torch
from transformers import AutoModel

from unlabel.modalities.r2plus1d import R2Plus1DConfig, R2Plus1DModel

SMALL = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2]}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return R2Plus1DModel(R2Plus1DConfig(**SMALL)).eval()


def test_every_stage_but_the_first_halves_time_rows_and_columns(model):
    out = model(torch.randn(2, 8, 3, 32, 48))
    assert out.last_hidden_state.shape == (2, 16, 4, 8, 12)
    assert model.config.strides == (2, 4, 4)
    torch.testing.assert_close(out.pooler_output, out.last_hidden_state.mean((2, 3, 4)))


def test_a_padded_clip_comes_out_as_it_does_alone(model):
    clips = torch.randn(2, 8, 3, 16, 16)
    mask = torch.arange(8)[None] < torch.tensor([[8], [4]])
    both, alone = model(clips, frame_mask=mask), model(clips[1:, :4])
    torch.testing.assert_close(
        both.last_hidden_state[1:, :, :2], alone.last_hidden_state, atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(both.pooler_output[1:], alone.pooler_output, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both.pooler_output[:1], model(clips[:1]).pooler_output)


def test_the_order_of_frames_tells(model):
    clip = torch.randn(1, 8, 3, 16, 16)
    assert not torch.allclose(model(clip).pooler_output, model(clip.flip(1)).pooler_output)


def test_a_decomposed_convolution_has_about_the_weights_of_a_whole_one():
    block = R2Plus1DModel(R2Plus1DConfig(hidden_sizes=[64], depths=[1], embedding_size=64)).blocks
    count = sum(p.numel() for p in block[0].first.parameters() if p.dim() > 1)
    assert 0.95 < count / (64 * 64 * 27) <= 1


def test_automodel_loads_what_was_saved(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    clip = torch.randn(1, 4, 3, 16, 16)
    assert isinstance(again, R2Plus1DModel)
    assert torch.equal(again(clip).last_hidden_state, model(clip).last_hidden_state)


def test_gradients_are_right_in_float64(model):
    small = R2Plus1DModel(R2Plus1DConfig(embedding_size=8, hidden_sizes=[8], depths=[1])).double()
    clip = torch.randn(1, 2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: small(x).pooler_output.sum(), clip, fast_mode=True)


def test_sizes_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="one depth a stage"):
        R2Plus1DConfig(hidden_sizes=[8, 16], depths=[1])
    with pytest.raises(ValueError, match="groups divide"):
        R2Plus1DConfig(embedding_size=12)


def test_residual_frames_show_what_moves_and_no_background():
    model = R2Plus1DModel(R2Plus1DConfig(residual_frames=True)).eval()
    clip = torch.randn(2, 8, 3, 32, 32)
    background = torch.randn(2, 1, 3, 32, 32)
    seen, beside = model(clip).pooler_output, model(clip + background).pooler_output
    assert torch.allclose(seen, beside, atol=1e-4)
    still = model(clip[:, :1].expand(-1, 8, -1, -1, -1)).pooler_output
    assert torch.allclose(still[0], still[1], atol=1e-6)  # one frame tells nothing
    assert not torch.allclose(seen[0], seen[1], atol=1e-2)


def test_residual_frames_of_a_padded_clip_are_those_of_the_clip():
    model = R2Plus1DModel(R2Plus1DConfig(residual_frames=True)).eval()
    clip = torch.randn(1, 8, 3, 32, 32)
    mask = torch.arange(8)[None] < 5
    alone = model(clip[:, :5], mask[:, :5]).pooler_output
    assert torch.allclose(model(clip, mask).pooler_output, alone, atol=1e-5)


def test_one_frame_has_no_change():
    model = R2Plus1DModel(R2Plus1DConfig(residual_frames=True)).eval()
    a, b = (model(torch.randn(1, 1, 3, 32, 32)).pooler_output for _ in range(2))
    assert torch.equal(a, b)
