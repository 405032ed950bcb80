"""The policy ranker: its policy is the softmax of what candidates are worth, each scored by itself."""

import dataclasses

import numpy as np
import pytest
import torch

from recsysml.data import world
from recsysml.errors import ConfigError
from recsysml.models.policy_ranker import PolicyRanker, check_initial
from recsysml.ranking.policies import aligned, build, log_probabilities
from recsysml.schemas.data import WorldConfig
from recsysml.schemas.policies import PolicyRankerConfig
from recsysml.schemas.slates import LoggedSlatesConfig

REWARDS = {"click": 0.5, "like": 2.0}


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 4), (3, 5, 6), (3, 5, 2))
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("hidden", [[], [7], [7, 5]])
def test_the_policy_is_the_softmax_of_worth_over_the_slate(inputs, hidden):
    torch.manual_seed(1)
    model = PolicyRanker(PolicyRankerConfig(hidden=hidden, temperature=0.3), (4, 6, 2), REWARDS)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False], [False, True, True, True, True]])
    logits = model(*inputs)
    assert logits.shape == (3, 5, 2)
    odds = ((logits.sigmoid()[..., 0] * 0.5 + logits.sigmoid()[..., 1] * 2.0) / 0.3).exp() * mask
    assert torch.allclose(model.log_policy(logits, mask).exp(), odds / odds.sum(1, keepdim=True), atol=1e-6)


def test_the_gradient_runs_through_the_task_probabilities(inputs):
    """d log pi(i) / d logit of candidate j and task t is (1[i = j] - pi_j) w_t p_t (1 - p_t) / temperature."""
    model = PolicyRanker(PolicyRankerConfig(temperature=0.3), (4, 6, 2), REWARDS)
    logits = model(*inputs).detach().requires_grad_(True)
    log_pi = model.log_policy(logits, torch.ones(3, 5, dtype=torch.bool))
    (found,) = torch.autograd.grad(log_pi[:, 2].sum(), logits)
    p, pi = logits.detach().sigmoid(), log_pi.detach().exp()
    chosen = torch.nn.functional.one_hot(torch.tensor([2] * 3), 5) - pi  # (B, N)
    expected = chosen[..., None] * torch.tensor([0.5, 2.0]) * p * (1 - p) / 0.3
    assert torch.allclose(found, expected, atol=1e-6) and expected.abs().max() > 0.01


@pytest.mark.parametrize("hidden", [[], [7]])
def test_each_candidate_is_scored_by_itself(inputs, hidden):
    torch.manual_seed(1)
    model = PolicyRanker(PolicyRankerConfig(hidden=hidden), (4, 6, 2), REWARDS)
    contexts, items, pairs = inputs
    whole = model(contexts, items, pairs)
    alone = model(contexts[1:2], items[1:2, 3:4], pairs[1:2, 3:4])
    assert torch.allclose(whole[1, 3], alone[0, 0], atol=1e-6)
    order = torch.tensor([4, 2, 0, 1, 3])
    assert torch.allclose(model(contexts, items[:, order], pairs[:, order]), whole[:, order], atol=1e-6)


def test_a_logistic_regression_is_its_weights_times_scaled_features(inputs):
    model = PolicyRanker(PolicyRankerConfig(), (4, 6, 2), REWARDS)
    model.scales[1].fit(torch.arange(6.0), torch.tensor([2.0, 1, 1, 1, 1, 0.0]))
    contexts, items, pairs = inputs
    scaled = (items - torch.arange(6.0)) / torch.tensor([2.0, 1, 1, 1, 1, 1])
    scaled[..., 5] = 0  # a constant column says nothing
    by_hand = contexts @ model.parts[0].weight.T + model.parts[0].bias
    by_hand = by_hand[:, None] + scaled @ model.parts[1].weight.T + pairs @ model.parts[2].weight.T
    assert torch.allclose(model(contexts, items, pairs), by_hand, atol=1e-5)


def test_a_place_costs_logits_and_the_top_costs_none():
    model = PolicyRanker(PolicyRankerConfig(), (4, 6, 2), REWARDS, places=3)
    with torch.no_grad():
        model.places.copy_(torch.tensor([[9.0, 9.0], [-1.0, -2.0], [-3.0, -4.0]]))
    found = model.placed(torch.zeros(3, 2), torch.tensor([0, 1, 2]))
    assert found.tolist() == [[0, 0], [-1, -2], [-3, -4]]


def test_features_are_scaled_by_what_is_learnt_from_and_columns_found_by_name(caplog):
    log = world.load_slates(WorldConfig(users=200, items=200, events=6000))
    model = build(PolicyRankerConfig(), log, REWARDS, 8)
    rows = slice(*log.fitted)
    known = log.pairs[rows][log.mask[rows]].astype(np.float64)
    assert np.allclose(model.scales[2].mean, known.mean(0), atol=1e-4)
    names = {"context": log.context_names, "item": log.item_names, "pair": log.pair_names}
    assert aligned(log, names) is log
    back = {part: [*own[::-1], "unheard of"] for part, own in names.items()}
    turned = aligned(log, back)
    assert "lacks 3" in caplog.text
    assert np.array_equal(turned.items[:, -2], log.items[:, 0]) and (turned.items[:, -1] == 0).all()
    with pytest.raises(ConfigError, match="none of the features"):
        aligned(log, {"context": ["a"], "item": ["b"], "pair": ["c"]})
    found, logits = log_probabilities(model, log, np.arange(50), batch_size=7)
    whole, _ = log_probabilities(model, log, np.arange(50), batch_size=50)
    assert np.allclose(np.exp(found).sum(1), 1) and np.allclose(np.exp(found), np.exp(whole), atol=1e-6)
    assert logits.shape == (50, 2)


def test_a_wrong_config_is_one_line(tmp_path):
    data = WorldConfig()
    for change, said in (
        ({"temperature": 0.0}, "model.temperature"),
        ({"hidden": [0]}, "model.hidden"),
        ({"weights": {"click": float("nan")}}, "model.weights.click"),
    ):
        with pytest.raises(ConfigError, match=said):
            PolicyRankerConfig(**change).validate()
    with pytest.raises(ConfigError, match="Did you mean: click"):
        PolicyRankerConfig(weights={"clik": 1.0}).check_data(data)
    with pytest.raises(ConfigError, match="all 0"):
        PolicyRankerConfig(weights={"click": 0.0}).check_data(data)
    real = LoggedSlatesConfig(labels={"seconds": "real"})
    with pytest.raises(ConfigError, match="seconds is no binary label"):
        PolicyRankerConfig().check_data(real)
    with pytest.raises(ConfigError, match="there is no checkpoint"):
        check_initial(dataclasses.replace(PolicyRankerConfig(), init_from=str(tmp_path)))
