"""Reward over risk outside of recommending: money spread over assets inversely to their risk, against equal shares.

    python scripts/risk_parity.py [--seeds 20] [--days 2500] [--assets 5]

The returns are simulated: volatilities of their own that swing (an autoregression of their logarithm), a mean in
proportion to each one's long-run volatility, so that no asset is the better bet. Risk is measured on returns before the
day on which the shares are held, and wealth is compounded. "with look-ahead" sizes each day by a risk that the same
day's return is part of, which nobody can do: it shows what such a mistake is worth.
"""

from __future__ import annotations

import argparse

import numpy as np

DAYS_A_YEAR = 252


def simulate(days: int, assets: int, seed: int) -> np.ndarray:
    """(days, assets) simple daily returns, above -1."""
    rng = np.random.default_rng(seed)
    level = np.geomspace(0.004, 0.03, assets)  # long-run volatility of a day
    swing = np.zeros(assets)
    returns = np.empty((days, assets))
    for day in range(days):
        swing = 0.98 * swing + 0.1 * rng.normal(size=assets)
        returns[day] = 0.04 * level + level * np.exp(swing) * rng.normal(size=assets)
    return np.maximum(returns, -0.9)


def risk(returns: np.ndarray, decay: float = 0.94, warm: int = 60) -> np.ndarray:
    """(days, assets): the volatility known when a day begins, from the days before it; NaN for the first `warm`."""
    variance = np.full(returns.shape, np.nan)
    now = (returns[:warm] ** 2).mean(axis=0)
    for day in range(warm, len(returns)):
        variance[day] = now
        now = decay * now + (1 - decay) * returns[day] ** 2
    return np.sqrt(variance)


def shares(risk: np.ndarray) -> np.ndarray:
    """(days, assets) inverse to risk, of each day summing to 1."""
    inverse = 1 / risk
    return np.asarray(inverse / inverse.sum(axis=1, keepdims=True))


def wealth(returns: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(days,) of what began as 1: shares (days, assets) are held over the day of the same row, and compounded."""
    return np.cumprod(1 + (returns * shares).sum(axis=1))


def figures(wealth: np.ndarray) -> dict[str, float]:
    """Yearly growth, yearly volatility, mean return over volatility (both yearly), and the deepest fall from a peak."""
    daily = np.diff(wealth, prepend=1.0) / np.concatenate([[1.0], wealth[:-1]])
    deviation = float(daily.std(ddof=1) * np.sqrt(DAYS_A_YEAR))
    peak = np.maximum.accumulate(np.concatenate([[1.0], wealth]))[1:]
    return {
        "growth": float(wealth[-1] ** (DAYS_A_YEAR / len(wealth)) - 1),
        "volatility": deviation,
        "Sharpe": float(daily.mean() * DAYS_A_YEAR / deviation),
        "drawdown": float((1 - wealth / peak).max()),
    }


def compare(returns: np.ndarray, warm: int = 60) -> dict[str, dict[str, float]]:
    """Of the days after the first `warm`: allocation -> its figures."""
    held = returns[warm:]
    known = risk(returns, warm=warm)
    equal = np.full(held.shape, 1 / held.shape[1])
    # of a day the risk that is known when the next one begins
    ahead = np.concatenate([known[1:], known[-1:]])[warm:]
    allocations = {"equal": equal, "inverse to risk": shares(known[warm:]), "with look-ahead": shares(ahead)}
    return {name: figures(wealth(held, own)) for name, own in allocations.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--days", type=int, default=2500)
    parser.add_argument("--assets", type=int, default=5)
    asked = parser.parse_args()
    found = [compare(simulate(asked.days, asked.assets, seed)) for seed in range(1, asked.seeds + 1)]
    names = list(found[0]["equal"])
    print("| | " + " | ".join(names) + " |\n" + "| --- " * (len(names) + 1) + "|")
    for allocation in found[0]:
        cells = []
        for name in names:
            values = np.array([one[allocation][name] for one in found])
            error = values.std(ddof=1) if len(values) > 1 else 0.0
            cells.append(f"{values.mean():.3f} ± {error:.3f}")
        print(f"| {allocation} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
