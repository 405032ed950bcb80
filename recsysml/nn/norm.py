"""Normalisation over the last axis."""

from __future__ import annotations

from torch import nn

EPSILON = 1e-5


def make_norm(kind: str, width: int, bias: bool = True) -> nn.Module:
    """layernorm (Ba et al. 2016) or rmsnorm (Zhang & Sennrich 2019), which never has a bias: (..., C) -> (..., C)."""
    if kind == "layernorm":
        return nn.LayerNorm(width, eps=EPSILON, bias=bias)
    if kind == "rmsnorm":
        return nn.RMSNorm(width, eps=EPSILON)
    raise ValueError(f"norm {kind!r} does not exist: use layernorm or rmsnorm")
