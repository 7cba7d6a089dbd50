"""Clusters: fitted in step alone, carried by the state, and even where nothing is told apart."""

import pytest
import torch

from unlabel.objectives.clusters import Clusters
from unlabel.objectives.state import Clock, Tally


def groups(rows: int = 60, count: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    own = torch.arange(rows) % count
    noise = torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed))
    return torch.eye(3)[own, :2] * 10 + 0.1 * noise, own


def test_rows_of_one_group_share_a_cluster_and_groups_do_not():
    clusters = Clusters(3, 2)
    rows, own = groups()
    clusters.put(rows)
    clusters.step()
    found = clusters.assign(rows)
    assert torch.equal(found.sum(1), torch.ones(60)) and found.max(1).values.min() == 1
    names = [set(found.argmax(1)[own == k].tolist()) for k in range(3)]
    assert all(len(n) == 1 for n in names) and len(set.union(*names)) == 3


def test_until_the_first_fit_and_for_equal_rows_clusters_share_alike():
    clusters = Clusters(4, 2)
    rows = torch.randn(8, 2)
    even = torch.full((8, 4), 0.25)
    assert torch.equal(clusters.assign(rows), even)
    clusters.put(torch.full((8, 2), 3.0))
    clusters.step()
    assert torch.equal(clusters.assign(torch.full((8, 2), 3.0)), even)


def test_centres_move_in_step_alone_and_only_when_it_is_time():
    clusters = Clusters(3, 2, every=3, until=6)
    rows, _ = groups()
    seen = []
    for step in range(1, 10):
        clusters.put(rows + step)
        before = clusters.centres.clone()
        clusters.assign(rows)
        assert torch.equal(clusters.centres, before)
        clusters.step()
        clusters.step()
        if not torch.equal(clusters.centres, before):
            seen.append(step)
    assert seen == [1, 3, 6] and clusters.steps == 9


def test_too_few_rows_wait_for_more():
    clusters = Clusters(5, 2, every=100)
    for rows in (3, 3):
        assert not clusters.centres.any()
        clusters.put(torch.randn(rows, 2, generator=torch.Generator().manual_seed(rows)))
        clusters.step()
    assert clusters.centres.any() and clusters.fits == 1


def test_a_cluster_keeps_its_number_from_fit_to_fit():
    clusters = Clusters(3, 2)
    rows, _ = groups()
    names = []
    for seed in range(4):
        clusters.put(groups(seed=seed)[0])
        clusters.step()
        names.append(clusters.assign(rows).argmax(1))
    assert all(torch.equal(n, names[0]) for n in names)


def test_memory_holds_the_latest_rows():
    clusters = Clusters(2, 1, memory=4)
    for start in (0.0, 3.0, 6.0):
        clusters.put(start + torch.arange(3.0)[:, None])
        clusters.step()
    assert sorted(clusters.rows[:, 0].tolist()) == [5.0, 6.0, 7.0, 8.0]


def test_state_goes_on_where_it_stopped():
    one, other = Clusters(3, 2, every=2), Clusters(3, 2, every=2)
    one.put(groups()[0])
    one.step()
    other.load_state_dict(one.state_dict())
    for clusters in (one, other):
        clusters.put(groups(seed=5)[0] * 2)
        clusters.step()
    assert torch.equal(one.centres, other.centres) and one.steps == other.steps == 2


def test_a_tally_counts_in_step_and_starts_even():
    tally = Tally(4)
    assert torch.equal(tally.shares(), torch.full((4,), 0.25).double())
    tally.put(torch.tensor([1.0, 0.0, 0.0, 3.0]))
    assert not tally.total.any()
    tally.step()
    tally.step()
    assert tally.shares().tolist() == pytest.approx([0.25, 0.0, 0.0, 0.75])


def test_a_clock_counts_steps():
    clock = Clock()
    clock.step()
    clock.step()
    assert clock.steps == 2 and "steps" in clock.state_dict()
