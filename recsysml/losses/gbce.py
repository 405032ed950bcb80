"""Generalised binary cross-entropy (Petrov & Macdonald, RecSys 2023): sampled negatives without overconfidence."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from recsysml.losses.sampled_softmax import weighted_mean


def gbce(
    positive: Tensor,
    negative: Tensor,
    excluded: Tensor,
    n_items: int,
    calibration: float,
    *,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean over rows of -(beta log sigmoid(positive) + sum of log(1 - sigmoid(negative))) / (S + 1), in nats.

    positive (N,) logits; negative (N, S) of items drawn uniformly; excluded (N, S) takes some out of a row.
    beta = alpha (t (1 - 1/alpha) + 1/alpha), with alpha = S / (n_items - 1) and t = `calibration` (eq. 14): 0 is plain
    binary cross-entropy, which with few negatives ends at sigmoids near 1; at 1 the sigmoid is the probability itself.
    """
    sampled = negative.shape[1]
    alpha = sampled / (n_items - 1)
    beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)
    others = F.logsigmoid(-negative.float().masked_fill(excluded, -math.inf)).sum(dim=1)
    return weighted_mean(-(beta * F.logsigmoid(positive.float()) + others) / (sampled + 1), weights)
