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
