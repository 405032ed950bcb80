"""What the reward model of doubly robust losses predicts, beside coins and the truth of a small world."""

import dataclasses

import numpy as np
import pytest
import torch

from recsysml.data import world, world_truth
from recsysml.errors import DataError
from recsysml.ranking import reward_trees, slate_rewards
from recsysml.schemas.data import WorldConfig

TREES = {"kind": "trees", "trees": 30, "hidden": [], "dropout": 0.0, "steps": 1}
NETWORK = {"kind": "network", "trees": 1, "hidden": [16], "dropout": 0.0, "steps": 150}


@pytest.mark.parametrize("how", [TREES, NETWORK | {"hidden": [64], "steps": 60}], ids=["trees", "network"])
def test_the_reward_model_has_not_seen_what_it_predicts(how):
    """With rewards drawn by a coin a model that had seen them would predict them; one that has not cannot."""
    log = world.load_slates(WorldConfig(users=200, items=200, events=6000))
    rng = np.random.default_rng(0)
    coins = (rng.random(log.slate_actions.shape) < 0.5).astype(np.float32)
    coins[np.isnan(log.slate_actions)] = np.nan
    log = dataclasses.replace(log, slate_actions=coins, actions=coins[:, 0])
    before = torch.get_rng_state()
    q = slate_rewards.cross_fit(log, {"click": 1.0}, folds=2, places="all", seed=1, **how)
    assert torch.equal(before, torch.get_rng_state())
    rows = np.arange(*log.fitted)
    ahead = np.arange(rows[-1] + 1, len(log))  # a mean of probabilities, as are those of what is learnt from
    assert q[ahead][log.mask[ahead]].mean() == pytest.approx(q[rows][log.mask[rows]].mean(), rel=0.1)
    seen = np.corrcoef(q[rows, log.shown[rows]], log.actions[rows, 0])[0, 1]
    assert abs(seen) < 4 / len(rows) ** 0.5 and (q[~log.mask] == 0).all()


@pytest.mark.parametrize("how", [TREES, NETWORK], ids=["trees", "network"])
def test_a_reward_model_is_better_for_what_the_logging_policy_gave_and_worse_of_few_requests(how):
    config = WorldConfig(users=300, items=300, events=15_000)
    log = world.load_slates(config)
    true, rows = world_truth.top_rewards(config, log.weights), np.arange(*log.fitted)
    mask = log.mask[rows]

    def within(values):  # less the mean of the slate
        return np.where(
            mask, values[rows] - np.where(mask, values[rows], 0).sum(1, keepdims=True) / mask.sum(1)[:, None], 0
        )

    def likeness(log, share=1.0):
        q = slate_rewards.cross_fit(log, log.weights, folds=2, places="all", seed=1, share=share, **how)
        return np.corrcoef(within(q)[mask], within(true)[mask])[0, 1]

    own = likeness(log)
    assert own > likeness(dataclasses.replace(log, logging=None)) + 0.02
    assert own > likeness(log, share=0.03) + 0.1


def test_dropout_is_for_learning_alone():
    """A unit left out would tell apart candidates that are the same."""
    log = world.load_slates(WorldConfig(users=100, items=100, events=4000))
    same = np.broadcast_to(log.candidates[:, :1], log.candidates.shape)
    pairs = np.broadcast_to(log.pairs[:, :1], log.pairs.shape)
    log = dataclasses.replace(log, candidates=same, pairs=pairs, logging=None)
    how = NETWORK | {"hidden": [32], "steps": 20, "folds": 2, "places": "all", "seed": 1}
    found = [slate_rewards.cross_fit(log, {"click": 1.0}, **how | {"dropout": share}) for share in (0.0, 0.5)]
    for each in found:
        low, high = (np.where(log.mask, each, other) for other in (np.inf, -np.inf))
        assert (high.max(axis=1) - low.min(axis=1)).max() < 1e-5
    assert np.abs(found[0] - found[1])[log.mask].max() > 1e-3


def test_trees_say_what_the_top_brings_where_each_place_brings_less_by_its_own_law():
    """Of all that stands below the top nothing is clicked: what is learnt of it must not be said of the top."""
    log = world.load_slates(WorldConfig(users=200, items=200, events=8000))
    below = log.slate_actions.copy()
    below[:, 1:] *= 0  # NaN, where the user did not come, stays
    log = dataclasses.replace(log, slate_actions=below)
    q = slate_rewards.cross_fit(log, log.weights, folds=2, places="all", seed=1, **TREES | {"trees": 80})
    rows = np.arange(len(log))
    assert q[rows, log.shown].mean() == pytest.approx(log.rewards().mean(), rel=0.1)


def test_of_trees_as_many_are_used_as_val_is_best_with(monkeypatch):
    """The rewards of val are those of other requests: of coins the fewer trees the better, whatever is allowed."""
    log = world.load_slates(WorldConfig(users=100, items=100, events=4000))
    coins = (np.random.default_rng(5).random(log.actions.shape) < 0.5).astype(np.float32)
    log = dataclasses.replace(log, slate=None, slate_actions=None, actions=coins)
    monkeypatch.setitem(reward_trees._TREES, "min_samples_leaf", 5)
    few, many = (
        slate_rewards.cross_fit(log, {"click": 1.0}, folds=2, places="top", seed=1, **TREES | {"trees": trees})
        for trees in (10, 150)
    )
    assert many[log.mask].std() < 2 * few[log.mask].std()


@pytest.mark.parametrize("how", [TREES, NETWORK | {"steps": 20}], ids=["trees", "network"])
def test_nothing_is_read_of_test_nor_of_places_that_are_left_out(how):
    log = world.load_slates(WorldConfig(users=100, items=100, events=4000))
    changed = log.slate_actions.copy()
    changed[log.bounds["test"][0] :] = 1 - changed[log.bounds["test"][0] :]
    below = log.slate_actions.copy()
    below[:, 1:] = 1 - below[:, 1:]
    for places, actions in (("all", changed), ("top", below)):
        other = dataclasses.replace(log, slate_actions=actions, actions=actions[:, 0])
        asked = {"folds": 2, "places": places, "seed": 1, **how}
        found = [slate_rewards.cross_fit(each, log.weights, **asked) for each in (log, other)]
        assert np.array_equal(*found)


def test_where_val_is_learnt_from_others_say_where_to_stop():
    """Of coins few trees are best; a val that has been learnt from would take all there are."""
    log = world.load_slates(WorldConfig(users=150, items=150, events=6000))
    coins = (np.random.default_rng(5).random(log.actions.shape) < 0.5).astype(np.float32)
    spread = []
    for fit_range in ("train", "train_val"):
        own = dataclasses.replace(log, slate=None, slate_actions=None, actions=coins, fit_range=fit_range)
        q = slate_rewards.cross_fit(own, {"click": 1.0}, folds=2, places="top", seed=1, **TREES | {"trees": 150})
        spread.append(q[own.mask].std())
    assert spread[1] < 2 * spread[0]


def test_too_little_to_learn_from_is_said():
    log = world.load_slates(WorldConfig(users=100, items=100, events=4000))
    with pytest.raises(
        DataError, match=r"world: 0 shown items to fit a reward model to, .* trainer.reward_model_share"
    ):
        slate_rewards.cross_fit(log, log.weights, folds=2, places="all", seed=1, share=1e-9, **TREES)
