"""Decoders after several blocks: what each reads and predicts, and that one of them is MAE."""

from typing import Any

import pytest
import torch
from tiny_series import TinySeries, make_series
from tiny_video import make_video, tiny_video

from unlabel.core import Encoding
from unlabel.modalities.visual import VisualEncoder
from unlabel.objectives import MAE, DeepMIM, LocalMIM, MaskedValues, SimMIM
from unlabel.objectives.autoencoder import by_token, decoded
from unlabel.objectives.deep_masked import layer_at
from unlabel.training.pretraining import Pretraining

SMALL: dict[str, Any] = {"hidden": 16, "layers": 1, "heads": 2}


def deep_vit(blocks: int = 4, patch: int = 4) -> tuple[VisualEncoder, Any]:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    config = {**sizes, "num_hidden_layers": blocks, "patch_size": patch}
    encoder = VisualEncoder.from_config(config, frames=1, size=16, dropout=0.0)
    return encoder, make_video(encoder)


def test_one_decoder_after_the_last_block_is_mae():
    encoder, batch = deep_vit()
    mae: Any = Pretraining(encoder, MAE(**SMALL))
    deep: Any = Pretraining(encoder, DeepMIM(depths=(1,), **SMALL))
    deep.objective.decoders[0].load_state_dict(mae.objective.decoder.state_dict())
    assert torch.equal(deep(batch).loss, mae(batch).loss)


def test_one_level_at_a_tokens_scale_is_a_plain_masked_feature_loss():
    encoder, batch = deep_vit()
    mae: Any = Pretraining(encoder, MAE(features="hog", **SMALL))
    local: Any = Pretraining(encoder, LocalMIM(scales=(1,), depths=(1,), **SMALL))
    local.objective.decoders[0].load_state_dict(mae.objective.decoder.state_dict())
    assert torch.equal(local(batch).loss, mae(batch).loss)
    (seen,) = local.view(batch)
    (encoding,) = mae.encode([seen])
    pred = decoded(mae.objective.decoder, encoding.tokens, encoding.mask, seen)
    expected = (pred - seen.target)[seen.is_target].double().square().mean()
    torch.testing.assert_close(mae(batch).loss.double(), expected, rtol=1e-6, atol=0)


def test_every_level_reads_its_own_layer():
    encoder, batch = deep_vit()
    module: Any = Pretraining(encoder, DeepMIM(depths=(0.25, 0.5, 1), **SMALL))
    (seen,) = module.view(batch)
    (encoding,) = module.encode([seen])
    layers = [x.detach().requires_grad_() for x in encoding.layers]
    leaf = Encoding(encoding.pooled, encoding.tokens, encoding.mask, tuple(layers))
    terms = module.score([leaf], [seen], batch).terms
    assert list(terms) == ["level_1", "level_2", "level_3"]
    for term, place in zip(terms.values(), (1, 2, 4), strict=True):
        slopes = torch.autograd.grad(term.loss, layers, allow_unused=True, retain_graph=True)
        assert [i for i, slope in enumerate(slopes) if slope is not None] == [place]
    assert layer_at(leaf, 0.01) is layers[1]  # never the embedding


def test_deep_mims_loss_is_the_formulas():
    encoder, batch = deep_vit()
    module: Any = Pretraining(encoder, DeepMIM(**SMALL)).double()
    (seen,) = module.view(batch)
    (encoding,) = module.encode([seen])
    hidden, target = seen.is_target[:, :, 0], by_token(seen.target, seen.is_target)
    expected = 0.0
    for decoder, place in zip(module.objective.decoders, (2, 3, 3, 4), strict=True):
        pred = decoder(encoding.layers[place], encoding.mask, seen.inputs["positions"])
        squares = (pred - target).square().mean(-1)
        expected = expected + (squares * hidden).sum() / hidden.sum()
    torch.testing.assert_close(module(batch).loss, expected, rtol=1e-12, atol=0)


def test_local_mims_levels_predict_their_own_scale():
    encoder, batch = deep_vit()
    scales = (0.5, 1.0, 2.0)
    local = LocalMIM(scales=scales, depths=(0.5, 0.5, 1), **SMALL)
    module: Any = Pretraining(encoder, local).double()
    (seen,) = module.view(batch)
    aims = local.aims(seen)
    assert [aim.shape[-1] for aim, _ in aims] == [108, 27, 27]
    with torch.no_grad():
        for decoder in module.objective.decoders:
            decoder.leave.weight.zero_()
            decoder.leave.bias.zero_()
    # Each channel's histogram is a vector of length 1, but where nothing changes.
    for (name, term), (target, is_target) in zip(module(batch).terms.items(), aims, strict=True):
        expected = target[is_target].square().mean()
        torch.testing.assert_close(term.loss, expected, rtol=1e-12, atol=0, msg=name)
        assert 0.5 / 9 < float(expected) <= 1 / 9 + 1e-9


def test_perfect_predictions_cost_0():
    encoder, batch = deep_vit()
    local: Any = LocalMIM(**SMALL)
    module: Any = Pretraining(encoder, local)
    (seen,) = module.view(batch)
    (encoding,) = module.encode([seen])
    aims = iter(local.aims(seen))
    for decoder in local.decoders:
        decoder.forward = lambda *_: next(aims)[0]
    assert module.score([encoding], [seen], batch).loss.item() == 0.0


def test_what_was_visible_does_not_matter():
    for make in (lambda: LocalMIM(**SMALL), lambda: DeepMIM(**SMALL), lambda: SimMIM()):
        encoder, batch = deep_vit()
        module: Any = Pretraining(encoder, make())
        (seen,) = module.view(batch)
        encodings = module.encode([seen])
        plain = module.score(encodings, [seen], batch).loss
        seen.target = seen.target.masked_fill(~seen.is_target, float("nan"))
        assert torch.equal(module.score(encodings, [seen], batch).loss, plain)


def test_simmim_is_the_mean_distance_over_large_hidden_squares():
    encoder, batch = deep_vit()
    how: dict[str, Any] = {"mask_values.side": 8}
    module: Any = Pretraining(encoder, SimMIM(unit="square", args=how))
    (seen,) = module.view(batch)
    hidden = seen.is_target[:, :, 0].unflatten(1, (2, 2, 2, 2)).transpose(2, 3).flatten(3)
    assert torch.equal(hidden.any(3), hidden.all(3))  # whole squares of 2 x 2 tokens
    assert (hidden.all(3).sum((1, 2)) == 2).all()  # 60 % of four
    (encoding,) = module.encode([seen])
    pred = module.objective.predictor(encoding.tokens)
    expected = (pred - seen.target)[seen.is_target].abs().mean()
    torch.testing.assert_close(module(batch).loss, expected)
    # What is hidden is shown as the mean, 0.
    assert not seen.inputs["patches"][seen.is_target].any()


def test_pictures_are_made_of_the_last_decoder():
    encoder, batch = deep_vit()
    module: Any = Pretraining(encoder, DeepMIM(normalize=False, **SMALL))
    views = module.view(batch)
    encodings = module.encode(views)
    (made,) = module.objective.filled(encodings, views)
    decoder, positions = module.objective.decoders[-1], views[0].inputs["positions"]
    last = decoder(encodings[0].tokens, encodings[0].mask, positions)
    torch.testing.assert_close(made.target, last)
    for method in (LocalMIM(**SMALL), MaskedValues(features="hog")):
        module = Pretraining(encoder, method)
        views = module.view(batch)
        assert method.filled(module.encode(views), views) == [None]


def test_refusals_say_what_to_do():
    with pytest.raises(ValueError, match=r"above 0 and at most 1, but \[0, 1\] came"):
        DeepMIM(depths=(0, 1))
    with pytest.raises(ValueError, match="Each level has a scale and a depth"):
        LocalMIM(scales=(1,))
    with pytest.raises(ValueError, match="between 0 and 1, but 1 came"):
        DeepMIM(ratio=1)
    with pytest.raises(
        ValueError, match="needs view hog, which TinySeries cannot give; its views are"
    ):
        Pretraining(TinySeries(), LocalMIM(**SMALL))
    encoder = tiny_video()
    with pytest.raises(ValueError, match="DeepMIM needs the hidden layers, an encoder that leaves"):
        Pretraining(encoder, DeepMIM(**SMALL))
    with pytest.raises(ValueError, match="Squares of 12 pixels do not divide"):
        method = SimMIM(unit="square", args={"mask_values.side": 12})
        Pretraining(encoder, method).view(make_video(encoder))
    assert Pretraining(TinySeries(), SimMIM())(make_series(TinySeries())).loss.isfinite()
