"""Dropout (Srivastava et al. 2014) that costs less on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 2**16


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """As `F.dropout`: each number is 0 with probability p, else 1 / (1 - p) times itself.

    torch's own draws a number for every element on a CPU, which was half of a ranker's step. Here one draw of 64 bits
    decides on four, so that p is rounded to 1/65,536; it follows torch's seed as well.
    """
    if not training or p == 0.0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling() or p == 1.0:
        return F.dropout(x, p)
    n = x.numel()
    bits = torch.empty((n + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    kept = bits.view(torch.int16)[:n].view(x.shape) >= round(p * _LEVELS) - _LEVELS // 2
    return x * kept.to(x.dtype).mul_(1 / (1 - p))
