"""The policy that made a log, estimated where the log does not say it.

A conditional logit (McFadden 1974): p(shown | request) = softmax over the request's candidates of w . x. Cross-fitted:
a request's propensity comes from requests without it, so that it is not fitted to what happened to be shown there.
"""

from __future__ import annotations

import numpy as np

from recsysml.data.progress import progress

# requests whose scores and gradient are computed at once
_CHUNK = 4096


def estimate(
    features: np.ndarray, mask: np.ndarray, shown: np.ndarray, *, folds: int = 5, penalty: float = 1.0, seed: int = 0
) -> np.ndarray:
    """(R, N) float64 probabilities of every candidate, 0 outside of mask; rows sum to 1.

    features (R, N, F); mask (R, N) bool; shown (R,) columns. penalty: on half the squares of the weights of
    standardised features. Raises ValueError if there are fewer than two requests a fold.
    """
    n = len(shown)
    if n < 2 * folds:
        raise ValueError(f"{n} requests are too few to estimate propensities in {folds} folds")
    known = features[mask].astype(np.float64)
    scale = known.std(axis=0)
    scaled = (features - known.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    fold = np.random.default_rng(seed).permutation(n) % folds
    found = np.zeros(mask.shape)
    with progress("estimating propensities", folds) as advance:
        for each in range(folds):
            inside = fold == each
            weights = _fit(scaled[~inside], mask[~inside], shown[~inside], penalty)
            found[inside] = _probabilities(scaled[inside], mask[inside], weights)
            advance(1)
    return found


def _fit(x: np.ndarray, mask: np.ndarray, shown: np.ndarray, penalty: float) -> np.ndarray:
    """(F,) weights of the largest penalised likelihood, which is concave."""
    from scipy.optimize import minimize

    rows = np.arange(len(shown))
    observed = x[rows, shown].sum(axis=0)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        value, expected = 0.5 * penalty * float(weights @ weights), np.zeros_like(weights)
        for start in range(0, len(shown), _CHUNK):
            part = slice(start, start + _CHUNK)
            p = _probabilities(x[part], mask[part], weights)
            value -= float(np.log(np.maximum(p[np.arange(len(p)), shown[part]], 1e-300)).sum())
            expected += np.einsum("rn,rnf->f", p, x[part])
        return value, expected - observed + penalty * weights

    return np.asarray(minimize(loss, np.zeros(x.shape[2]), jac=True, method="L-BFGS-B", options={"maxiter": 200}).x)


def _probabilities(x: np.ndarray, mask: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R, N)."""
    scores = np.where(mask, x @ weights, -np.inf)
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))
