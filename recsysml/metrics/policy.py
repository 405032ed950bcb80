"""What a policy would have earned, from the log of another one: eight off-policy estimators with their intervals.

A request of the log: one item of a slate was shown with a known probability, its propensity p, and earned the reward r.
The policy to be judged gives the items of the slate the probabilities pi. w = pi(shown) / p is the request's weight;
r_hat is a model's prediction of each item's reward, fitted without the request itself. With M for "mean over requests"
and e = sum_a pi(a) r_hat(a), the estimates are

    replay       mean of r over the requests kept by rejection sampling     Li et al. 2011; Mandel et al. 2016
    ips          M[w r]                                                     Horvitz & Thompson 1952
    clipped_ips  M[min(w, clip) r]                                          Ionides 2008; Bottou et al. 2013
    snips        M[w r] / M[w]                                              Swaminathan & Joachims 2015
    dm           M[e]                                                       the direct method; Dudik et al. 2011
    dr           M[e + w (r - r_hat(shown))]                                Dudik, Langford & Li 2011
    dr_os        dr with lambda w / (w^2 + lambda) for w                    Su et al. 2020, optimistic shrinkage
    switch_dr    dr with w 1[w <= tau] for w                                Wang, Agarwal & Dudik 2017

Intervals are at 95%, for the mean over requests such as these: Student's t, with as many degrees of freedom as the
estimate of a variance has where a few large weights make it (Satterthwaite 1946), 2 n / (kurtosis - 1). Rewards times
weights lean to one side, so that ips and clipped_ips are too low just when their error looks small: their intervals
are put aslant by Hall's transformation (1992), further up than down. They know nothing of a bias, which clipped_ips and
dm have. dr_os and switch_dr choose their lambda and tau by estimated squared error, and keep the width of dr's
interval, as what is chosen by the log is no narrower for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy import special

ESTIMATORS = ("replay", "ips", "clipped_ips", "snips", "dm", "dr", "dr_os", "switch_dr")

# with fewer effective requests than this share of the log, an estimate is not to be believed
LEAST_ESS = 0.1

_Z95 = 1.959964
# how many values of lambda and tau are tried
_GRID = 40


@dataclass(frozen=True)
class Estimate:
    """value +- stderr, its 95% interval, and the effective sample size behind it. A single request, and requests that
    all say the same, say nothing of their spread: stderr and interval are None.

    scores: (R,) one number a request, whose mean is the value; of a ratio they are linearised, so that their standard
    error is the ratio's. ess: of the weights, (sum w)^2 / sum w^2; of replay the requests that it keeps.
    """

    value: float
    stderr: float | None
    low: float | None
    high: float | None
    ess: float
    scores: np.ndarray

    @property
    def ess_share(self) -> float:
        """ess / R."""
        return self.ess / len(self.scores)

    @property
    def unreliable(self) -> str | None:
        """Why the estimate is not to be believed, in one line, or None."""
        if self.ess_share >= LEAST_ESS:
            return None
        return (
            f"its effective sample size is {self.ess:,.1f} of {len(self.scores):,} requests ({self.ess_share:.2%});"
            f" under {LEAST_ESS:.0%} it is not to be believed"
        )


def estimate(
    policy: np.ndarray,
    mask: np.ndarray,
    shown: np.ndarray,
    propensity: np.ndarray,
    reward: np.ndarray,
    predicted: np.ndarray,
    *,
    clip: float | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """All estimators, by name, in the order of `ESTIMATORS`.

    policy (R, N): probabilities of the policy to be judged, each row summing to 1 over the real items of mask (R, N)
    bool. shown (R,): columns. propensity (R,): the log's probability of what was shown. reward (R,). predicted (R, N).
    clip: the largest weight of clipped_ips; None is the square root of R (Ionides 2008). seed: of replay's sampling.
    Raises ValueError for what is no policy and no log.
    """
    check(policy, mask, shown, propensity, reward, predicted)
    rows = np.arange(len(shown))
    policy = np.where(mask, policy, 0.0).astype(np.float64)
    predicted = np.where(mask, predicted, 0.0).astype(np.float64)
    reward = np.asarray(reward, np.float64)
    weights = policy[rows, shown] / propensity
    expected, at_shown = (policy * predicted).sum(axis=1), predicted[rows, shown]
    residual = reward - at_shown
    found = {
        "replay": replay(weights, reward, seed),
        "ips": ips(weights, reward),
        "clipped_ips": clipped_ips(weights, reward, math.sqrt(len(rows)) if clip is None else clip),
        "snips": snips(weights, reward),
        "dm": direct_method(weights, expected),
        "dr": doubly_robust(weights, residual, expected),
        "dr_os": shrunk_dr(weights, residual, expected),
        "switch_dr": switch_dr(weights, residual, expected),
    }
    return {name: _without_false_certainty(one) for name, one in found.items()}


def check(
    policy: np.ndarray,
    mask: np.ndarray,
    shown: np.ndarray,
    propensity: np.ndarray,
    reward: np.ndarray,
    predicted: np.ndarray,
) -> None:
    """Raise ValueError, saying what is wrong, unless these are a policy and a log of the same requests."""
    if not len(shown):
        raise ValueError("there is no request in the log")
    rows = np.arange(len(shown))
    if not mask[rows, shown].all():
        raise ValueError("an item was shown that is none of its request's candidates")
    if not ((propensity > 0) & (propensity <= 1)).all():
        raise ValueError("a propensity is not in (0, 1]: what was shown had a probability")
    if not (np.isfinite(reward).all() and np.isfinite(predicted[mask]).all()):
        raise ValueError("a reward, or a predicted one, is not a finite number")
    probabilities = np.where(mask, policy, 0.0)
    if not (probabilities >= 0).all() or np.abs(probabilities.sum(axis=1) - 1).max() > 1e-4:
        raise ValueError("the policy's probabilities are negative, or do not sum to 1 over a request's candidates")


def effective_sample_size(weights: np.ndarray) -> float:
    """(sum w)^2 / sum w^2 of weights (R,): so many of equal weight say as much (Kish 1965). 0 if all are 0."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def replay(weights: np.ndarray, reward: np.ndarray, seed: int = 0) -> Estimate:
    """The mean reward of the requests kept: each with the probability w / (largest w), as rejection sampling has it.

    Of a uniform log and a policy that always knows what to show it is Li et al.'s replay: the requests are kept in
    which both show the same. NaN if nothing is kept.
    """
    top = weights.max()
    kept = np.random.default_rng(seed).random(len(weights)) * top < weights
    return _ratio(kept.astype(np.float64), reward, float(kept.sum()))


def ips(weights: np.ndarray, reward: np.ndarray) -> Estimate:
    """M[w r]: right on average wherever the log may show what the policy shows; with wide intervals."""
    return _aslant(_mean(weights * reward, effective_sample_size(weights)))


def clipped_ips(weights: np.ndarray, reward: np.ndarray, clip: float) -> Estimate:
    """M[min(w, clip) r]: less noise, and too little of the reward that stands behind large weights."""
    return _aslant(_mean(np.minimum(weights, clip) * reward, effective_sample_size(weights)))


def snips(weights: np.ndarray, reward: np.ndarray) -> Estimate:
    """M[w r] / M[w]: shifts with the reward, and stays within its range. NaN if all weights are 0.

    Standard error by the delta method on numerator and denominator: that of the scores v + w (r - v) / M[w].
    """
    return _ratio(weights, reward, effective_sample_size(weights))


def direct_method(weights: np.ndarray, expected: np.ndarray) -> Estimate:
    """M[e]: as good as the reward model, of whose error the interval knows nothing."""
    return _mean(expected, effective_sample_size(weights))


def doubly_robust(weights: np.ndarray, residual: np.ndarray, expected: np.ndarray) -> Estimate:
    """M[e + w (r - r_hat)]: right on average if either the propensities or the reward model are right.

    residual (R,): r - r_hat of the item shown. expected (R,): e, sum of pi r_hat over the slate.
    """
    return _mean(expected + weights * residual, effective_sample_size(weights))


def shrunk_dr(
    weights: np.ndarray, residual: np.ndarray, expected: np.ndarray, shrinkage: float | None = None
) -> Estimate:
    """DR with lambda w / (w^2 + lambda) for w: between the direct method (lambda = 0) and DR (infinite).

    shrinkage: lambda; None chooses it.
    """
    if shrinkage is None:
        top = float(weights.max()) or 1.0
        tried: Iterable[float] = [math.inf, *np.geomspace(1e4 * top**2, 1e-2, _GRID), 0.0]
        return _best(_shrink, tried, weights, residual, expected)
    return _biased(_shrink(weights, shrinkage), weights, residual, expected)


def switch_dr(weights: np.ndarray, residual: np.ndarray, expected: np.ndarray, most: float | None = None) -> Estimate:
    """DR where w <= tau, and the direct method where a weight is larger. most: tau; None chooses it."""
    if most is None:
        positive = weights[weights > 0]
        quantiles = np.quantile(positive, np.linspace(1, 0, _GRID)) if len(positive) else np.zeros(1)
        return _best(_switch, [math.inf, *np.unique(quantiles)[::-1], 0.0], weights, residual, expected)
    return _biased(_switch(weights, most), weights, residual, expected)


def _shrink(weights: np.ndarray, shrinkage: float) -> np.ndarray:
    if math.isinf(shrinkage):
        return weights
    below = weights**2 + shrinkage
    return np.divide(shrinkage * weights, below, out=np.zeros_like(weights), where=below > 0)


def _switch(weights: np.ndarray, most: float) -> np.ndarray:
    return np.where(weights <= most, weights, 0.0)


def _best(
    change: Callable[[np.ndarray, float], np.ndarray],
    tried: Iterable[float],
    weights: np.ndarray,
    residual: np.ndarray,
    expected: np.ndarray,
) -> Estimate:
    """The estimate of least estimated squared error, with the interval's width that DR has.

    The least of many errors is too small an error for its own interval: measured, that holds the truth in 86-88%.
    """
    found = [_biased(change(weights, each), weights, residual, expected) for each in tried]
    best = min(found, key=lambda one: math.inf if one.stderr is None else one.stderr)
    plain = doubly_robust(weights, residual, expected)
    if plain.high is None:
        return best
    half = plain.high - plain.value
    return Estimate(best.value, plain.stderr, best.value - half, best.value + half, best.ess, best.scores)


def _biased(changed: np.ndarray, weights: np.ndarray, residual: np.ndarray, expected: np.ndarray) -> Estimate:
    """DR with other weights, its standard error sqrt(variance + bias^2): the bias is the gap to DR's own weights."""
    plain = _mean(expected + changed * residual, effective_sample_size(weights))
    if plain.stderr is None:
        return plain
    bias = float(((weights - changed) * residual).mean())
    return _interval(plain.value, math.hypot(plain.stderr, bias), plain.ess, plain.scores)


def _ratio(weights: np.ndarray, reward: np.ndarray, ess: float) -> Estimate:
    total = float(weights.mean())
    if total == 0:
        return Estimate(math.nan, None, None, None, 0.0, np.full(len(weights), math.nan))
    value = float((weights * reward).mean()) / total
    scores = value + weights * (reward - value) / total
    # a single request says nothing of its own spread
    return _mean(scores, ess) if np.count_nonzero(weights) > 1 else _interval(value, None, ess, scores)


def _without_false_certainty(one: Estimate) -> Estimate:
    """No error instead of one of 0, or of what rounding leaves of it: a few rewards that are all 0 are no proof."""
    if one.stderr is None or one.stderr > 1e-13 * float(np.abs(one.scores).max()):
        return one
    return Estimate(one.value, None, None, None, one.ess, one.scores)


def _mean(scores: np.ndarray, ess: float) -> Estimate:
    n = len(scores)
    stderr = float(scores.std(ddof=1)) / math.sqrt(n) if n > 1 else None
    return _interval(float(scores.mean()), stderr, ess, scores)


def _interval(value: float, stderr: float | None, ess: float, scores: np.ndarray) -> Estimate:
    if stderr is None:
        return Estimate(value, None, None, None, ess, scores)
    half = _quantile(scores) * stderr
    return Estimate(value, stderr, value - half, value + half, ess, scores)


def _quantile(scores: np.ndarray) -> float:
    """The 97.5% point of Student's t with 2 n / (kurtosis - 1) degrees of freedom: n of normal scores, 2 where all of
    the variance is one request's."""
    squares = (scores - scores.mean()) ** 2
    variance = float(squares.mean())
    spread = float((squares**2).mean()) / variance**2 - 1 if variance else 0.0
    return float(special.stdtrit(2 * len(scores) / spread, 0.975)) if spread > 1e-9 else _Z95


def _aslant(plain: Estimate) -> Estimate:
    """The interval of a mean whose scores lean to one side: Hall, On the removal of skewness by transformation, 1992.

    t = (mean - truth) / stderr of such scores is skewed the other way; with their skewness over sqrt(n) for a,
    g(t) = t + a t^2 / 3 + a^2 t^3 / 27 + a / 6 is not, to second order, and rises throughout. The ends are where g is
    plus and minus the quantile. Of scores that do not lean it is the interval that was given.
    """
    if plain.stderr is None:
        return plain
    quantile, a = _quantile(plain.scores), _skewness(plain.scores) / math.sqrt(len(plain.scores))
    if abs(a) < 1e-6:
        return plain
    high, low = ((np.cbrt(1 + a * (x - a / 6)) - 1) * 3 / a for x in (-quantile, quantile))  # g's inverse
    value, stderr = plain.value, plain.stderr
    return Estimate(value, stderr, float(value - stderr * low), float(value - stderr * high), plain.ess, plain.scores)


def _skewness(scores: np.ndarray) -> float:
    centred = scores - scores.mean()
    variance = float((centred**2).mean())
    return float((centred**3).mean()) / variance**1.5 if variance else 0.0
