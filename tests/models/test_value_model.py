"""Value models: NDCG as scikit-learn has it, weights that were planted, targets that cannot be had."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from recsysml.errors import ConfigError
from recsysml.metrics.page import slate_ndcg
from recsysml.models.value_model import ValueModel, check_initial, losses, make_slates, shares, solve
from recsysml.schemas.data import WorldConfig
from recsysml.schemas.rankers import ValueModelConfig


def drawn(seed: int, n_requests: int = 500, tasks: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (n, T) that agree in part, of very different sizes, and requests of 1 to 8 rows."""
    rng = np.random.default_rng(seed)
    requests = np.repeat(np.arange(n_requests) * 7, rng.integers(1, 9, n_requests))
    common = rng.normal(size=(len(requests), 1))
    z = 0.7 * common + rng.normal(size=(len(requests), tasks)) - np.arange(tasks)
    return 1 / (1 + np.exp(-z)), requests


@pytest.mark.parametrize("seed", [0, 1])
def test_ndcg_is_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    relevance, scores = rng.random((30, 7)), rng.random((30, 7))
    scores[::3] = scores[::3].round(1)  # ties
    relevance[::4] = (relevance[::4] > 0.6).astype(float)
    real = np.arange(7) < rng.integers(2, 8, 30)[:, None]
    found = slate_ndcg(relevance, scores, real)
    for row in range(30):
        own = real[row]
        if relevance[row, own].any():
            assert found[row] == pytest.approx(ndcg_score(relevance[row : row + 1, own], scores[row : row + 1, own]))
        else:
            assert np.isnan(found[row])


def test_slates_hold_the_rows_of_a_request_and_leave_out_what_ranks_nothing() -> None:
    p, requests = drawn(2, 40)
    order = np.random.default_rng(3).permutation(len(p))
    slates = make_slates(p[order], requests[order])
    kept = [request for request in np.unique(requests) if (requests == request).sum() > 1]
    assert slates.requests.tolist() == kept
    for row, request in enumerate(kept):
        expected = p[requests == request]
        held = slates.probabilities[row][slates.real[row]]
        np.testing.assert_array_equal(np.sort(held[:, 0]), np.sort(expected[:, 0]))
        assert (slates.probabilities[row][~slates.real[row]] == 0).all()
    np.testing.assert_array_equal(slates.of(p[order][:, 1]), slates.probabilities[..., 1])
    assert len(make_slates(p[:1], requests[:1]).requests) == 0 and len(make_slates(p[:0], requests[:0]).requests) == 0


def test_losses_are_a_loop_over_requests_and_tasks() -> None:
    p, requests = drawn(4, 30)
    weights = np.array([1.0, 2.0, 0.5, 3.0])
    slates = make_slates(p, requests)
    for measure in ("loo", "regret"):
        found = losses(measure, slates, weights)
        for row, request in enumerate(slates.requests):
            own = p[requests == request]
            value = own @ weights
            for task in range(4):
                if measure == "loo":
                    expected = ndcg_score([value], [value - weights[task] * own[:, task]])
                else:
                    expected = ndcg_score([own[:, task]], [value])
                assert found[row, task] == pytest.approx(1 - expected, abs=1e-12)


@pytest.mark.parametrize("measure", ["loo", "regret"])
@pytest.mark.parametrize("seed", [5, 6])
def test_planted_weights_give_shares_that_are_found_again(measure: str, seed: int) -> None:
    slates, held = make_slates(*drawn(seed, 1500)), make_slates(*drawn(seed + 100, 6000))
    planted = np.array([1.0, 3.0, 2.0, 9.0])
    target = shares(measure, losses(measure, slates, planted).mean(axis=0))
    found = solve(measure, slates, target)
    assert found.reached and found.error < 0.01
    assert np.abs(found.shares - target).sum() == pytest.approx(found.error)
    np.testing.assert_allclose(found.shares, shares(measure, losses(measure, slates, found.weights).mean(axis=0)))
    fresh = shares(measure, losses(measure, held, found.weights).mean(axis=0))
    assert np.abs(fresh - target).max() < 0.03  # other requests: the noise of both samples on top


def test_a_named_target_is_reached_and_equal_weights_do_not() -> None:
    slates = make_slates(*drawn(7, 800))
    target = np.array([0.1, 0.5, 0.15, 0.25])
    assert np.abs(shares("loo", losses("loo", slates, np.ones(4)).mean(axis=0)) - target).sum() > 0.1
    found = solve("loo", slates, target)
    assert found.reached
    assert found.weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("measure", ["loo", "regret"])
def test_a_target_that_cannot_be_had_is_said_and_the_nearest_point_given(measure: str) -> None:
    """Two tasks that always agree: neither is missed while the other is there, and both have one regret."""
    p, requests = drawn(8, 200, 2)
    p[:, 1] = p[:, 0]
    found = solve(measure, make_slates(p, requests), np.array([0.8, 0.2]))
    assert not found.reached
    assert found.error == pytest.approx(0.6, abs=1e-6)
    np.testing.assert_allclose(found.shares, [0.5, 0.5])


@pytest.mark.parametrize("seed", [4, 6])
def test_the_nearest_point_is_no_worse_than_a_grid(seed: int) -> None:
    """Of three tasks two agree: their shares cannot differ under regret. Steps alone end further off."""
    p, requests = drawn(seed, 100, 3)
    p[:, 2] = p[:, 1]
    slates, target = make_slates(p, requests), np.array([0.3, 0.6, 0.1])
    found = solve("regret", slates, target)
    grid = [
        np.abs(shares("regret", losses("regret", slates, np.array([a, 1 - a, 0])).mean(axis=0)) - target).sum()
        for a in np.linspace(0, 1, 200)
    ]
    assert not found.reached and found.error <= min(grid) + 0.01


def test_values_are_a_sum_or_an_expression() -> None:
    p = np.array([[0.2, 0.5], [0.4, 0.1]])
    np.testing.assert_allclose(ValueModel(["a", "b"], {"a": 2.0, "b": 3.0}).values(p), [1.9, 1.1])
    np.testing.assert_allclose(ValueModel(["a", "b"], {}, "p_a / p_b").values(p), [0.4, 4.0])


@pytest.mark.parametrize(("seed", "n_top"), [(0, 1), (1, 2), (2, 9)])
def test_the_top_of_a_slate_may_go_by_another_value(seed: int, n_top: int) -> None:
    p, requests = drawn(seed, 40, 3)
    slates = make_slates(p, requests)
    model = ValueModel(["a", "b", "c"], {"a": 1.0, "c": -2.0}, None, "p_b / p_a", n_top)
    found = model.slate_values(slates.probabilities, slates.real)
    for own, real, values in zip(slates.probabilities, slates.real, found, strict=True):
        items = range(int(real.sum()))
        first = sorted(items, key=lambda item: -own[item, 1] / own[item, 0])[:n_top]
        left = sorted(set(items) - set(first), key=lambda item: -(own[item, 0] - 2 * own[item, 2]))
        assert sorted(items, key=lambda item: -values[item]) == first + left
        assert (values[~real] == 0).all()
    assert not model.has_shares


def test_what_is_unwanted_has_a_weight_and_no_share() -> None:
    p, requests = drawn(3, 40, 2)
    slates = make_slates(p, requests)
    model = ValueModel(["a", "b"], {"a": 1.0, "b": -0.5})
    found = model.slate_values(slates.probabilities, slates.real)
    np.testing.assert_allclose(found, slates.real * (slates.probabilities @ [1.0, -0.5]))
    assert not model.has_shares and ValueModel(["a", "b"], {"a": 1.0, "b": 0.5}).has_shares


def test_configs_that_cannot_work_are_refused() -> None:
    data = WorldConfig()
    asked = ValueModelConfig().asked(data)
    assert asked == dict.fromkeys(["click", "long_view", "like", "share"], 0.25)
    assert ValueModelConfig(importance={"click": 1, "like": 3}).asked(data) == {"click": 0.25, "like": 0.75}
    assert ValueModelConfig(weights={"click": 1}).asked(data) == {}
    with pytest.raises(ConfigError, match="both given"):
        ValueModelConfig(weights={"click": 1}, expression="p_click").validate()
    with pytest.raises(ConfigError, match=r"model\.importance\.click=0: it must be greater"):
        ValueModelConfig(importance={"click": 0, "like": 1}).validate()
    ValueModelConfig(weights={"click": 1.0, "skip": -1.0}).validate()
    for weight in (0.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"model\.weights\.click=.*other than 0"):
            ValueModelConfig(weights={"click": weight}).validate()
    with pytest.raises(ConfigError, match="by what the rest is ordered"):
        ValueModelConfig(top_expression="p_like").validate()
    with pytest.raises(ConfigError, match=r"model\.top_places=2 is read with"):
        ValueModelConfig(expression="p_like", top_places=2).validate()
    with pytest.raises(ConfigError, match=r"model\.top_expression='p_lke'.*Did you mean: p_like"):
        ValueModelConfig(expression="p_like", top_expression="p_lke").check_data(data)
    with pytest.raises(ConfigError, match="Did you mean: click"):
        ValueModelConfig(weights={"clik": 1.0}).check_data(data)
    with pytest.raises(ConfigError, match="there is no checkpoint"):
        check_initial(ValueModelConfig(init_from="nowhere"))
