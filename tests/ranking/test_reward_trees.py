"""Boosted trees of a reward, beside closed forms on logs whose law is known."""

import numpy as np
import pytest

from recsysml.data.slate_batches import ShownItems
from recsysml.data.slates import LOGGED, LoggedSlates, split_by_time
from recsysml.ranking.reward_trees import RewardTrees, _slate

REWARDS = {"click": 2.0}


def log_of(pairs, mask, candidates, probability, seed, places=1):
    """Requests without a context or item features: `places` candidates shown at random, clicked by `probability`."""
    random = np.random.default_rng(seed)
    requests = len(mask)
    slate = np.where(mask, random.random(mask.shape), -1).argsort(axis=1)[:, ::-1][:, :places]
    clicked = random.random(slate.shape) < np.take_along_axis(probability, slate, axis=1)
    actions = clicked[..., None].astype(np.float32)
    items = int(candidates.max()) + 1
    return LoggedSlates(
        "made", [], split_by_time(requests, 0.1, 0.1, "made"), np.zeros(requests, np.int64),
        np.arange(requests, dtype=float), np.zeros((requests, 1), np.float32), np.zeros((items, 1), np.float32),
        [str(item) for item in range(items)], candidates, mask, pairs.astype(np.float32), ["nothing"], ["nothing"],
        [f"x{place}" for place in range(pairs.shape[2])], slate[:, 0], 1 / mask.sum(axis=1), LOGGED, actions[:, 0],
        {"click": "binary"}, dict(REWARDS), slate=slate, slate_propensity=np.full(slate.shape, 0.1),
        slate_actions=actions,
    )  # fmt: skip


def fitted(log, seed, most=100):
    """What is learnt from, and what is then predicted of all requests."""
    shown = ShownItems(log, list(REWARDS))
    own = shown.within(log.fitted)
    predict = RewardTrees(shown, REWARDS, most).fit(own, shown.within(log.bounds["val"]), seed)
    return shown, own, predict(np.arange(len(log)))


@pytest.mark.parametrize("seed", [1, 2])
def test_what_competes_is_described_over_the_candidates_there_are(seed):
    random = np.random.default_rng(seed)
    mask = random.random((50, 7)) < 0.6
    mask[:, 0] = True
    pairs = random.normal(size=(50, 7, 2))
    log = log_of(pairs, mask, random.integers(0, 9, mask.shape), np.full(mask.shape, 0.5), seed)
    for found, by_hand in zip(_slate(log), (np.mean, np.std, np.max), strict=True):
        expected = [by_hand(pairs[row][mask[row]], axis=0) for row in range(50)]
        assert np.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_differences_within_a_slate_are_learnt_where_those_between_slates_hide_them(seed):
    """x is a request's own number plus a candidate's; a reward rises with the second and falls with the first, so that
    x alone says nothing of it. By what it competes with it does."""
    random = np.random.default_rng(seed)
    own, common = random.normal(size=(4000, 8)), random.normal(size=(4000, 1))
    mask = np.ones(own.shape, bool)
    probability = 1 / (1 + np.exp(-1.5 * (own - common)))
    x = (own + common)[..., None]
    assert abs(np.corrcoef(x.ravel(), probability.ravel())[0, 1]) < 0.03
    candidates = np.broadcast_to(np.arange(8), own.shape)
    _, _, found = fitted(log_of(x, mask, candidates, probability, seed), seed)
    held_out = slice(3600, None)

    def within(values):
        return (values - values.mean(axis=1, keepdims=True))[held_out].ravel()

    assert np.corrcoef(within(found), within(probability))[0, 1] > 0.8
    assert within(found).std() > 0.7 * within(2 * probability).std()  # so much takes more trees than the first


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_item_that_nothing_tells_from_others_brings_its_own_shrunk_mean(seed):
    """No feature varies, so the trees are the mean, and the rest is in closed form: sum of residuals over shown + 100,
    less what the place brings. An item that was never shown brings nothing of its own."""
    random = np.random.default_rng(seed)
    shape = (2000, 6)
    candidates = np.argsort(random.random((2000, 12)), axis=1)[:, :6]
    candidates[: int(0.8 * 2000)][candidates[: int(0.8 * 2000)] == 11] = 10  # number 11 comes only later
    probability = np.linspace(0.1, 0.9, 12)[candidates] * 0.9
    log = log_of(np.zeros((*shape, 1)), np.ones(shape, bool), candidates, probability, seed, places=2)
    log.slate_actions[:, 1] *= 0  # below the top nothing is clicked
    shown, own, found = fitted(log, seed, most=1)
    item = log.candidates[shown.rows[own], shown.columns[own]]
    reward, place = 2.0 * shown.actions[own, 0], shown.places[own]
    residual = np.where(place == 0, reward - reward[place == 0].mean(), 0.0)
    expected = np.array([residual[item == each].sum() / ((item == each).sum() + 100) for each in range(12)])
    assert expected[11] == 0 and np.ptp(expected) > 0.2
    top = found[0, 0] - expected[candidates[0, 0]]
    assert np.allclose(found, top + expected[candidates], atol=1e-6)


@pytest.mark.parametrize("seed", [1, 2])
def test_what_a_feature_says_of_an_item_is_not_said_twice(seed):
    """x alone says what an item brings, so that nothing is left for the item itself."""
    random = np.random.default_rng(seed)
    candidates = np.argsort(random.random((6000, 12)), axis=1)[:, :4]
    probability = np.array([0.1, 0.5, 0.9])[candidates % 3]
    log = log_of((candidates % 3)[..., None], np.ones(candidates.shape, bool), candidates, probability, seed)
    _, _, found = fitted(log, seed)
    missed = np.bincount(candidates.ravel(), (found - 2 * probability).ravel()) / np.bincount(candidates.ravel())
    assert np.abs(missed).max() < 0.12


def test_a_candidate_is_described_by_all_that_is_known_of_it():
    random = np.random.default_rng(3)
    candidates = np.argsort(random.random((40, 9)), axis=1)[:, :5]
    log = log_of(random.normal(size=(40, 5, 2)), np.ones((40, 5), bool), candidates, np.full((40, 5), 0.5), 3)
    log.contexts[:], log.items[:] = random.normal(size=log.contexts.shape), random.normal(size=log.items.shape)
    trees = RewardTrees(ShownItems(log, list(REWARDS)), REWARDS, 1)
    rows, columns, places = np.array([7, 30]), np.array([4, 0]), np.array([0, 2])
    for row, column, place, found in zip(rows, columns, places, trees._features(rows, columns, places), strict=True):
        pairs = log.pairs[row]
        expected = [log.contexts[row], log.items[candidates[row, column]], pairs[column]]
        expected += [pairs[column] - pairs.mean(axis=0), pairs.mean(axis=0), pairs.std(axis=0)]
        expected += [pairs.max(axis=0) - pairs[column], [place]]
        assert np.allclose(found, np.concatenate(expected), atol=1e-5)
