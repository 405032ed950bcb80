"""Cross-fitted reward models: what they learn, what they never see, and what they do for the doubly robust estimate."""

import math

import numpy as np
import pytest

from recsysml.metrics import policy as ope
from recsysml.ranking import reward_model


def cross_fit(features, *rest, **how):
    return reward_model.cross_fit(lambda rows: features[rows], *rest, **how)


def log(seed, n=1200, items=6, width=4, noise=0.3):
    """Requests whose rewards are linear in the features of what was shown, and the true mean of every candidate."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, items, width)).astype(np.float32)
    mask = rng.random((n, items)) < 0.8
    mask[:, 0] = True
    truth = features @ np.array([0.5, -0.3, 0.2, 0.0]) + 1
    logging = np.where(mask, np.exp(0.5 * rng.normal(size=mask.shape)), 0)
    logging /= logging.sum(axis=1, keepdims=True)
    shown = (rng.random((n, 1)) >= np.cumsum(logging, axis=1)).sum(axis=1).clip(max=items - 1)
    shown = np.where(mask[np.arange(n), shown], shown, 0)
    reward = truth[np.arange(n), shown] + rng.normal(0, noise, n)
    return features, mask, shown, reward, truth


def test_it_finds_the_reward_of_items_that_were_not_shown():
    features, mask, shown, reward, truth = log(0)
    predicted = cross_fit(features, mask, shown, reward)
    rows = np.arange(len(shown))
    others = mask.copy()
    others[rows, shown] = False
    explained = 1 - ((predicted - truth)[others] ** 2).mean() / truth[others].var()
    assert explained > 0.98
    assert (predicted[~mask] == 0).all()
    assert reward.min() <= predicted[mask].min() <= predicted[mask].max() <= reward.max()


def test_no_prediction_has_seen_its_own_request():
    features, mask, shown, reward, _ = log(1, n=60)
    before = cross_fit(features, mask, shown, reward, folds=4, seed=3)
    other = reward.copy()
    other[7] += 1000
    after = cross_fit(features, mask, shown, other, folds=4, seed=3)
    fold = np.random.default_rng(3).permutation(60) % 4
    same = fold == fold[7]
    np.testing.assert_array_equal(before[same], after[same])
    assert np.abs(before[~same] - after[~same]).max() > 1


def test_rows_are_predicted_by_models_of_the_rest_of_the_log(monkeypatch):
    features, mask, shown, reward, truth = log(4)
    rows = np.arange(1000, 1200)
    whole = cross_fit(features, mask, shown, reward, rows)
    assert whole.shape == (200, 6)
    alone = cross_fit(features[rows], mask[rows], shown[rows], reward[rows])
    real = mask[rows]
    gaps = [np.abs(predicted - truth[rows])[real].mean() for predicted in (whole, alone)]
    assert gaps[0] < 0.7 * gaps[1]  # 1,160 requests against 160
    monkeypatch.setattr(reward_model, "_HELD", 500)  # in parts of 20 requests
    np.testing.assert_allclose(cross_fit(features, mask, shown, reward, rows), whole, atol=1e-6)


def test_pure_noise_is_not_fitted():
    rng = np.random.default_rng(2)
    features, mask, shown, *_ = log(2)
    reward = rng.normal(size=len(shown))
    predicted = cross_fit(features, mask, shown, reward)
    own = predicted[np.arange(len(shown)), shown]
    assert abs(np.corrcoef(own, reward)[0, 1]) < 4 / math.sqrt(len(shown))
    assert predicted[mask].std() < 0.15


def test_too_few_requests_are_refused():
    features, mask, shown, reward, _ = log(3, n=9)
    with pytest.raises(ValueError, match="9 requests are too few for a reward model in 5 folds"):
        cross_fit(features, mask, shown, reward)


def test_dr_with_it_errs_at_most_half_as_much_as_ips():
    """A slate of 12, rewards between watched and not: what a feed's log is like, with half of the reward explained."""
    errors = {"ips": [], "snips": [], "dr": []}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        n, items = 600, 12
        features = rng.normal(size=(n, items, 3))
        mask = rng.random((n, items)) < 0.9
        mask[:, 0] = True
        truth = 1 / (1 + np.exp(-(features @ np.array([0.9, -0.6, 0.4]))))
        scores = [np.where(mask, np.exp(features @ np.array(w)), 0) for w in ([0.2, 0.2, 0.6], [1.0, -0.7, 0.4])]
        logging, policy = (s / s.sum(axis=1, keepdims=True) for s in scores)
        edges = np.cumsum(logging, axis=1)
        shown = (rng.random((n, 1)) * edges[:, -1:] >= edges).sum(axis=1)
        rows = np.arange(n)
        reward = rng.beta(3 * truth[rows, shown], 3 * (1 - truth[rows, shown]))  # a share watched
        found = ope.estimate(
            policy, mask, shown, logging[rows, shown], reward, cross_fit(features, mask, shown, reward, seed=seed)
        )
        value = (policy * truth).sum(axis=1).mean()
        assert found["dr"].ess_share > ope.LEAST_ESS
        for name, each in errors.items():
            each.append(found[name].value - value)
    rmse = {name: math.sqrt(np.mean(np.square(each))) for name, each in errors.items()}
    assert rmse["dr"] / rmse["ips"] <= 0.55, rmse
