"""What of a user's past matters for one candidate: the candidate is the query, the past events are the keys.

All take target (B, D), events (B, H, D) and real (B, H) bool, and give (B, D). Padding changes nothing; a user without
a past has zeros.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DINAttention(nn.Module):
    """A small network weighs each event against the target; weights are not normalised (Zhou et al. 2018, eq. 3).

    So strength of interest is kept: many events that fit add up to more than one does.
    """

    def __init__(self, width: int, hidden: int = 32) -> None:
        super().__init__()
        self.event = nn.Linear(width, hidden)
        self.target = nn.Linear(width, hidden, bias=False)
        self.product = nn.Linear(width, hidden, bias=False)
        self.out = nn.Linear(hidden, 1)

    def forward(self, target: Tensor, events: Tensor, real: Tensor) -> Tensor:
        # a linear layer over (event, target, event - target, event * target): the difference adds nothing to the sum of
        # the first two, and the target's share is computed once a row instead of once an event
        hidden = self.event(events) + self.target(target)[:, None] + self.product(events * target[:, None])
        weights = self.out(F.silu(hidden)).squeeze(-1) * real  # (B, H)
        return torch.einsum("bh,bhd->bd", weights, events)


class MultiHeadTargetAttention(nn.Module):
    """Scaled dot-product attention with one query: the target (Vaswani et al. 2017)."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        assert width % n_heads == 0
        self.n_heads = n_heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, target: Tensor, events: Tensor, real: Tensor) -> Tensor:
        batch, length, width = events.shape
        query = self.query(target).view(batch, self.n_heads, 1, -1)
        keys, values = (
            part.view(batch, length, self.n_heads, -1).transpose(1, 2)
            for part in self.key_value(events).split(width, dim=-1)
        )  # (B, N, H, C) each
        scores = (query * keys).sum(dim=-1).float() / math.sqrt(width // self.n_heads)  # (B, N, H)
        some = real.any(dim=1)[:, None, None]  # (B, 1, 1)
        scores = scores.masked_fill(~real[:, None, :] & some, -math.inf)  # without any real one it would be 0 / 0
        weights = scores.softmax(dim=-1).to(values.dtype) * some
        return self.out(torch.einsum("bnh,bnhc->bnc", weights, values).reshape(batch, width))


class HSTUTargetAttention(nn.Module):
    """Pointwise attention with a gate (HSTU, Zhai et al. 2024, eqs. 1-3), of one query: the target.

    Weights are SiLU of the products, not a softmax over them: how well the past fits is kept. They are divided by the
    number of real events, where the paper divides by the number of places, so that padding never changes a score.
    """

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        assert width % n_heads == 0
        self.n_heads = n_heads
        self.query_gate = nn.Linear(width, 2 * width)
        self.key_value = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)

    def forward(self, target: Tensor, events: Tensor, real: Tensor) -> Tensor:
        batch, length, width = events.shape
        query, gate = F.silu(self.query_gate(target)).split(width, dim=-1)  # (B, D) each
        keys, values = F.silu(self.key_value(events)).view(batch, length, 2, self.n_heads, -1).unbind(dim=2)
        scores = torch.einsum("bnc,bhnc->bnh", query.view(batch, self.n_heads, -1), keys)  # (B, N, H)
        weights = F.silu(scores) * real[:, None, :] / real.sum(dim=1).clamp(min=1)[:, None, None]
        mixed = torch.einsum("bnh,bhnc->bnc", weights, values).reshape(batch, width)
        return self.out(self.norm(mixed) * gate) * real.any(dim=1, keepdim=True)


def make_target_attention(kind: str, width: int, n_heads: int) -> nn.Module:
    """din, multi_head or hstu."""
    if kind == "din":
        return DINAttention(width)
    if kind == "multi_head":
        return MultiHeadTargetAttention(width, n_heads)
    if kind == "hstu":
        return HSTUTargetAttention(width, n_heads)
    raise ValueError(f"target attention {kind!r} does not exist: use din, multi_head or hstu")
