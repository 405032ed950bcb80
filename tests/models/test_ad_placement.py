"""Rules over expected outcomes against loops; the policy; units."""

import numpy as np
import pytest
import torch

from recsysml.errors import ConfigError
from recsysml.models.ad_placement import AdPlacement, score
from recsysml.schemas.rankers import AD_METHODS, AdPlacementConfig

METHODS = [method for method in AD_METHODS if method != "reinforce"]


def outcomes(seed, n=200, actions=5):
    random = np.random.default_rng(seed)
    revenue = np.concatenate([random.normal(0, 0.1, (n, 1)), random.gamma(1, 1, (n, actions - 1))], axis=1)
    value = random.gamma(2, 1, (n, actions))
    estimate = np.concatenate([np.zeros((n, 1)), revenue[:, 1:] * random.lognormal(0, 0.1, (n, actions - 1))], axis=1)
    return revenue, value, estimate


def decide(method, revenue, value, estimate):
    """One session, in plain words."""
    ads = range(1, len(revenue))
    earns_most = max(ads, key=lambda a: revenue[a])
    gained = revenue[earns_most] - revenue[0]
    if method == "blending":
        return earns_most if gained > value[0] else 0
    if method == "engagement_loss":
        return earns_most if value[0] - value[earns_most] < gained else 0
    if method == "bandit":
        return int(np.argmax(revenue + value))
    return int(np.argmax(estimate + value))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_rules_decide_as_their_words_say(method, seed):
    tables = outcomes(seed)
    found = score(method, *map(torch.from_numpy, tables)).argmax(1).tolist()
    assert found == [decide(method, *(table[row] for table in tables)) for row in range(200)]
    assert 0 < sum(action > 0 for action in found) < 200


def test_the_rules_are_not_the_same():
    tables = list(map(torch.from_numpy, outcomes(3, n=2000)))
    chosen = [score(method, *tables).argmax(1) for method in METHODS]
    for place, first in enumerate(chosen):
        for second in chosen[place + 1 :]:
            assert (first != second).float().mean() > 0.02


@pytest.mark.parametrize("method", ["blending", "engagement_loss", "bandit"])
def test_more_revenue_for_every_action_changes_no_decision(method):
    revenue, value, estimate = map(torch.from_numpy, outcomes(4))
    before = score(method, revenue, value, estimate).argmax(1)
    assert (score(method, revenue - 3, value, estimate).argmax(1) == before).all()


def model(method, actions=3, **change):
    torch.manual_seed(0)
    made = AdPlacement(AdPlacementConfig(method=method, widths=[8], **change), 4, actions)
    made.fit_units(torch.randn(50, 4) * 3 + 1, torch.rand(50, 2) * 5)
    return made


def test_of_one_ad_the_decomposed_policy_is_the_published_sigmoid():
    made = model("decomposed", actions=2, temperature=1.0, dial=1.5, minute_value=0.7)
    features, estimate = torch.randn(30, 4), torch.stack([torch.zeros(30), torch.rand(30)], dim=1)
    _, minutes = made.outcomes(features)
    delayed, without = 1.5 * 0.7 * minutes[:, 1], 1.5 * 0.7 * minutes[:, 0]
    expected = torch.sigmoid((estimate[:, 1] + delayed) - without)
    torch.testing.assert_close(made.policy(features, estimate)[:, 1], expected)


@pytest.mark.parametrize("temperature", [0.0, 0.3])
@pytest.mark.parametrize("method", AD_METHODS)
def test_a_policy_is_one(method, temperature):
    made = model(method, temperature=temperature)
    policy = made.policy(torch.randn(30, 4), torch.rand(30, 3))
    torch.testing.assert_close(policy.sum(1), torch.ones(30))
    assert (policy >= 0).all()
    assert temperature or set(policy.unique().tolist()) <= {0.0, 1.0}


def test_the_dial_weighs_time_and_may_be_turned_later():
    made, features = model("bandit", dial=2.0), torch.randn(30, 4)
    revenue, minutes = made.outcomes(features)
    torch.testing.assert_close(made.scores(features, torch.zeros(30, 3)), revenue + 2 * minutes)
    torch.testing.assert_close(made.scores(features, torch.zeros(30, 3), dial=0.0), revenue)
    with pytest.raises(ValueError, match="bandit"):
        model("reinforce").outcomes(features)


def test_outcomes_are_in_the_datas_units():
    made = model("bandit")
    features, logged = torch.randn(500, 4) * 10, torch.randn(500, 2) * torch.tensor([2.0, 9.0]) + 100
    made.fit_units(features, logged)
    with torch.no_grad():
        for layer in made.network:
            if hasattr(layer, "weight"):
                layer.weight.zero_()
                layer.bias.zero_()
    revenue, minutes = made.outcomes(features)
    torch.testing.assert_close(revenue, logged[:, :1].mean(0).expand(500, 3))
    torch.testing.assert_close(minutes, logged[:, 1:].mean(0).expand(500, 3))
    assert made.outcome_scale.tolist() == pytest.approx(logged.std(0).tolist(), rel=1e-4)


def test_wrong_configs_are_refused():
    for change in ({"method": "bandits"}, {"dial": -1.0}, {"minute_value": -0.1}, {"temperature": -1}, {"widths": [0]}):
        with pytest.raises(ConfigError, match=f"model.{next(iter(change))}"):
            AdPlacementConfig(**change).validate()
