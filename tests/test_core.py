import torch

from unlabel.core import View, cat_views, stream_of, uniform


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
