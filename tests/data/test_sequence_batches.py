"""Windows over sequences: each event a target once an epoch, after the items that came before it."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from recsysml.data.sequence_batches import SequenceBatches
from recsysml.errors import DataError

N_ITEMS = 1000


def made(lengths=(3, 0, 17, 8, 1, 35), *, length=8, batch_size=4, seed=0, **more):
    """Row r's items are 100 r + 0, 1, 2, ...: an item says whose it is and where it stands."""
    items = np.concatenate([100 * row + np.arange(n) for row, n in enumerate(lengths)]).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    users = 70 + np.arange(len(lengths))
    return SequenceBatches(
        offsets, items, users, n_items=N_ITEMS, length=length, batch_size=batch_size, seed=seed, **more
    )


def check(inputs, targets, users):
    for row, goals, user in zip(inputs.tolist(), targets.tolist(), users.tolist(), strict=True):
        real = [goal for goal in goals if goal != -100]
        assert real
        assert goals == real + [-100] * (len(goals) - len(real))
        for given, goal in zip(row, real, strict=False):
            assert user == 70 + goal // 100
            assert given == (goal - 1 if goal % 100 else N_ITEMS)
        assert set(row[len(real) :]) <= {N_ITEMS}
    return [goal for goals in targets.tolist() for goal in goals if goal != -100]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("length", [1, 5, 8, 64])
def test_every_event_is_a_target_once_an_epoch(seed, length):
    batches = made(length=length, seed=seed, batch_size=1)
    for epoch in range(3):
        span = range(epoch * batches.batches_per_epoch, (epoch + 1) * batches.batches_per_epoch)
        seen = [goal for i in span for goal in check(*batches[i])]
        assert sorted(seen) == sorted(batches.items.tolist())


def test_windows_begin_elsewhere_in_another_epoch_and_batches_run_on_over_its_end():
    batches = made(batch_size=4)
    seen = [goal for i in range(3 * len(batches.window_rows)) for goal in check(*batches[i])]
    assert np.bincount(seen)[batches.items].tolist() == [12] * len(batches.items)
    firsts = {int(targets[row, 0]) for i in range(40) for _, targets, _ in [batches[i]] for row in range(4)}
    assert len([goal for goal in firsts if goal // 100 == 5]) > 5  # 35 events, windows of 8


def test_a_batch_is_a_function_of_seed_and_number():
    same, other = made(), made(seed=1)
    for i in (0, 7, 100):
        assert all(torch.equal(a, b) for a, b in zip(made()[i], same[i], strict=True))
    assert not torch.equal(other[3][1], same[3][1])


def test_batches_of_several_threads_are_the_same():
    shared, alone = made(), made()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(shared.__getitem__, range(200)))
    for i, batch in enumerate(found):
        assert all(torch.equal(a, b) for a, b in zip(batch, alone[i], strict=True))


def test_processes_share_a_batch():
    whole = made()
    parts = [made(rank=rank, world_size=2) for rank in range(2)]
    for i in (0, 5):
        shared = [part[i] for part in parts]
        for number in range(3):
            assert torch.equal(whole[i][number][0::2], shared[0][number])
            assert torch.equal(whole[i][number][1::2], shared[1][number])


def test_no_events_is_an_error():
    with pytest.raises(DataError, match="no events"):
        made(lengths=(0, 0))


def test_times_are_those_of_the_targets():
    items = made().items
    batches = made(times=items * 2.0)
    for i in range(4):
        *plain, times = batches[i]
        assert all(torch.equal(a, b) for a, b in zip(plain, made()[i], strict=True))
        real = plain[1] >= 0
        assert torch.equal(times[real], plain[1][real] * 2.0)
