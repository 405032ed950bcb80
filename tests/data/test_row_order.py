"""The rows of training batches: each once an epoch, the same whoever asks, divided among processes."""

import numpy as np
import pytest

from recsysml.data.row_order import RowOrder


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_row_once_an_epoch_and_no_state_but_the_number(seed):
    order = RowOrder(100, 32, seed)
    rows = np.concatenate([order(i) for i in range(25)])  # 800: eight epochs
    assert (np.sort(rows.reshape(8, 100), axis=1) == np.arange(100)).all()
    assert not (rows[:100] == rows[100:200]).all()
    assert (RowOrder(100, 32, seed)(17) == order(17)).all()
    assert (RowOrder(100, 32, seed + 1)(17) != order(17)).any()


def test_processes_share_a_batch():
    whole = RowOrder(50, 16, 3)
    parts = [RowOrder(50, 16, 3, rank, 2) for rank in range(2)]
    for i in range(5):
        assert (np.stack([part(i) for part in parts], axis=1).ravel() == whole(i)).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_so_many_rows_of_a_group_stay_side_by_side_and_no_more(seed):
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(6), [1, 3, 8, 9, 20, 59]))
    order = RowOrder(100, 100, seed, groups=groups, run=8)
    epochs = [order(i) for i in range(200)]
    first_of_last = np.flatnonzero(groups == 5)[0]
    together = 0
    for epoch in epochs:
        assert (np.sort(epoch) == np.arange(100)).all()
        runs = np.split(epoch, np.flatnonzero(np.diff(groups[epoch])) + 1)
        lengths = {group: sorted(len(run) for run in runs if groups[run[0]] == group) for group in range(4)}
        assert lengths[0] == [1]
        assert lengths[1] == [3]
        assert lengths[2] == [8]
        assert lengths[3] in ([1, 8], [9])  # the two runs of it may meet
        place = int(np.flatnonzero(epoch == first_of_last)[0])
        together += groups[epoch[(place + 1) % 100]] == 5
    assert not (epochs[0] == epochs[1]).all()
    # one of 59 stands at the end of a run in 8 of 59 epochs or so, and even then another run may follow
    assert together > 150
    # runs are drawn anew: which rows stand beside the first of the largest group
    beside = {int(epoch[np.flatnonzero(epoch == first_of_last)[0] - 1]) for epoch in epochs}
    assert len(beside) > 30


def test_runs_of_one_are_any_order():
    groups = np.repeat(np.arange(2), 500)
    order = RowOrder(1000, 1000, 1, groups=groups, run=1)
    changes = np.mean([(np.diff(groups[order(i)]) != 0).mean() for i in range(20)])
    assert abs(changes - 0.5) < 0.02  # of neighbours drawn at random half are of two groups
