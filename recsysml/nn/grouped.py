"""One matrix product per group of rows, with the group sizes known only at run time.

An operator of our own, because the shapes around it are fixed while those inside are not: so a compiled graph stays
whole (`fullgraph=True`), nothing is padded and no row is dropped. The weights stay separate 2-D matrices.
"""

from __future__ import annotations

import torch
from torch import Tensor


def grouped_linear(x: Tensor, counts: Tensor, weights: list[Tensor]) -> Tensor:
    """Rows of x (M, C), sorted by group; the first counts[0] rows times weights[0].T and so on: -> (M, H).

    `counts` (E,) int64 must sum to M; each of the E weights is (H, C).
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weights = x.to(dtype), [weight.to(dtype) for weight in weights]
    return _grouped_linear(x, counts, weights)


@torch.library.custom_op("recsysml::grouped_linear", mutates_args=())
def _grouped_linear(x: Tensor, counts: Tensor, weights: list[Tensor]) -> Tensor:
    return torch.cat([rows @ weight.T for rows, weight in zip(x.split(counts.tolist()), weights, strict=True)])


@_grouped_linear.register_fake
def _(x: Tensor, counts: Tensor, weights: list[Tensor]) -> Tensor:
    return x.new_empty(x.shape[0], weights[0].shape[0])


@torch.library.custom_op("recsysml::grouped_linear_weights_grad", mutates_args=())
def _weights_grad(grad: Tensor, x: Tensor, counts: Tensor) -> Tensor:
    """(E, H, C): per group, the gradient of its weight. A group without rows gets zeros, not nothing."""
    sizes = counts.tolist()
    return torch.stack([g.T @ rows for g, rows in zip(grad.split(sizes), x.split(sizes), strict=True)])


@_weights_grad.register_fake
def _(grad: Tensor, x: Tensor, counts: Tensor) -> Tensor:
    return x.new_empty(counts.shape[0], grad.shape[1], x.shape[1])


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, counts, weights = inputs
    ctx.save_for_backward(x, counts, *weights)


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    x, counts, *weights = ctx.saved_tensors
    grad = grad.contiguous()
    of_x = _grouped_linear(grad, counts, [weight.T for weight in weights])
    return of_x, None, list(_weights_grad(grad, x, counts).unbind(0))


_grouped_linear.register_autograd(_backward, setup_context=_save)
