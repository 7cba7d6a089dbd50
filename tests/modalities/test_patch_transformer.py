import copy
from typing import Any

import pytest
import torch
from einops import rearrange
from transformers import (
    ASTConfig,
    ASTModel,
    ResNetConfig,
    ResNetModel,
    VideoMAEConfig,
    VideoMAEModel,
    ViTConfig,
    ViTModel,
)

from unlabel.modalities.patch_transformer import PatchTransformer

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "patch_size": 8,
    "initializer_range": 0.2,
}


def vit(**more) -> PatchTransformer:
    return PatchTransformer(ViTModel(ViTConfig(image_size=32, **{**SMALL, **more}))).eval()


def videomae(**more) -> PatchTransformer:
    config = VideoMAEConfig(image_size=32, num_frames=8, tubelet_size=2, **{**SMALL, **more})
    return PatchTransformer(VideoMAEModel(config)).eval()


def ast() -> PatchTransformer:
    sizes: dict[str, Any] = {
        "max_length": 48,
        "num_mel_bins": 32,
        "frequency_stride": 8,
        "time_stride": 8,
    }
    model = ASTModel(ASTConfig(**SMALL, **sizes))
    # transformers starts the table at 0, which would hide a wrong order.
    torch.nn.init.normal_(model.embeddings.position_embeddings)
    return PatchTransformer(model).eval()


def of_frames(x: torch.Tensor, tubelet: int) -> torch.Tensor:
    pattern = "b (t kt) c (y ky) (x kx) -> b (t y x) (c kt ky kx)"
    return rearrange(x, pattern, kt=tubelet, ky=8, kx=8)


def everywhere(patches: torch.Tensor) -> torch.Tensor:
    return torch.arange(patches.shape[1]).expand(len(patches), -1)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_all_patches_of_a_vit_give_its_own_outputs():
    driver, x = vit(), torch.randn(3, 3, 32, 32)
    patches = of_frames(x[:, None], 1)
    found = driver(patches, positions=everywhere(patches))[-1]
    torch.testing.assert_close(found, driver.model(x).last_hidden_state, atol=1e-5, rtol=1e-5)
    assert (driver.cell, driver.grid, driver.values) == ((1, 8, 8), (1, 4, 4), 192)


@pytest.mark.parametrize("norm", [True, False])
def test_all_patches_of_a_videomae_give_its_own_outputs(norm):
    driver, x = videomae(use_mean_pooling=not norm), torch.randn(3, 8, 3, 32, 32)
    patches = of_frames(x, 2)
    wanted = driver.model(x).last_hidden_state
    for mask in (None, torch.ones(3, 64, dtype=torch.bool)):
        found = driver(patches, positions=everywhere(patches), mask=mask)[-1]
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_all_patches_of_an_ast_give_its_own_outputs_times_first():
    driver, x = ast(), torch.randn(3, 48, 32)
    patches = rearrange(x, "b (t kt) (f kf) -> b (t f) (kf kt)", kt=8, kf=8)
    found = driver(patches, positions=everywhere(patches))[-1]
    wanted = driver.model(x).last_hidden_state
    torch.testing.assert_close(found[:, :2], wanted[:, :2], atol=1e-5, rtol=1e-5)
    wanted = rearrange(wanted[:, 2:], "b (f t) d -> b (t f) d", f=4)
    torch.testing.assert_close(found[:, 2:], wanted, atol=1e-5, rtol=1e-5)
    assert (driver.cell, driver.grid, driver.specials) == ((8, 8), (6, 4), 2)


def test_some_patches_of_a_videomae_are_its_own_masked_forward():
    driver, x = videomae(), torch.randn(2, 8, 3, 32, 32)
    hidden = torch.rand(1, 64).argsort(1).expand(2, -1) < 40
    patches, places = of_frames(x, 2), (~hidden[0]).nonzero()[:, 0].expand(2, -1)
    found = driver(patches[:, ~hidden[0]], positions=places)[-1]
    wanted = driver.model(x, bool_masked_pos=hidden).last_hidden_state
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_another_picture_size_is_what_transformers_interpolates():
    driver, x = vit(), torch.randn(2, 3, 48, 24)
    patches = of_frames(x[:, None], 1)
    found = driver(patches, positions=everywhere(patches), grid=(1, 6, 3))[-1]
    wanted = driver.model(x, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_more_times_interpolate_the_table_over_time_alone():
    driver = videomae()
    own, longer = driver.tables((4, 4, 4))[1], driver.tables((8, 4, 4))[1]
    own, longer = own.view(4, 16, -1), longer.view(8, 16, -1)
    torch.testing.assert_close(longer[0], own[0])
    torch.testing.assert_close(longer[1], 0.75 * own[0] + 0.25 * own[1])


@pytest.mark.parametrize("make", [vit, videomae, ast])
def test_padding_changes_nothing(make):
    driver = make()
    patches = torch.randn(2, 10, driver.values)
    mask = torch.arange(10)[None] < torch.tensor([[10], [6]])
    count = driver.specials
    both = driver(patches, positions=everywhere(patches), mask=mask)[-1]
    alone = driver(patches[1:, :6], positions=everywhere(patches[1:, :6]))[-1]
    torch.testing.assert_close(both[1:, : 6 + count], alone, atol=1e-5, rtol=1e-5)
    whole = driver(patches[:1], positions=everywhere(patches[:1]))[-1]
    torch.testing.assert_close(both[:1], whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [vit, videomae])
def test_a_sample_without_any_token_is_no_nan(make):
    driver = make()
    patches = torch.randn(1, 5, driver.values)
    mask = torch.zeros(1, 5, dtype=torch.bool)
    assert driver(patches, positions=everywhere(patches), mask=mask)[-1].isfinite().all()


def test_cutoffs_zero_embeddings_of_tokens_and_columns():
    driver = vit()
    patches = torch.randn(2, 16, driver.values)
    keep = torch.rand(2, 16) > 0.5
    columns = torch.rand(2, 32) > 0.5
    first = driver(
        patches, positions=everywhere(patches), keep_positions=keep, keep_features=columns
    )[0]
    assert (first[:, 1:][~keep] == 0).all() and (first[:, 1:][keep] != 0).any()
    assert (first * ~columns[:, None] == 0).all()


def test_a_videomae_takes_its_position_table_along():
    driver = copy.deepcopy(videomae()).double()
    assert driver.model.embeddings.position_embeddings.dtype == torch.float64
    patches = torch.randn(1, 64, driver.values, dtype=torch.float64)
    states = driver(patches, positions=everywhere(patches))
    assert states[-1].dtype == torch.float64
    assert len(states) == 3


def test_other_models_are_refused_by_name():
    with pytest.raises(ValueError, match="ResNetModel is none of ViTModel"):
        PatchTransformer(ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])))
