"""Metrics of whole slates: what they are worth, how alike their items are, and whether they mirror a taste."""

from __future__ import annotations

import numpy as np


def slate_regret(rewards: np.ndarray, slates: np.ndarray, discounts: np.ndarray) -> np.ndarray:
    """(R,) what slates lose against the best ones, as a share of these: 0 of the best, at most 1 where all gain.

    rewards (R, M) of all candidates, slates (R, L) columns of them, top first, discounts (L,) of places, falling.
    """
    length = slates.shape[1]
    best = -np.sort(-rewards, axis=1)[:, :length] @ discounts
    shown = np.take_along_axis(rewards, slates, axis=1) @ discounts
    return np.asarray(np.where(best > 0, 1 - shown / np.where(best > 0, best, 1), 0.0))


def slate_ndcg(relevance: np.ndarray, scores: np.ndarray, real: np.ndarray) -> np.ndarray:
    """(R,) NDCG of slates ordered by scores, gains as they are, equal scores sharing the mean of their places.

    relevance >= 0, scores and real (whether there is an item) (R, M). The same as scikit-learn's `ndcg_score`, but NaN
    where nothing is relevant.
    """
    n_rows, width = relevance.shape
    discounts = 1 / np.log2(np.arange(2, width + 2))
    gains = np.where(real, relevance, 0.0)
    scores = np.where(real, scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")
    ordered = np.take_along_axis(scores, order, axis=1)
    begins = np.ones((n_rows, width), bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    tie = np.cumsum(begins.ravel()) - 1  # runs of equal scores, within a row
    mean = np.bincount(tie, weights=np.take_along_axis(gains, order, axis=1).ravel()) / np.bincount(tie)
    reached = (mean[tie].reshape(n_rows, width) * discounts).sum(axis=1)
    best = (-np.sort(-gains, axis=1) * discounts).sum(axis=1)
    return np.where(best > 0, reached / np.where(best > 0, best, 1), np.nan)


def shares(slates: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """(R, G) mean share of each category over the slates' items; categories (R, M, G), each item's sum to 1."""
    return np.asarray(np.take_along_axis(categories, slates[..., None], axis=1).mean(axis=1))


def miscalibration(prior: np.ndarray, shown: np.ndarray, smoothing: float = 0.01) -> np.ndarray:
    """(R,) KL(prior || shown) in nats, with a little of the prior mixed into what is shown (Steck 2018, eqs. 4-5).

    prior, shown (R, G), rows that sum to 1. 0 where the slate's categories are the user's own.
    """
    mixed = (1 - smoothing) * shown + smoothing * prior
    parts = np.where(prior > 0, prior * np.log(np.where(prior > 0, prior, 1) / np.where(prior > 0, mixed, 1)), 0.0)
    return np.asarray(parts.sum(axis=1))


def intra_list_similarity(slates: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(R,) mean cosine of the pairs within each slate; vectors (R, M, D) of the candidates. Slates hold 2 or more."""
    chosen = np.take_along_axis(vectors, slates[..., None], axis=1)
    chosen = chosen / np.maximum(np.linalg.norm(chosen, axis=2, keepdims=True), 1e-12)
    n = slates.shape[1]
    together = (chosen.sum(axis=1) ** 2).sum(axis=1) - (chosen**2).sum(axis=(1, 2))
    return np.asarray(together / (n * (n - 1)))


def coverage(slates: np.ndarray, n_items: int) -> float:
    """Effective number of items shown, exp of the entropy of their shares, over n_items: 1 when all are shown alike.

    slates: (R, L) ids below n_items. It is what exploration buys with regret.
    """
    share = np.bincount(slates.ravel(), minlength=n_items) / slates.size
    held = share[share > 0]
    return float(np.exp(-(held * np.log(held)).sum()) / n_items)
