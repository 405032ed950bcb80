"""Softmax cross-entropy over a whole vocabulary, all at once or a few rows at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

IGNORE = -100


def cross_entropy(logits: Tensor, targets: Tensor, ignore: int = IGNORE) -> Tensor:
    """Mean of -log softmax(logits)[target], in nats, over the targets that are not `ignore`; 0 if all are.

    logits (..., V), computed in fp32 whatever they come in; targets (...) int64.
    """
    return _sum(logits, targets, ignore) / _count(targets, ignore)


def token_losses(logits: Tensor, targets: Tensor, ignore: int = IGNORE) -> Tensor:
    """Like `cross_entropy`, one by one: (..., V), (...) -> (...) fp32, 0 where the target is `ignore`."""
    flat = F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=ignore, reduction="none")
    return flat.view(targets.shape)


def chunked_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, n_classes: int, chunk: int, ignore: int = IGNORE
) -> Tensor:
    """cross_entropy(hidden @ weight.T[..., :n_classes], targets), with the logits of only `chunk` rows alive at a time.

    hidden (..., C), weight (>= n_classes, C), targets (...). The logits are formed again in the backward pass: less
    memory for more time.
    """
    hidden, targets = hidden.flatten(0, -2), targets.flatten()  # (N, C), (N,)

    def part(rows: Tensor, wanted: Tensor) -> Tensor:
        return _sum(F.linear(rows, weight)[:, :n_classes], wanted, ignore)

    total = hidden.new_zeros((), dtype=torch.float32)
    for rows, wanted in zip(hidden.split(chunk), targets.split(chunk), strict=True):
        total = total + checkpoint(part, rows, wanted, use_reentrant=False)
    return total / _count(targets, ignore)


def _sum(logits: Tensor, targets: Tensor, ignore: int) -> Tensor:
    flat = logits.flatten(0, -2).float()
    return F.cross_entropy(flat, targets.flatten(), ignore_index=ignore, reduction="sum")


def _count(targets: Tensor, ignore: int) -> Tensor:
    return (targets != ignore).sum().clamp(min=1)
