"""How well probabilities order and fit what happened: AUC, grouped AUC, log loss, normalised entropy; standard errors.

Ties count half. Standard errors are those of rows drawn alone (AUC, log loss, NE) or groups drawn alone (grouped AUC).
"""

from __future__ import annotations

import math

import numpy as np


def _mid_ranks(values: np.ndarray) -> np.ndarray:
    """(n,) ranks from 1, equal values sharing the mean of theirs."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    group = np.cumsum(begins) - 1
    first = np.flatnonzero(begins)
    last = np.concatenate([first[1:], [len(values)]])
    ranks = np.empty(len(values))
    ranks[order] = ((first + last + 1) / 2)[group]
    return ranks


def auc(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """P(a positive scores above a negative) and its standard error (DeLong et al. 1988; ranks as Sun & Xu 2014).

    scores, labels (n,). NaN where there are no positives or no negatives.
    """
    positive, negative = auc_parts(scores, labels)
    if not len(positive) or not len(negative):
        return math.nan, math.nan
    spread = sum(part.var(ddof=1) / len(part) if len(part) > 1 else math.nan for part in (positive, negative))
    return float(positive.mean()), math.sqrt(spread)


def auc_parts(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each positive the share of negatives below it, of each negative the share of positives above it."""
    chosen = labels > 0
    p, n = int(chosen.sum()), int((~chosen).sum())
    if not p or not n:
        return np.zeros(0), np.zeros(0)
    ranks = _mid_ranks(scores)
    return (ranks[chosen] - _mid_ranks(scores[chosen])) / n, 1 - (ranks[~chosen] - _mid_ranks(scores[~chosen])) / p


def auc_difference(a: np.ndarray, b: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """AUC of b minus AUC of a on the same rows, and the difference's standard error (DeLong et al. 1988)."""
    parts = [other - own for own, other in zip(auc_parts(a, labels), auc_parts(b, labels), strict=True)]
    return float(parts[0].mean()), math.sqrt(sum(part.var(ddof=1) / len(part) for part in parts))


def grouped_auc(scores: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> tuple[float, float, int]:
    """The mean AUC within groups that hold both answers, each weighed by its rows (GAUC, Zhou et al. 2018, section 6).

    Returns the value, its standard error (a ratio of sums over groups) and how many groups count.
    """
    order = np.lexsort((scores, groups))
    scores, labels, groups = scores[order], labels[order] > 0, groups[order]
    begins = np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1]])) if len(groups) else np.zeros(0, int)
    sizes = np.diff(np.concatenate([begins, [len(groups)]]))
    owner = np.repeat(np.arange(len(begins)), sizes)
    same = np.concatenate([[False], (scores[1:] == scores[:-1]) & (owner[1:] == owner[:-1])])
    tie = np.cumsum(~same) - 1  # runs of equal scores within a group
    place = np.arange(len(scores)) - begins[owner] + 1.0
    ranks = (np.bincount(tie, weights=place) / np.bincount(tie))[tie]
    positives = np.bincount(owner, weights=labels, minlength=len(begins))
    negatives = sizes - positives
    rank_sum = np.bincount(owner, weights=ranks * labels, minlength=len(begins))
    counted = (positives > 0) & (negatives > 0)
    if not counted.any():
        return math.nan, math.nan, 0
    p, n, weights = positives[counted], negatives[counted], sizes[counted].astype(np.float64)
    each = (rank_sum[counted] - p * (p + 1) / 2) / (p * n)
    value = float((weights * each).sum() / weights.sum())
    residual = weights * (each - value)
    error = math.sqrt((residual**2).sum()) / weights.sum() if len(each) > 1 else math.nan
    return value, error, int(counted.sum())


def log_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) of each row, in nats."""
    return np.logaddexp(0, logits) - labels * logits


def log_loss(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The mean, and its standard error."""
    losses = log_losses(logits, labels)
    return float(losses.mean()), float(losses.std(ddof=1) / math.sqrt(len(losses)))


def normalised_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Log loss over that of the rows' own rate (He et al. 2014): below 1 where features tell something.

    The standard error is that of a ratio of two means over the same rows. NaN where all labels are one.
    """
    shares = influence("ne", logits, labels)
    if shares is None:
        return math.nan, math.nan
    losses, base = log_losses(logits, labels), _base_losses(labels)
    return float(losses.mean() / base.mean()), float(shares.std(ddof=1) / math.sqrt(len(labels)))


def _base_losses(labels: np.ndarray) -> np.ndarray:
    rate = labels.mean()
    return log_losses(np.full(len(labels), math.log(rate / (1 - rate))), labels)


def influence(name: str, logits: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """(n,) what each row adds to `auc` or `ne`, mean 0: their spread over the root of n is the standard error.

    None where all labels are one. Means over several metrics of the same rows have the mean of these.
    """
    chosen = labels > 0
    n, p = len(labels), int(chosen.sum())
    if not 0 < p < n:
        return None
    if name == "ne":
        losses, base = log_losses(logits, labels), _base_losses(labels)
        return (losses - losses.mean() / base.mean() * base) / base.mean()
    positive, negative = auc_parts(logits, labels)
    found = np.empty(n)
    found[chosen] = (positive - positive.mean()) * (n / p)
    found[~chosen] = (negative - negative.mean()) * (n / (n - p))
    return found
