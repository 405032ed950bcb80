"""Losses that ask for the right probabilities of many rows together, to be added to a log loss.

All gaps are squared: in a bucket of a calibrated model the gap is 0 on average, and so is the gradient of its square.
The absolute gap pulls even there, as the labels of a batch fall. Any batch size is taken and no row is dropped.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def group_gaps(logits: Tensor, labels: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """logits, labels (B,), groups (B,) in [0, n_groups) -> sum over groups of n_g / B (mean p - mean y)^2.

    An empty group costs nothing.
    """
    sums = logits.new_zeros(n_groups).index_add(0, groups, torch.sigmoid(logits) - labels)
    counts = torch.bincount(groups, minlength=n_groups)
    return (sums.square() / counts.clamp(min=1)).sum() / len(logits)


def bucket_loss(logits: Tensor, labels: Tensor, n_buckets: int = 10, binning: str = "mass") -> Tensor:
    """The squared gap of buckets of the predicted probability, weighed by their rows.

    binning: mass (buckets of as equal a number of rows as can be) or width (equal parts of [0, 1]).
    """
    p = torch.sigmoid(logits.detach())
    if binning == "width":
        buckets = (p * n_buckets).long().clamp(max=n_buckets - 1)
    elif binning == "mass":
        ranks = torch.empty_like(p, dtype=torch.long)
        ranks[torch.argsort(p, stable=True)] = torch.arange(len(p), device=p.device)
        buckets = ranks * n_buckets // max(1, len(p))
    else:
        raise ValueError(f"binning {binning!r} does not exist: use mass or width")
    return group_gaps(logits, labels, buckets, n_buckets)


def cohort_loss(logits: Tensor, labels: Tensor, cohorts: Tensor, n_cohorts: int) -> Tensor:
    """The squared gap of each cohort, weighed by its rows; cohorts (B,) ids below n_cohorts."""
    return group_gaps(logits, labels, cohorts, n_cohorts)


def listwise_loss(logits: Tensor, labels: Tensor, requests: Tensor) -> Tensor:
    """Cross-entropy, within each request, of the labels against the shares of the probabilities.

    logits, labels (B,), requests (B,) any ids. A request's probabilities are divided by their sum, so that p = E[y] is
    best for this loss and for the log loss that it is added to: regression compatible ranking (Bai et al. 2023, eq. 8).
    There a request's labels are divided by their sum too; then p = E[y] is best only where no request has two
    positives, so here each positive counts one. The mean over positives; 0 where there is none.
    """
    _, which = torch.unique(requests, return_inverse=True)
    n = int(which.max()) + 1 if len(which) else 0
    log_p = F.logsigmoid(logits)
    # log of a request's sum of probabilities, by its largest so that nothing underflows
    largest = log_p.detach().new_full((n,), -torch.inf).scatter_reduce(0, which, log_p.detach(), "amax")
    sums = log_p.new_zeros(n).index_add(0, which, torch.exp(log_p - largest[which]))
    log_share = log_p - largest[which] - torch.log(sums)[which]
    return -(labels * log_share).sum() / labels.sum().clamp(min=1)
