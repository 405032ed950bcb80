"""Whether probabilities mean what they say, over all rows, in bins and in cohorts, and what chance alone would show.

p (n,) are probabilities, y (n,) labels 0 or 1. An error that is measured on n rows is never 0, even of the truth: so an
expected calibration error comes with the one a perfect model would get on these very rows, and a multicalibration error
with the chance of one as large.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# cohorts with fewer rows are not judged on their own
MIN_ROWS = 50


def predicted_over_observed(p: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Sum of p over sum of y, 1 when right on the whole, and its standard error as a ratio of two means.

    NaN where nothing was observed.
    """
    if not y.sum():
        return math.nan, math.nan
    value = float(p.sum() / y.sum())
    return value, float((p - value * y).std(ddof=1) / math.sqrt(len(y)) / y.mean())


def brier(p: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Mean of (p - y)^2 and its standard error."""
    squares = (p - y) ** 2
    return float(squares.mean()), float(squares.std(ddof=1) / math.sqrt(len(y)))


def bins_of(p: np.ndarray, n_bins: int, binning: str) -> np.ndarray:
    """(n,) which bin each row lies in: `width` cuts [0, 1] in equal parts, `mass` the rows in runs of equal number."""
    if binning == "width":
        return np.minimum((p * n_bins).astype(np.int64), n_bins - 1)
    if binning == "mass":
        found = np.empty(len(p), np.int64)
        found[np.argsort(p, kind="stable")] = np.arange(len(p)) * n_bins // max(1, len(p))
        return found
    raise ValueError(f"binning {binning!r} does not exist: use width or mass")


@dataclass(frozen=True)
class CalibrationError:
    """An expected calibration error, and what a perfect model gets on the same rows."""

    value: float
    perfect: float  # the mean over labels drawn from the probabilities themselves
    perfect_spread: float  # their standard deviation
    z: float  # (value - perfect) / perfect_spread: within 2 there is nothing to see


def expected_calibration_error(
    p: np.ndarray, y: np.ndarray, n_bins: int = 15, binning: str = "width", draws: int = 200
) -> CalibrationError:
    """sum over bins of n_b / n |mean p - mean y| (Naeini et al. 2015), held against `draws` sets of labels ~ p."""
    n = len(p)
    bins = bins_of(p, n_bins, binning)
    order = np.argsort(bins, kind="stable")
    p, y, begins = p[order], y[order], np.flatnonzero(np.diff(bins[order], prepend=-1))
    predicted = np.add.reduceat(p, begins)

    def error(labels: np.ndarray) -> float:
        return float(np.abs(predicted - np.add.reduceat(labels, begins)).sum() / n)

    rng = np.random.default_rng(0)
    by_chance = np.array([error((rng.random(n) < p).astype(np.float64)) for _ in range(draws)])
    value, perfect, spread = error(y.astype(np.float64)), float(by_chance.mean()), float(by_chance.std(ddof=1))
    return CalibrationError(value, perfect, spread, (value - perfect) / spread if spread > 0 else 0.0)


def debiased_l2(p: np.ndarray, y: np.ndarray, n_bins: int = 15) -> float:
    """The mean over bins of equal mass of (E[p - y])^2, less what noise adds (after Kumar et al. 2019, sec. 5).

    In expectation 0 of a perfect model, so it may fall below 0. Bins of one row have no spread and are left out.
    """
    bins = bins_of(p, n_bins, "mass")
    counts = np.bincount(bins, minlength=n_bins).astype(np.float64)
    gaps = p - y
    means = np.bincount(bins, weights=gaps, minlength=n_bins) / np.maximum(counts, 1)
    squares = np.bincount(bins, weights=(gaps - means[bins]) ** 2, minlength=n_bins)
    enough = counts > 1
    if not enough.any():
        return math.nan
    noise = squares[enough] / (counts[enough] - 1) / counts[enough]
    return float((counts[enough] * (means[enough] ** 2 - noise)).sum() / counts[enough].sum())


def wilson(successes: np.ndarray, n: np.ndarray, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the interval of a share (Wilson 1927), of successes among n > 0; it never leaves [0, 1]."""
    share = successes / n
    middle = share + z**2 / (2 * n)
    reach = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    return np.clip((middle - reach) / scale, 0, 1), np.clip((middle + reach) / scale, 0, 1)


def reliability(p: np.ndarray, y: np.ndarray, n_bins: int = 15, binning: str = "mass") -> list[dict[str, float]]:
    """Of every bin that holds rows: mean `predicted`, share `observed`, `count`, and the share's `low` and `high`."""
    bins = bins_of(p, n_bins, binning)
    counts = np.bincount(bins, minlength=n_bins)
    held = counts > 0
    n = counts[held]
    happened = np.bincount(bins, weights=y, minlength=n_bins)[held]
    predicted = np.bincount(bins, weights=p, minlength=n_bins)[held] / n
    low, high = wilson(happened, n)
    columns = {"predicted": predicted, "observed": happened / n, "count": n, "low": low, "high": high}
    return [{name: float(values[row]) for name, values in columns.items()} for row in range(len(n))]


@dataclass(frozen=True)
class CohortGaps:
    """Of each cohort with enough rows, the largest gap first: m of them."""

    ids: np.ndarray  # (m,)
    n: np.ndarray
    predicted: np.ndarray  # mean p
    observed: np.ndarray  # mean y
    z: np.ndarray  # gap over its standard deviation, were the probabilities right


def cohort_gaps(p: np.ndarray, y: np.ndarray, cohorts: np.ndarray, min_rows: int = MIN_ROWS) -> CohortGaps:
    """How far each cohort's probabilities are from what happened in it; cohorts (n,) ids from 0."""
    n = np.bincount(cohorts)
    held = np.flatnonzero(n >= max(1, min_rows))
    predicted, observed, variance = (
        np.bincount(cohorts, weights=values)[held] for values in (p, y.astype(np.float64), p * (1 - p))
    )
    z = (predicted - observed) / np.sqrt(np.maximum(variance, 1e-12))
    order = np.argsort(-np.abs(z), kind="stable")
    counts = n[held]
    return CohortGaps(held[order], counts[order], (predicted / counts)[order], (observed / counts)[order], z[order])


@dataclass(frozen=True)
class Multicalibration:
    """The worst segment's cumulative calibration error."""

    value: float  # in units of probability of all rows: `sigmas` x the standard deviation of their mean label
    sigmas: float  # the segment's error over what one standard deviation of its mean label is
    p_value: float  # of one so large among so many segments, were the probabilities right
    segment: str
    n_segments: int


def multicalibration_error(
    p: np.ndarray, y: np.ndarray, cohorts: Mapping[str, np.ndarray], min_rows: int = MIN_ROWS
) -> Multicalibration:
    """The largest cumulative error over all rows and every cohort of every feature; cohorts: name -> (n,) ids from 0.

    A segment's error is the range of the sums of y - p in order of p (Kuiper's statistic; ECCE-R of Arrieta-Ibarra et
    al. 2022), over sqrt(sum p (1 - p)). Of a perfect model it is near the range of a Brownian motion, whose law is
    known; that of the worst of m segments is bounded as if they were independent (Šidák), which only errs on the side
    of finding nothing.
    """
    order = np.argsort(p, kind="stable")
    gaps, variances = (y - p)[order], (p * (1 - p))[order]
    worst, name, n_segments = _range(gaps) / math.sqrt(max(variances.sum(), 1e-12)), "all", 1
    for feature, ids in cohorts.items():
        grouped = np.argsort(ids[order], kind="stable")  # by cohort, and within each by p
        own = ids[order][grouped]
        begins = np.flatnonzero(np.diff(own, prepend=-1))
        sizes = np.diff(np.append(begins, len(own)))
        running = np.cumsum(gaps[grouped])
        before = running[begins] - gaps[grouped][begins]  # what stands there when a cohort begins
        inside = running - np.repeat(before, sizes)
        high = np.maximum(np.maximum.reduceat(inside, begins), 0)
        low = np.minimum(np.minimum.reduceat(inside, begins), 0)
        sigma = np.sqrt(np.maximum(np.add.reduceat(variances[grouped], begins), 1e-12))
        sigmas = np.where(sizes >= min_rows, (high - low) / sigma, -1.0)
        n_segments += int((sizes >= min_rows).sum())
        best = int(np.argmax(sigmas))
        if sigmas[best] > worst:
            worst, name = float(sigmas[best]), f"{feature}={own[begins[best]]}"
    alone = range_tail(worst)
    p_value = -math.expm1(n_segments * math.log1p(-alone)) if alone < 1 else 1.0
    return Multicalibration(worst * math.sqrt(variances.sum()) / len(p), worst, p_value, name, n_segments)


def _range(steps: np.ndarray) -> float:
    path = np.cumsum(steps)
    return float(max(path.max(), 0) - min(path.min(), 0))


def range_tail(r: float) -> float:
    """P(the range of a Brownian motion over [0, 1] exceeds r): 8 sum_k (-1)^(k-1) k (1 - Phi(k r)) (Feller 1951)."""
    from scipy.special import ndtr

    if r < 0.5:  # where it is 1 to twelve digits and the sum converges slowly
        return 1.0
    k = np.arange(1, 60)
    return float(np.clip(8 * (np.where(k % 2, 1, -1) * k * ndtr(-k * r)).sum(), 0, 1))
