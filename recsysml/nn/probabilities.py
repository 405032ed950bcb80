"""Logits of probabilities that are products, and the bias of the place in a slate; nothing leaves the logarithm."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# float32 tells 1 - p from 0 up to about here
_CLOSEST = -1e-6


def logit_of_log(log_p: Tensor) -> Tensor:
    """log p, below 0 -> log(p / (1 - p)), exact for p near 0 and finite for p near 1."""
    log_p = log_p.clamp(max=_CLOSEST)
    large = log_p > -math.log(2)
    # each branch is given only what it can take: the gradient of the one not chosen must be finite as well
    near_one = torch.log(-torch.expm1(torch.where(large, log_p, -1.0)))
    near_zero = torch.log1p(-torch.exp(torch.where(large, -1.0, log_p)))
    return log_p - torch.where(large, near_one, near_zero)


def joint_logit(parent: Tensor, conditional: Tensor) -> Tensor:
    """Logits of p(a) and p(b | a) -> the logit of p(a) p(b | a) = p(a and b)."""
    return logit_of_log(F.logsigmoid(parent) + F.logsigmoid(conditional))


class PositionBias(nn.Module):
    """What a place in the slate does to each of T tasks, apart from what stands there; the top place does nothing.

    additive: b(place), added to the logit. examination: p = e(place) sigmoid(logit) with 0 < e <= 1: seen and relevant
    (Craswell et al. 2008). Both are 0, or 1, at place 0, so that leaving them out serves everything as if at the top.
    """

    def __init__(self, kind: str, n_places: int, n_tasks: int) -> None:
        super().__init__()
        if kind not in ("additive", "examination"):
            raise ValueError(f"position bias {kind!r} does not exist: use additive or examination")
        self.kind = kind
        self.places = nn.Parameter(torch.zeros(max(0, n_places - 1), n_tasks))

    def bias(self) -> Tensor:
        """(n_places, T): b, or log e."""
        below = self.places if self.kind == "additive" else -F.softplus(self.places - 3.0)  # e begins near 1
        return F.pad(below, (0, 0, 1, 0))

    def forward(self, logits: Tensor, positions: Tensor) -> Tensor:
        """logits (B, T) of the top place, positions (B,) -> (B, T) of the places."""
        bias = self.bias()[positions]
        return logits + bias if self.kind == "additive" else logit_of_log(F.logsigmoid(logits) + bias)
