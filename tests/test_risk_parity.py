"""Money inverse to risk: no look-ahead, compounded, and better for its risk where no asset is the better bet."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

_SPEC = importlib.util.spec_from_file_location("risk_parity", Path(__file__).parents[1] / "scripts" / "risk_parity.py")
assert _SPEC is not None and _SPEC.loader is not None
parity = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(parity)


@pytest.mark.parametrize("day", [100, 250])
def test_shares_know_nothing_of_their_own_day_or_later(day):
    returns = parity.simulate(300, 4, seed=1)
    changed = returns.copy()
    changed[day:] = np.random.default_rng(0).normal(size=changed[day:].shape)
    np.testing.assert_array_equal(parity.risk(returns)[: day + 1], parity.risk(changed)[: day + 1])
    assert not np.allclose(parity.risk(returns)[day + 1], parity.risk(changed)[day + 1])


def test_wealth_is_compounded_and_the_figures_are_its_own():
    returns = parity.simulate(200, 3, seed=2)
    held = parity.shares(np.abs(returns) + 0.01)
    money, path = 1.0, []
    for day in range(200):
        money = sum(money * held[day, a] * (1 + returns[day, a]) for a in range(3))
        path.append(money)
    found = parity.wealth(returns, held)
    np.testing.assert_allclose(found, path)
    figures = parity.figures(found)
    deepest = max(1 - path[j] / max([1.0, *path[: j + 1]]) for j in range(200))
    assert figures["drawdown"] == pytest.approx(deepest)
    assert (1 + figures["growth"]) ** (200 / 252) == pytest.approx(path[-1])


def test_steady_risks_give_shares_inverse_to_them():
    rng = np.random.default_rng(3)
    returns = rng.normal(size=(4000, 3)) * [0.01, 0.02, 0.04]
    mean = parity.shares(parity.risk(returns, decay=0.999)[1000:]).mean(axis=0)
    np.testing.assert_allclose(mean, np.array([4, 2, 1]) / 7, rtol=0.03)


def test_it_earns_more_for_its_risk_than_equal_shares_and_looking_ahead_flatters_it():
    found = [parity.compare(parity.simulate(1500, 5, seed)) for seed in range(1, 13)]
    sharpe = {name: np.array([one[name]["Sharpe"] for one in found]) for name in found[0]}
    gained = sharpe["inverse to risk"] - sharpe["equal"]
    assert gained.mean() > 2 * gained.std(ddof=1) / np.sqrt(len(gained))
    assert (sharpe["with look-ahead"] - sharpe["inverse to risk"]).mean() > 0
