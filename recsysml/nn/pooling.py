"""A sequence so far as one vector, at every position at once; position t sees 0 .. t and nothing later."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def causal_mean(x: Tensor, real: Tensor) -> Tensor:
    """(B, T, C), real (B, T) bool -> (B, T, C): the mean of the real positions up to each; 0 where there is none."""
    kept = real[..., None].to(x.dtype)  # (B, T, 1)
    return (x * kept).cumsum(dim=1) / kept.cumsum(dim=1).clamp(min=1)


class CausalAttentionPooling(nn.Module):
    """Attention without a target: softmax over the positions up to t of a learnt score of each, times their values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False)
        self.value = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """(B, T, C), real (B, T) bool -> (B, T, C); 0 where no position up to t is real."""
        scores = self.score(x).float().squeeze(-1).masked_fill(~real, -math.inf)  # (B, T)
        length = x.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        logits = scores[:, None, :].masked_fill(later, -math.inf)  # (B, T, T): row t, its positions
        some = real.cumsum(dim=1).bool()[..., None]  # (B, T, 1)
        weights = logits.where(some, 0.0).softmax(dim=-1)  # without any real position it would be 0 / 0
        return (weights.to(x.dtype) @ self.value(x)) * some
