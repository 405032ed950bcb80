"""Softmax cross-entropy over a whole vocabulary, all at once or a few rows at a time."""

from __future__ import annotations

from typing import Any

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
    return _CrossEntropySum.apply(logits.flatten(0, -2).float(), targets.flatten(), ignore)


class _CrossEntropySum(torch.autograd.Function):
    """Sum of -log softmax(logits)[target]. torch's own keeps the log-probabilities, a second tensor as large as the
    logits, and its compiled gradient compares every logit's column with its row's target; this keeps one number a
    row and touches the target's column alone."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, ignore: int) -> Tensor:  # (N, V) fp32, (N,)
        counted = targets != ignore  # (N,)
        columns = targets.where(counted, 0)[:, None]  # (N, 1)
        log_sum = logits.logsumexp(dim=-1, keepdim=True)  # (N, 1)
        ctx.save_for_backward(logits, log_sum, columns, counted)
        return (log_sum - logits.gather(1, columns)).squeeze(1).where(counted, 0.0).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        logits, log_sum, columns, counted = ctx.saved_tensors
        weight = counted[:, None] * gradient  # (N, 1)
        # gradient of row n: weight * (softmax - one-hot of the target)
        rows = (logits - log_sum).exp_().mul_(weight)  # (N, V)
        # scatter and not scatter_add, which has no deterministic form on a GPU
        return rows.scatter_(1, columns, rows.gather(1, columns) - weight), None, None


def _count(targets: Tensor, ignore: int) -> Tensor:
    return (targets != ignore).sum().clamp(min=1)
