"""BPR by `implicit`: it ranks what it was made to learn, repeats itself, and answers users it has not met."""

import numpy as np
import pytest

pytest.importorskip("implicit", reason="the extra `implicit` is not installed")

from recsysml.models.bpr import Bpr
from recsysml.models.histories import Histories
from recsysml.schemas.retrievers import BprConfig


def halves(seed, n_users=40):
    """Even users turn to items 0 .. 9, odd ones to 10 .. 19, six of ten each; the last user to nothing."""
    rng = np.random.default_rng(seed)
    items = [rng.choice(10, 6, replace=False) + 10 * (user % 2) for user in range(n_users - 1)]
    users = np.repeat(np.arange(n_users - 1), 6)
    return Histories.of_events(users, np.concatenate(items), np.arange(len(users), dtype=float), np.arange(n_users))


def fitted(histories, **settings):
    model = Bpr(BprConfig(factors=8, iterations=60, lr=0.05, **settings), 20)
    model.fit(histories)
    return model


@pytest.mark.parametrize("seed", range(2))
def test_each_users_own_half_stands_above_the_other(seed):
    histories = halves(seed)
    scores = fitted(histories).scores(histories)[:39]
    own = np.arange(20)[None] // 10 == (np.arange(39) % 2)[:, None]
    unmet = scores.copy()
    unmet[histories.owners, histories.items] = np.nan  # what was not learnt from is what is predicted
    assert (np.nanmin(np.where(own, unmet, np.nan), 1) > np.nanmax(np.where(own, np.nan, unmet), 1)).mean() > 0.9


def test_a_seed_says_everything_and_a_checkpoint_keeps_it():
    histories = halves(0)
    first, second, other = fitted(histories, seed=3), fitted(histories, seed=3), fitted(histories, seed=4)
    assert (first.users == second.users).all()
    assert (first.items == second.items).all()
    assert (first.items != other.items).any()
    again = Bpr(BprConfig(factors=8), 20)
    again.restore(first.arrays())
    assert (again.scores(histories) == first.scores(histories)).all()


def test_users_it_has_not_met_are_their_histories_mean_and_without_one_the_biases():
    histories = halves(0)
    model = fitted(histories)
    new = Histories(np.array([-1, -1, 39]), np.array([0, 3, 3, 3]), np.array([1, 2, 2]), np.arange(3.0))
    scores = model.scores(new)
    vector = (model.items[1] + 2 * model.items[2]) / 3
    assert scores[0] == pytest.approx(model.items[:, :-1] @ vector[:-1] + model.items[:, -1], rel=1e-4, abs=1e-5)
    assert scores[0, :10].mean() > scores[0, 10:].mean()
    assert scores[1] == pytest.approx(model.items[:, -1])
    assert (scores[2] == scores[1]).all()  # in the data, but without an event to learn from
