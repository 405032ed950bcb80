"""Rotary position embedding (Su et al. 2021, RoFormer, eq. 34)."""

from __future__ import annotations

import torch
from torch import Tensor


def rope_tables(length: int, width: int, theta: float = 10000.0) -> tuple[Tensor, Tensor]:
    """cos and sin of m * theta^(-2i/width), each (length, width/2), fp32. Row m depends on m alone, never on `length`.

    The angles are formed in fp64: in fp32 the angle at position 1000 is already off by 3e-5.
    """
    if width % 2:
        raise ValueError(f"rope turns pairs of numbers: the head width must be even, not {width}")
    frequency = theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)  # (D/2,)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency)  # (T, D/2)
    return angle.cos().float(), angle.sin().float()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x (B, H, T, D) by the T rows of the tables (T, D/2), in fp32.

    Number i is paired with number i + D/2 (the layout of Hugging Face's models), not with its neighbour: the same
    rotation up to a fixed reordering of the columns of the query and key matrices.
    """
    first, second = x.float().chunk(2, dim=-1)  # (B, H, T, D/2) each
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
