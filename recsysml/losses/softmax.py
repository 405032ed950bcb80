"""Softmax cross-entropy over a whole vocabulary, all at once or a few rows at a time."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

IGNORE = -100
# logits that linear_cross_entropy holds at once: what a CPU's caches like, and what an accelerator has memory for
CACHED_LOGITS = 1 << 19
DEVICE_LOGITS = 1 << 28


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


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, row_weights: Tensor | None = None) -> Tensor:
    """Mean of -log softmax(hidden @ weight.T)[target], in nats; row_weights (N,) make it one in their proportions.

    hidden (N, C), weight (V, C), targets (N,) int64, N at least 1. The gradient is formed with the loss, a few rows at
    a time, so that a row's logits are read while they lie in the cache and never kept: where C is small against V that
    is 2.5 times as fast on a CPU as one product for all rows. It can be differentiated once.
    """
    if row_weights is None:
        row_weights = hidden.new_ones(len(targets), dtype=torch.float32)
    shares = row_weights / row_weights.sum().clamp(min=torch.finfo(torch.float32).tiny)  # (N,)
    return _LinearCrossEntropy.apply(hidden, weight, targets, shares)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        hidden_gradient = torch.zeros_like(hidden, dtype=torch.float32) if wanted else None  # (N, C)
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if wanted else None  # (V, C)
        loss = hidden.new_zeros((), dtype=torch.float32)
        chunk = max(16, (CACHED_LOGITS if hidden.device.type == "cpu" else DEVICE_LOGITS) // len(weight))
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            rows, share = hidden[part], shares[part, None]  # (n, C), (n, 1)
            columns = targets[part, None]  # (n, 1)
            logits = (rows @ weight.T).float()  # (n, V)
            largest = logits.amax(dim=1, keepdim=True)
            logits -= largest
            own = logits.gather(1, columns)
            powers = logits.exp_()
            total = powers.sum(dim=1, keepdim=True)
            loss += (share * (total.log() - own)).sum()
            if hidden_gradient is None or weight_gradient is None:
                continue
            # gradient of row n: share * (softmax - one-hot of the target); the division by the total is left for last
            powers.scatter_(1, columns, powers.gather(1, columns) - total)
            scale = share / total
            hidden_gradient[part] = (powers.to(weight.dtype) @ weight) * scale
            weight_gradient.addmm_(powers.T, rows.float() * scale)
        if wanted:
            ctx.save_for_backward(hidden_gradient, weight_gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return hidden_gradient * gradient, weight_gradient * gradient, None, None


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
