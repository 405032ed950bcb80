"""Sequential neighbours against loops over every pair of positions."""

import numpy as np
import pytest

from recsysml.models.seq_knn import SeqKnn
from recsysml.schemas.retrievers import SeqKnnConfig


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("window", [1, 3, 20])
def test_scores_against_loops(draw, lists, seed, window):
    config = SeqKnnConfig(window=window, decay=0.7, age_decay=0.6, popularity_power=0.5)
    histories = draw(seed)
    model = SeqKnn(config, 12)
    model.fit(histories)
    counts = np.zeros((12, 12))
    events = np.zeros(12)
    for items in lists(histories):
        for i, a in enumerate(items):
            events[a] += 1
            for j in range(i + 1, min(len(items), i + 1 + window)):
                counts[a, items[j]] += 0.7 ** (j - i - 1)
    asked = draw(seed + 10)
    expected = np.zeros((20, 12))
    for row, items in enumerate(lists(asked)):
        for age, a in enumerate(reversed(items)):
            expected[row] += 0.6**age * counts[a]
    expected /= np.sqrt(np.maximum(events, 1))
    assert model.scores(asked) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert (model.scores(asked)[3] == 0).all()  # a user without a history
    again = SeqKnn(config, 12)
    again.restore(model.arrays())
    assert (again.scores(asked) == model.scores(asked)).all()
