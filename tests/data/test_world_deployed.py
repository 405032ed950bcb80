"""A deployed policy is logged as it acts, and the world answers it by its laws."""

import dataclasses

import numpy as np
import pytest

from recsysml.config import compose
from recsysml.data import world
from recsysml.data.slates import ESTIMATED, LOGGED
from recsysml.data.world_deployed import answered, top_alone
from recsysml.data.world_truth import top_chances

SMALL = ["model=policy_ranker", "data.users=200", "data.items=200", "data.events=12000"]


@pytest.fixture(scope="module")
def made():
    """A world's config, its log, and a policy of no meaning."""
    config = compose(SMALL).data
    log = world.load_slates(config)
    policy = np.where(log.mask, np.random.default_rng(0).random(log.mask.shape) ** 4, 0.0)
    return config, log, policy / policy.sum(axis=1, keepdims=True)


def test_what_a_deployed_policy_shows_and_gets_is_drawn_by_its_probabilities_and_the_laws(made):
    config, log, policy = made
    guessed = dataclasses.replace(log, propensity_source=ESTIMATED)
    chances, rows, n = top_chances(config, config.actions), np.arange(len(log)), 25
    counts, done, expected = np.zeros(log.mask.shape), np.zeros(len(log.tasks)), np.zeros(len(log.tasks))
    for seed in range(n):
        found = answered(config, guessed, policy, np.random.default_rng(seed))
        assert found.propensity == pytest.approx(policy[rows, found.shown]) and found.slate is None
        assert found.propensity_source == LOGGED  # by the policy that is known
        assert found.fingerprint != log.fingerprint and found.mask[rows, found.shown].all()
        counts[rows, found.shown] += 1
        done += found.actions.mean(axis=0) / n
        expected += np.array([chances[task][rows, found.shown].mean() for task in log.tasks]) / n
        clicked = found.actions[:, 0] == 1
        assert next(iter(log.tasks)) == "click" and (found.actions[~clicked][:, 1:4] == 0).all()
    spread = (n * policy * (1 - policy)).sum()  # of binomial counts
    assert ((counts - n * policy) ** 2).sum() == pytest.approx(spread, rel=0.05) and (counts[~log.mask] == 0).all()
    np.testing.assert_allclose(done, expected, atol=4 * 0.5 / np.sqrt(n * len(log)))


def test_exploration_is_shown_and_logged(made):
    config, log, _ = made
    rows, mask = np.arange(len(log)), log.mask
    sure = np.eye(mask.shape[1])[mask.argmax(axis=1)]  # always the first candidate
    found = answered(config, log, sure, np.random.default_rng(1), 0.3)
    others = found.shown != mask.argmax(axis=1)
    share = 0.3 * (1 - 1 / mask.sum(axis=1))
    assert others.mean() == pytest.approx(share.mean(), abs=4 * 0.5 / np.sqrt(len(log)))
    assert found.propensity == pytest.approx(0.3 / mask.sum(axis=1) + 0.7 * ~others)
    assert found.logging.sum(axis=1) == pytest.approx(1) and found.logging[rows, found.shown] == pytest.approx(
        found.propensity
    )
    alone = answered(config, log, sure, np.random.default_rng(1))
    assert (alone.shown == mask.argmax(axis=1)).all() and (alone.propensity == 1).all()


def test_what_stood_below_the_top_is_left_out(made):
    alone = top_alone(made[1])
    assert alone.slate is None and alone.slate_actions is None and alone.slate_propensity is None
    assert (alone.shown == made[1].shown).all() and alone.logging is made[1].logging
