"""Histories, and what is recommended for them, against plain Python."""

import numpy as np
import pytest

from recsysml.models.histories import Histories
from recsysml.models.retriever import recommend


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_the_events_of_the_users_asked_for_in_the_order_they_came(lists, seed):
    rng = np.random.default_rng(seed)
    users, items, times = rng.integers(0, 9, 60), rng.integers(0, 50, 60), np.arange(60.0)
    rows = rng.permutation(12)[:7]  # among them users without an event
    found = Histories.of_events(users, items, times, rows)
    expected = [[int(i) for u, i in zip(users, items, strict=True) if u == row] for row in rows]
    assert lists(found) == expected
    assert found.lengths.tolist() == [len(row) for row in expected]
    assert found.items[found.owners == 2].tolist() == expected[2]
    assert lists(found.part(2, 5)) == expected[2:5]
    for n in (1, 3, 70):
        padded = [(row[-n:] + [-7] * n)[:n] for row in expected]
        assert found.last(n, -7).tolist() == padded
    matrix = found.matrix(50).toarray()
    assert all(matrix[r].tolist() == [row.count(i) for i in range(50)] for r, row in enumerate(expected))


def test_users_without_any_event(lists):
    nobody = np.array([], np.int64)
    empty = Histories.of_events(nobody, nobody, np.array([]), np.arange(2))
    assert lists(empty) == [[], []]
    assert empty.last(3, 9).tolist() == [[9, 9, 9]] * 2
    assert empty.matrix(4).toarray().sum() == 0


def test_recommend_leaves_out_what_was_seen(draw, lists):
    class Constant:
        n_items = 12

        def scores(self, histories):
            return np.broadcast_to(np.arange(12, dtype=np.float32), (len(histories), 12))

    histories = draw()
    items, _ = recommend(Constant(), histories, 5)
    for row, seen in zip(items.tolist(), lists(histories), strict=True):
        assert row == [i for i in range(11, -1, -1) if i not in seen][:5]
    assert recommend(Constant(), histories, 5, mask_seen=False)[0].tolist() == [[11, 10, 9, 8, 7]] * 20
