"""What items share, against a loop, and clusters of it on a catalogue whose groups are known."""

import numpy as np
import pytest

from recsysml.models.histories import Histories
from recsysml.retrieval.co_occurrence import _cut, co_occurrence, item_clusters


def walks(seed, n_users=60, n_items=40, n_groups=4):
    """Users who stay within one group of items; item 39 never occurs."""
    rng = np.random.default_rng(seed)
    group = rng.integers(n_groups, size=n_items)
    group[:n_groups] = np.arange(n_groups)
    users, items = [], []
    for user in range(n_users):
        own = np.flatnonzero((group == user % n_groups) & (np.arange(n_items) < 39))
        taken = rng.choice(own, 12)
        users += [user] * len(taken)
        items += taken.tolist()
    events = np.array(users), np.array(items), np.arange(len(users), dtype=float)
    return Histories.of_events(*events, np.arange(n_users)), group


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("window", [1, 4])
def test_counts_are_those_of_a_loop_over_pairs(seed, window):
    histories, _ = walks(seed, n_users=7)
    expected = np.zeros((40, 40))
    for user in range(7):
        items = histories.part(user, user + 1).items
        for a in range(len(items)):
            for b in range(a + 1, min(len(items), a + window + 1)):
                if items[a] != items[b]:
                    expected[items[a], items[b]] += 1 / (b - a)
                    expected[items[b], items[a]] += 1 / (b - a)
    assert co_occurrence(histories, 40, window).toarray() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_items_of_one_group_share_clusters_and_the_seed_decides(seed):
    histories, group = walks(seed)
    found = item_clusters(histories, 40, 8, seed=seed)
    assert found.shape == (40,)
    assert np.array_equal(found, item_clusters(histories, 40, 8, seed=seed))
    for cluster in np.unique(found[:39]):  # no cluster mixes groups; the item nobody met may be anywhere
        members = np.flatnonzero(found[:39] == cluster)
        assert len(set(group[members])) == 1
    assert np.bincount(found).max() <= 10


def test_a_cluster_that_is_too_large_is_cut_into_even_parts():
    rng = np.random.default_rng(0)
    assignment = np.array([0] * 17 + [1] * 3)
    found = _cut(assignment, rng.normal(size=(20, 4)), largest=6)
    assert sorted(np.bincount(found)) == [3, 5, 6, 6]
    assert (found[17:] == 1).all()


def test_no_history_at_all_still_has_clusters():
    nobody = np.array([], np.int64)
    histories = Histories.of_events(nobody, nobody, np.array([]), np.arange(2))
    assert item_clusters(histories, 9, 3, seed=0).shape == (9,)
    assert item_clusters(histories, 1, 3, seed=0).tolist() == [0]
