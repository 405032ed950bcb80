"""Top-k lists of given scores against a stable sort in plain Python."""

import numpy as np
import pytest

from recsysml.models.top_k import CHUNK, top_k


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("n_items", "k"), [(10, 1), (10, 7), (10, 13), (700, 5), (703, 20), (40 * CHUNK, 20)])
def test_it_is_a_stable_sort(seed, n_items, k):
    """Few items, and so many that chunks are gone through; few values, so that most scores are tied."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(-2, 3 if seed % 2 else 40, (6, n_items)).astype(np.float32)
    scores[1] = rng.normal(size=n_items)
    scores[2, 3:] = -np.inf
    scores[3] = -np.inf
    scores[4] = 0
    scores[4, ::2] = -0.0  # as good as the others
    items, values = top_k(scores, k)
    for row in range(6):
        order = sorted(range(n_items), key=lambda i: (-scores[row, i], i))
        order = [i for i in order if scores[row, i] > -np.inf][:k]
        missing = k - len(order)
        assert items[row].tolist() == order + [-1] * missing
        assert values[row].tolist() == [*scores[row, order].tolist(), *[-np.inf] * missing]


def test_nobody_is_answered_too():
    items, values = top_k(np.zeros((0, 50), np.float32), 3)
    assert items.shape == values.shape == (0, 3)


@pytest.mark.parametrize("best", [0, CHUNK - 1, CHUNK, 695, 702])
@pytest.mark.parametrize("k", [1, 4])
def test_the_best_may_stand_anywhere(best, k):
    """Also in the last chunk, which is short, and as its last item."""
    scores = np.random.default_rng(best).random((3, 703)).astype(np.float32)
    scores[:, best] = 9, 2, np.inf
    items, values = top_k(scores, k)
    for row in range(3):
        order = sorted(range(703), key=lambda i: -scores[row, i])[:k]
        assert items[row].tolist() == order
        assert order[0] == best
        assert values[row].tolist() == scores[row, order].tolist()


def test_scores_may_lie_in_memory_as_they_like():
    scores = np.random.default_rng(0).random((1_400, 6))  # of doubles
    plain = top_k(scores[::-2].T.copy(), 5)
    for strided in (scores[::-2].T, scores.astype(np.float32)[::-2].T):
        assert all((a == b).all() for a, b in zip(top_k(strided, 5), plain, strict=True))
