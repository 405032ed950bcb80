"""Is B better than A? Tests of a difference of two means, paired or not, and Holm's correction for many of them.

Only numpy and scipy.special (scipy.stats costs a second to import). Every difference is B - A, every p two-sided,
every interval for the single comparison at 1 - alpha.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special


@dataclass(frozen=True)
class Difference:
    """effect = mean(B) - mean(A), its confidence interval, the p of "there is no difference", the test's name."""

    effect: float
    low: float
    high: float
    p: float
    test: str


def compare_pairs(a: np.ndarray, b: np.ndarray, alpha: float = 0.05) -> Difference:
    """The paired test that fits: the exact sign test for 0/1 scores, else Student's paired t.

    a, b: (n,) scores of the same examples in the same order, finite. Raises ValueError for fewer than two pairs.
    """
    binary = bool(np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all())
    return exact_mcnemar(a, b, alpha) if binary else paired_t(a, b, alpha)


def exact_mcnemar(a: np.ndarray, b: np.ndarray, alpha: float = 0.05) -> Difference:
    """McNemar's exact test of two 0/1 columns (n,): the sign test on the examples that only one of them gets right.

    p: with k of m discordant examples in favour of the smaller side, min(1, 2 P(Binomial(m, 1/2) <= k)).
    Interval: Bonett & Price 2012, the Wald interval after adding one to both discordant counts, which holds its level
    where the plain one collapses (few or no discordant examples).
    """
    n = _pairs(a, b)
    gained = int(((a == 0) & (b == 1)).sum())
    lost = int(((a == 1) & (b == 0)).sum())
    discordant = gained + lost
    p = min(1.0, 2.0 * float(special.bdtr(min(gained, lost), discordant, 0.5))) if discordant else 1.0
    share_gained, share_lost = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    centre = share_gained - share_lost
    half = _normal_quantile(alpha) * math.sqrt((share_gained + share_lost - centre**2) / (n + 2))
    return Difference((gained - lost) / n, max(-1.0, centre - half), min(1.0, centre + half), p, "exact McNemar")


def paired_t(a: np.ndarray, b: np.ndarray, alpha: float = 0.05) -> Difference:
    """Student's t on the differences (n,); t with n - 1 degrees of freedom.

    Differences that are all 0 are no difference: p is 1. Raises ValueError where they are all another number: that
    leaves no noise to compare with, and an interval of no width.
    """
    n = _pairs(a, b)
    differences = np.asarray(b, np.float64) - np.asarray(a, np.float64)
    effect = float(differences.mean())
    stderr = float(differences.std(ddof=1)) / math.sqrt(n)
    # Identical differences of which rounding has made almost identical ones are no evidence of extreme precision.
    if stderr <= 1e-13 * float(np.abs(np.concatenate([a, b])).max()):
        if effect:
            raise ValueError(f"all {n} differences are the same: there is no noise to compare with")
        return Difference(0.0, 0.0, 0.0, 1.0, "paired t")
    p = 2.0 * float(special.stdtr(n - 1, -abs(effect / stderr)))
    half = float(special.stdtrit(n - 1, 1 - alpha / 2)) * stderr
    return Difference(effect, effect - half, effect + half, p, "paired t")


def unpaired_z(a: float, a_stderr: float, b: float, b_stderr: float, alpha: float = 0.05) -> Difference:
    """The difference of two independent means from their standard errors, by the normal distribution.

    On the same examples this is cautious: what the two share is counted as noise. Raises ValueError if both standard
    errors are 0 and the values differ: there is then nothing to measure the difference with.
    """
    stderr = math.hypot(a_stderr, b_stderr)
    effect = b - a
    if stderr == 0:
        if effect:
            raise ValueError("both standard errors are 0")
        return Difference(0.0, 0.0, 0.0, 1.0, "two standard errors")
    half = _normal_quantile(alpha) * stderr
    p = 2.0 * float(special.ndtr(-abs(effect) / stderr))
    return Difference(effect, effect - half, effect + half, p, "two standard errors")


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment (1979): adjusted p <= alpha keeps the chance of any false alarm within alpha,
    however the tests depend on each other. p: (m,) -> (m,), in the same order."""
    p = np.asarray(p, np.float64)
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)  # m for the smallest p, 1 for the largest
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted


def _pairs(a: np.ndarray, b: np.ndarray) -> int:
    assert a.ndim == 1
    assert a.shape == b.shape, f"{a.shape} and {b.shape} are no pairs"
    if len(a) < 2:
        raise ValueError("fewer than two pairs")
    return len(a)


def _normal_quantile(alpha: float) -> float:
    return float(special.ndtri(1 - alpha / 2))
