"""ALS by `implicit` against the normal equations it solves."""

import numpy as np
import pytest

pytest.importorskip("implicit", reason="the extra `implicit` is not installed")

from recsysml.models.als import Als
from recsysml.models.histories import Histories
from recsysml.schemas.retrievers import AlsConfig


def objective(seen, users, items, alpha, l2):
    """Hu, Koren & Volinsky 2008, eq. 3, with the confidence of an unmet pair 1 and of a met one alpha x events."""
    confidence = np.where(seen > 0, alpha * seen, 1.0)
    squares = confidence * np.square((seen > 0) - users @ items.T)
    return squares.sum() + l2 * (np.square(users).sum() + np.square(items).sum())


def solved(seen, items, alpha, l2):
    """(R, C) users, one system of equations each (eq. 4)."""
    found = []
    for row in seen:
        confidence = np.where(row > 0, alpha * row, 1.0)
        left = items.T @ (confidence[:, None] * items) + l2 * np.eye(items.shape[1])
        found.append(np.linalg.solve(left, items.T @ (confidence * (row > 0))))
    return np.array(found)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("alpha", [2.0, 15.0])
def test_users_are_the_solution_of_their_normal_equations(draw, seed, alpha):
    histories = draw(seed)
    model = Als(AlsConfig(factors=4, alpha=alpha, l2=0.5), 12)
    model.fit(histories)
    seen = histories.matrix(12).toarray().astype(np.float64)
    items = model.arrays()["items"].astype(np.float64)
    users = solved(seen, items, alpha, 0.5)
    assert model.scores(histories) == pytest.approx(users @ items.T, abs=2e-3)
    fewer = Als(AlsConfig(factors=4, alpha=alpha, l2=0.5, iterations=1), 12)
    fewer.fit(histories)
    early = fewer.arrays()["items"].astype(np.float64)
    worse = objective(seen, solved(seen, early, alpha, 0.5), early, alpha, 0.5)
    assert objective(seen, users, items, alpha, 0.5) < worse


def test_a_seed_says_everything_and_new_users_are_rows_like_any_other(draw):
    histories = draw(0)
    first, second = (Als(AlsConfig(factors=4, seed=5), 12) for _ in range(2))
    first.fit(histories)
    second.fit(histories)
    assert (first.arrays()["items"] == second.arrays()["items"]).all()
    again = Als(AlsConfig(factors=4), 12)
    again.restore(first.arrays())
    part = histories.part(4, 6)
    unmet = Histories(np.full(2, -1), part.offsets, part.items, part.times)
    assert again.scores(unmet) == pytest.approx(first.scores(histories)[4:6], abs=1e-5)
    nobody = Histories(np.array([-1]), np.array([0, 0]), np.array([], np.int64), np.array([]))
    assert (again.scores(nobody) == 0).all()
