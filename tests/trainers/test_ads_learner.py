"""What each method learns from, of a log of decisions: targets, weights, advantages, and networks that saw others."""

import dataclasses

import numpy as np
import pytest
import torch

from recsysml.data import ad_world
from recsysml.models.ad_placement import AdPlacement
from recsysml.schemas.data import AdWorldConfig
from recsysml.schemas.rankers import AdPlacementConfig
from recsysml.schemas.trainers import AdsTrainerConfig
from recsysml.trainers.ads import Learner

ACTIONS = 5


@pytest.fixture(scope="module")
def log():
    return ad_world.load_ads(AdWorldConfig(sessions=3000, seed=3))


def learner(log, method="bandit", dial=1.5, steps=40, **change):
    torch.manual_seed(0)
    config = AdPlacementConfig(method=method, dial=dial, widths=[16])
    model = AdPlacement(config, len(log.feature_names), ACTIONS)
    return Learner(model, log, AdsTrainerConfig(max_steps=steps, batch_size=512, lr=1e-2, **change), seed=1)


def units(log):
    """(n, 2) outcomes of the training sessions in units of their spread."""
    rows = log.rows("train")
    own = np.stack([log.revenue[rows], log.engagement[rows]], axis=1)
    return (own - own.mean(0)) / own.std(0)


def test_direct_and_ipw_learn_the_outcome_of_what_was_done(log):
    rows, actions = log.rows("train"), log.actions[log.rows("train")]
    taken = np.eye(ACTIONS)[actions]
    for learning, weights in (("direct", taken), ("ipw", taken / log.propensity[rows][:, None] / ACTIONS)):
        features, targets, found = learner(log, learning=learning).prepare()
        assert np.array_equal(features, log.features[rows])
        assert np.allclose(found, weights, rtol=1e-5)
        assert np.allclose(targets, taken[..., None] * units(log)[:, None], atol=1e-5)


def test_doubly_robust_outcomes_are_the_closed_form(log, monkeypatch):
    rows, actions = log.rows("train"), log.actions[log.rows("train")]
    q = np.random.default_rng(0).normal(size=(len(actions), ACTIONS, 2)).astype(np.float32)
    monkeypatch.setattr(Learner, "_cross_fit", lambda *_: torch.from_numpy(q.reshape(len(q), -1)))
    _, targets, weights = learner(log, learning="dr").prepare()
    rest = (units(log)[:, None] - q) / log.propensity[rows][:, None, None]
    assert np.allclose(targets, q + np.eye(ACTIONS)[actions][..., None] * rest, rtol=1e-4, atol=1e-4)
    assert np.allclose(weights, 1 / ACTIONS)


@pytest.mark.parametrize(("method", "learning"), [("bandit", "dr"), ("reinforce", "dr")])
def test_what_is_predicted_of_a_session_has_not_seen_it(log, monkeypatch, method, learning):
    """Two sessions of one part change their revenues: what is predicted of that part stays, of the other it moves."""
    kept, found = Learner._cross_fit, []

    def watched(self, *given):
        found.append(kept(self, *given))
        return found[-1]

    monkeypatch.setattr(Learner, "_cross_fit", watched)
    learner(log, method, learning=learning, folds=2).prepare()
    fold = np.random.default_rng(1).permutation(len(found[0])) % 2
    own = np.flatnonzero(fold == 0)
    first, second = own[log.revenue[own].argmax()], own[log.revenue[own].argmin()]
    revenue = log.revenue.copy()
    revenue[[first, second]] = revenue[[second, first]]  # mean and spread stay what they are
    learner(dataclasses.replace(log, revenue=revenue), method, learning=learning, folds=2).prepare()
    gap = (found[0] - found[1]).abs().amax(dim=1).numpy()
    assert gap[fold == 1].max() > max(3e-3, 10 * gap[fold == 0].max())  # beyond what sums round
    assert found[0].std() > 0.05  # and it is something


def test_advantages_are_around_what_the_baseline_says(log, monkeypatch):
    rows, dial = log.rows("train"), 1.5
    reward = log.revenue[rows] + dial * log.engagement[rows]
    units, own = (reward - reward.mean()) / reward.std(), reward / reward.std()
    value = np.random.default_rng(0).normal(size=len(reward)).astype(np.float32)
    monkeypatch.setattr(Learner, "_cross_fit", lambda *_: torch.from_numpy(value[:, None]))
    for baseline, expected in (("none", own), ("mean", units), ("value", units - value)):
        _, actions, propensity, advantage = learner(log, "reinforce", baseline=baseline).prepare()
        assert np.allclose(advantage, expected, atol=1e-4), baseline
        assert np.array_equal(actions, log.actions[rows]) and np.allclose(propensity, log.propensity[rows])
    shifted = learner(log, "reinforce", baseline="none", reward_shift=-3.0).prepare()[3]
    assert np.allclose(shifted, own - 3 / reward.std(), atol=1e-4)


@pytest.mark.parametrize(("most", "weighted"), [(1.2, True), (0.0, True), (1.2, False)])
def test_a_step_of_reinforce_is_the_closed_form(log, monkeypatch, most, weighted):
    """d loss / d logits = -mean of w A (1[action] - pi), w = min(pi / propensity, max_weight), or 1."""
    made = learner(log, "reinforce", baseline="mean", max_weight=most, importance_weights=weighted)
    features, actions, propensity, advantage = (part[:64] for part in made.prepare())
    logits = made.model(features).detach().requires_grad_(True)
    loss, _ = made.loss(lambda _: logits, features, actions, propensity, advantage)
    (found,) = torch.autograd.grad(loss, logits)
    pi = logits.detach().softmax(1)
    taken = torch.nn.functional.one_hot(actions, ACTIONS)
    rho = (pi * taken).sum(1) / propensity
    w = (rho.clamp(max=most) if most else rho) if weighted else torch.ones(64)
    assert (rho > 1.2).any() and (rho < 1.2).any()
    assert torch.allclose(found, -(w * advantage)[:, None] * (taken - pi) / 64, atol=1e-6)
