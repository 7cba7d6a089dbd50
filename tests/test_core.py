from typing import Any

import pytest
import torch

from unlabel.core import View, cat_views, over_time, stream_of, uniform, view


def test_a_sample_draws_the_same_numbers_in_any_batch():
    ordinal = torch.tensor([7, 100, 3])
    alone = uniform(5, ordinal[1:2], stream_of("cut"), 16)
    together = uniform(5, ordinal, stream_of("cut"), 16)
    assert torch.equal(alone[0], together[1])


def test_a_longer_draw_begins_with_the_shorter_one():
    ordinal = torch.arange(4)
    assert torch.equal(uniform(0, ordinal, 1, 40)[:, :8], uniform(0, ordinal, 1, 8))


def test_draws_are_uniform_and_independent_across_samples_streams_seeds_and_columns():
    ordinal = torch.arange(20_000)
    base = uniform(1, ordinal, stream_of("a"), 4)
    counts = torch.histc(base, bins=20, min=0, max=1)
    assert ((counts - 4_000).abs() < 300).all()
    others = [uniform(2, ordinal, stream_of("a"), 4), uniform(1, ordinal, stream_of("b"), 4)]
    pairs = [(base[:, 0], base[:, 1]), (base[:-1, 0], base[1:, 0])]
    pairs += [(base[:, 0], other[:, 0]) for other in others]
    for x, y in pairs:
        assert torch.corrcoef(torch.stack([x, y]))[0, 1].abs() < 0.03
    assert 0 <= base.min() and base.max() < 1


def test_cat_views_of_different_lengths_keeps_what_a_view_did_not_cut():
    long = View({"input_ids": torch.ones(2, 5, dtype=torch.long)}, torch.ones(2, 5).bool())
    short = View(
        {"input_ids": torch.ones(1, 3, dtype=torch.long)},
        torch.ones(1, 3).bool(),
        keep_positions=torch.tensor([[True, False, True]]),
        keep_features=torch.zeros(1, 4).bool(),
    )
    both = cat_views([long, short])
    assert both.keep_positions is not None and both.keep_features is not None
    assert both.mask.sum(1).tolist() == [5, 5, 3]
    assert both.keep_positions[:2].all() and both.keep_features[:2].all()
    assert both.keep_positions[2].tolist() == [True, False, True, False, False]


def test_a_chain_of_views_gives_each_part_its_own_arguments_and_stream():
    args: dict[str, Any] = {"jitter.sigma": 0.1, "crop.ratio": 0.5}
    parts = view("jitter+crop", 1, **args).parts()
    assert [(p.name, dict(p.args)) for p in parts] == [
        ("jitter", {"sigma": 0.1}),
        ("crop", {"ratio": 0.5}),
    ]
    assert parts[0].stream != parts[1].stream
    assert view("plain", 0).parts() == [view("plain", 0)]
    with pytest.raises(ValueError, match=r"write jitter\.sigma"):
        view("jitter+crop", sigma=0.1).parts()


def test_targets_of_another_length_than_the_view_join_by_their_own():
    views = [
        View({"x": torch.zeros(2, n)}, torch.ones(2, n, dtype=torch.bool), target=torch.ones(2, m))
        for n, m in ((3, 5), (4, 2))
    ]
    joined = cat_views(views)
    assert joined.mask.shape == (4, 4)
    assert joined.target is not None and joined.target.shape == (4, 5)


def test_a_view_without_weights_counts_once_beside_one_with_weights():
    plain, weighed = (
        View({"x": torch.zeros(2, 3)}, torch.ones(2, 3, dtype=torch.bool), weight=weight)
        for weight in (None, torch.full((2, 1, 2), 4.0))
    )
    joined = cat_views([plain, weighed])
    assert joined.weight is not None
    assert joined.weight[:, 0, 0].tolist() == [1.0, 1.0, 4.0, 4.0]
    assert cat_views([plain, plain]).weight is None


def test_over_time_is_the_mean_over_the_real_tokens_of_each_time():
    tokens = torch.arange(12.0).view(1, 6, 2)
    mask = torch.tensor([[True, True, True, False, False, False]])
    times, real = over_time(tokens, mask, (3, 1, 2))
    torch.testing.assert_close(times, torch.tensor([[[1.0, 2.0], [4.0, 5.0], [0.0, 0.0]]]))
    assert real.tolist() == [[True, True, False]]


def test_over_time_leaves_a_sequence_as_it_is():
    tokens, mask = torch.randn(2, 5, 3), torch.ones(2, 5, dtype=torch.bool)
    assert over_time(tokens, mask, (5,))[0] is tokens


def test_joining_views_lengthens_what_runs_along_the_positions_alone():
    def made(length: int) -> View:
        inputs = {"ids": torch.ones(2, length), "static": torch.ones(2, 3)}
        return View(inputs, torch.ones(2, length, dtype=torch.bool))

    joined = cat_views([made(4), made(6)])
    assert joined.inputs["ids"].shape == (4, 6) and joined.inputs["static"].shape == (4, 3)
    assert not joined.mask[:2, 4:].any()
