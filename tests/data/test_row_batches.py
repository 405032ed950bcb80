"""Batches of rows against what they are cut from."""

import numpy as np
import pytest

from recsysml.data.interaction_data import InteractionSplit, by_user
from recsysml.data.row_batches import PairBatches, RowBatches
from recsysml.errors import DataError


def events(n=200, users=7, seed=0):
    random = np.random.default_rng(seed)
    times = np.sort(random.integers(0, 50, n)).astype(np.float64)
    return InteractionSplit(random.integers(users, size=n), random.integers(30, size=n), times)


@pytest.mark.parametrize(("n", "batch_size"), [(10, 3), (10, 10), (7, 16), (1, 5), (64, 8)])
def test_an_epoch_visits_every_row_once_in_an_order_of_its_own(n, batch_size):
    values = np.arange(n) * 10
    batches = RowBatches([values, np.stack([values, -values], axis=1)], batch_size, seed=3)
    taken = [batches[i] for i in range(4 * batches.batches_per_epoch)]
    assert all(a.shape == (batch_size,) and b.shape == (batch_size, 2) for a, b in taken)
    assert all((b[:, 0] == a).all() and (b[:, 1] == -a).all() for a, b in taken)
    seen = np.concatenate([a.numpy() for a, _ in taken])
    epochs = [seen[start : start + n] for start in range(0, len(seen) - n + 1, n)]
    assert all(np.array_equal(np.sort(epoch), values) for epoch in epochs)
    if n > 5:
        assert not np.array_equal(epochs[0], epochs[1])
        assert not np.array_equal(seen[:batch_size], RowBatches([values], batch_size, seed=4)[0][0].numpy())


def test_a_position_is_one_number():
    batches = RowBatches([np.arange(50)], 8, seed=1)
    forward = [batches[i][0] for i in range(20)]
    fresh = RowBatches([np.arange(50)], 8, seed=1)
    assert all((fresh[i][0] == forward[i]).all() for i in (19, 3, 7))


def test_processes_share_a_batch():
    whole = PairBatches(by_user(events(), 7), length=5, padding=30, batch_size=12, seed=1)
    parts = [
        PairBatches(by_user(events(), 7), length=5, padding=30, batch_size=12, seed=1, rank=r, world_size=3)
        for r in range(3)
    ]
    for i in (0, 16, 40):
        for rank, part in enumerate(parts):
            assert all((mine == all_[rank::3]).all() for mine, all_ in zip(part[i], whole[i], strict=True))


@pytest.mark.parametrize("length", [1, 4, 60])
def test_a_history_is_what_the_user_did_before(length):
    split = events()
    batches = PairBatches(by_user(split, 9), length=length, padding=30, batch_size=50, seed=2)
    expected, so_far = [], {user: [] for user in range(9)}
    for user, item in zip(split.users.tolist(), split.items.tolist(), strict=True):
        known = so_far[user][-length:]
        expected.append((user, item, (*known, *[30] * (length - len(known)))))
        so_far[user].append(item)
    found = []
    for i in range(batches.batches_per_epoch):
        users, items, histories = (tensor.tolist() for tensor in batches[i])
        found += [(u, item, tuple(history)) for u, item, history in zip(users, items, histories, strict=True)]
    assert sorted(found) == sorted(expected)


def test_no_rows_is_said():
    with pytest.raises(DataError, match="no rows"):
        RowBatches([np.zeros(0)], 4, seed=1)
