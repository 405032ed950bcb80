"""The position-wise networks of a transformer block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def hidden_width(kind: str, width: int) -> int:
    """4d for gelu. For swiglu 8/3 d, which makes its three matrices as large as gelu's two (Shazeer 2020, section 3).

    8/3 d is rounded to 64 columns where that is a small change (d >= 1024), else to 16.
    """
    if kind == "gelu":
        return 4 * width
    step = 64 if width >= 1024 else 16
    return max(step, round(8 * width / 3 / step) * step)


class GELUMLP(nn.Module):
    """out(gelu(up(x))), with the tanh approximation that GPT-2 was trained with: (..., C) -> (..., C)."""

    def __init__(self, width: int, hidden: int, bias: bool = True) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden, bias=bias)
        self.out = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.up(x), approximate="tanh"))


class SwiGLU(nn.Module):
    """out(silu(gate(x)) * up(x)) (Shazeer 2020, eq. 6): (..., C) -> (..., C)."""

    def __init__(self, width: int, hidden: int, bias: bool = False) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=bias)
        self.up = nn.Linear(width, hidden, bias=bias)
        self.out = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.silu(self.gate(x)) * self.up(x))


def make_mlp(kind: str, width: int, bias: bool) -> GELUMLP | SwiGLU:
    """gelu or swiglu, with the hidden width `hidden_width` gives."""
    if kind == "gelu":
        return GELUMLP(width, hidden_width(kind, width), bias)
    if kind == "swiglu":
        return SwiGLU(width, hidden_width(kind, width), bias)
    raise ValueError(f"mlp {kind!r} does not exist: use gelu or swiglu")
