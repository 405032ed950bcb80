"""How well a ranking finds the items a user turned to: from the targets' ranks alone. Numpy only.

A target's rank counts from 1 in the full list of candidates. Items of equal score share the middle of the places they
take (mid-rank), so that a model which scores all alike gets the middle of the list and not its top.
"""

from __future__ import annotations

import math

import numpy as np

IN_BATCH = 1024  # the batch in_batch_hit_rate@1 is defined on


def mid_ranks(scores: np.ndarray, rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(R, I) scores, targets (N,) each in row rows (N,) -> (N,) float64 ranks: 1 + greater + half of the other equals.

    Candidates that do not count have the score -inf; a target must not be one. NaN is an error: it has no place.
    """
    own = scores[rows, targets]  # (N,)
    if np.isnan(scores).any():
        raise ValueError("a score is not a number: the model has diverged or its input is broken")
    if np.isneginf(own).any():
        raise ValueError("a target is no candidate of its row: leave it out before its rank is asked for")
    ranks = np.empty(len(targets))
    step = max(1, (1 << 22) // max(1, scores.shape[1]))  # rows of targets whose comparisons fit a cache
    for start in range(0, len(targets), step):
        part = slice(start, start + step)
        seen = scores[rows[part]]  # (n, I)
        mine = own[part, None]
        ranks[part] = (seen > mine).sum(axis=1) + ((seen == mine).sum(axis=1) + 1) / 2
    return ranks


def recall(ranks: np.ndarray, offsets: np.ndarray, k: int) -> np.ndarray:
    """(U,) share of each user's targets within the first k places.

    ranks (N,) user by user; offsets (U + 1,), where each user's targets begin. Every user has at least one.
    """
    return _sums(ranks <= k, offsets) / np.diff(offsets)


def hit_rate(ranks: np.ndarray, offsets: np.ndarray, k: int) -> np.ndarray:
    """(U,) 1 where any of the user's targets is within the first k places, else 0."""
    return (_sums(ranks <= k, offsets) > 0).astype(np.float64)


def ndcg(ranks: np.ndarray, offsets: np.ndarray, k: int) -> np.ndarray:
    """(U,) sum of 1 / log2(1 + rank) over targets within k, over the most it can be (Jarvelin & Kekalainen 2002)."""
    gains = _sums(np.where(ranks <= k, 1 / np.log2(1 + ranks), 0.0), offsets)
    best = np.concatenate([[0.0], np.cumsum(1 / np.log2(2 + np.arange(k)))])  # (k + 1,) by how many targets fit
    return gains / best[np.minimum(np.diff(offsets), k)]


def reciprocal_rank(ranks: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(U,) 1 / rank of the user's best placed target."""
    return 1 / np.minimum.reduceat(ranks, offsets[:-1])


def coverage(top: np.ndarray, n_items: int) -> float:
    """Share of the catalogue that stands on at least one list; top (U, k) item indices, -1 where a list is shorter."""
    return len(np.unique(top[top >= 0])) / n_items


def mean(values: np.ndarray) -> tuple[float, float | None]:
    """The mean of (n,) values and its standard error, None for fewer than two."""
    if not len(values):
        raise ValueError("nothing to judge: no user has a target")
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return float(values.mean()), error


def popularity_deciles(counts: np.ndarray) -> np.ndarray:
    """(I,) training counts -> (I,) 1 (the least popular tenth of the items) to 10; items of equal count share one."""
    order = np.sort(counts)
    middle = (np.searchsorted(order, counts, "left") + np.searchsorted(order, counts, "right")) / 2
    return np.minimum(middle * 10 // len(counts), 9).astype(np.int64) + 1


def history_groups(lengths: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(U,) history lengths -> (U,) group numbers and the groups' names: 0, 1_to_4, 5_to_9, 10_to_49, 50_up."""
    bounds = np.array([1, 5, 10, 50])
    return np.searchsorted(bounds, lengths, side="right"), ["0", "1_to_4", "5_to_9", "10_to_49", "50_up"]


def in_batch_hits(scores: np.ndarray, items: np.ndarray) -> np.ndarray:
    """(B,) 1 where a row's own item outscores every other item of the batch, else 0 (a tie is no hit).

    scores (B, B): row i's user against the item of row j; items (B,). A row that holds row i's own item again is no
    negative of it and is left out.
    """
    same = items[:, None] == items[None, :]  # (B, B)
    best = np.where(same, -np.inf, scores).max(axis=1, initial=-np.inf)
    return (np.diagonal(scores) > best).astype(np.float64)


def effective_rank(vectors: np.ndarray) -> float:
    """exp of the entropy of the singular values as shares of their sum, of (N, C) vectors (Roy & Vetterli 2007).

    Between 1 (all on one line) and C.
    """
    shares = spectrum(vectors)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def spectrum(vectors: np.ndarray) -> np.ndarray:
    """(min(N, C),) singular values of (N, C) vectors as shares of their sum, falling; all 0 where that is 0."""
    values = np.linalg.svd(np.asarray(vectors, np.float64), compute_uv=False)
    return values / (values.sum() or 1.0)


def alignment(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """(N,) squared distance of each positive pair on the unit sphere; its mean is Wang & Isola 2020, eq. 2, alpha 2."""
    return np.square(_unit(users) - _unit(items)).sum(axis=1)


def uniformity(vectors: np.ndarray) -> float:
    """log of the mean of exp(-2 d^2) over all pairs of (N, C) vectors on the unit sphere (Wang & Isola 2020, eq. 3).

    0 where all are one point; the lower, the more evenly they are spread.
    """
    unit = _unit(vectors)
    squared = 2 - 2 * (unit @ unit.T)[np.triu_indices(len(unit), 1)]  # (N (N - 1) / 2,)
    return float(np.log(np.exp(-2 * squared).mean()))


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    assert (np.diff(offsets) > 0).all(), "a user without targets cannot be judged"
    return np.add.reduceat(values.astype(np.float64), offsets[:-1])
