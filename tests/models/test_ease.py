"""EASE against the ridge regressions that its closed form solves."""

import numpy as np
import pytest

from recsysml.errors import ConfigError
from recsysml.models.ease import Ease
from recsysml.schemas.retrievers import EaseConfig


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("l2", [0.5, 20.0])
def test_each_column_is_the_ridge_regression_of_an_item_on_the_others(draw, lists, seed, l2):
    histories = draw(seed)
    model = Ease(EaseConfig(l2=l2), 12)
    model.fit(histories)
    seen = np.zeros((20, 12))
    for row, items in enumerate(lists(histories)):
        seen[row, items] = 1  # an item met twice counts once
    for item in range(12):
        others = [i for i in range(12) if i != item]
        x = seen[:, others]
        solution = np.linalg.solve(x.T @ x + l2 * np.eye(11), x.T @ seen[:, item])
        assert model.weights[others, item] == pytest.approx(solution, abs=1e-5)
        assert model.weights[item, item] == 0
    assert model.scores(histories) == pytest.approx(seen @ model.weights, abs=1e-5)
    again = Ease(EaseConfig(l2=l2), 12)
    again.restore(model.arrays())
    assert (again.scores(histories) == model.scores(histories)).all()


def test_a_catalogue_too_large_is_refused_with_the_way_out():
    with pytest.raises(ConfigError, match=r"model\.max_items=12 if"):
        Ease(EaseConfig(max_items=5), 12)
