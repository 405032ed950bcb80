"""Inputs of which many rows share a part: it is kept once, and the layer that reads them multiplies it once.

In a batch of impressions most columns are known of a user, and users come more than once. To form products for distinct
values alone is what RecD does to the embeddings of DLRM (Zhao et al. 2023); here a layer's products are.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class Groups(NamedTuple):
    """Which of B rows are alike: U groups."""

    first: Tensor  # (U,) int64, a row of each group
    of_row: Tensor  # (B,) int64, each row's group
    order: Tensor  # (B,) int64, the rows group by group
    begins: Tensor  # (U,) int64, where in `order` each group's begin


class Deduplicated(NamedTuple):
    """Row b is [common[its group], rows[b]]: (B, A + C + F) that is never written out.

    All in the type that products are formed in.
    """

    common: Tensor  # (U, A)
    groups: Groups
    own: Tensor  # (B, C)
    rows: Tensor  # (B, C + F), own and, beside it, what has no gradient


def deduplicated(common: Tensor, groups: Groups, own: Tensor, given: Tensor) -> Deduplicated:
    """common (U, A), own (B, C), given (B, F), of any type; `given` has no gradient."""
    dtype = product_dtype(own)
    own = own.to(dtype)
    return Deduplicated(common.to(dtype), groups, own, torch.cat([own.detach(), given.to(dtype)], dim=1))


def alike(ids: Tensor) -> Groups | None:
    """Which rows of ids (B, A) int64 are equal; None where it would gain nothing, or on a GPU, which would have to wait
    for the answer."""
    if ids.device.type != "cpu" or torch.compiler.is_compiling() or not len(ids):
        return None
    values = ids.numpy()  # a batch is small: numpy's calls take a third of the time that torch's do
    keys = values @ _factors(values.shape[1])
    order = keys.argsort(kind="stable")
    new = np.diff(keys[order], prepend=~keys[order[0]]) != 0
    begins = new.nonzero()[0]
    if len(begins) > _LARGEST_SHARE * len(ids):
        return None
    of_row = np.empty(len(ids), np.int64)
    of_row[order] = new.cumsum() - 1
    first = order[begins]
    if (values.take(first, axis=0).take(of_row, axis=0) != values).any():  # two that differ have one key
        return None
    return Groups(*map(torch.from_numpy, (first, of_row, order, begins)))


@cache
def _factors(n: int) -> np.ndarray:
    """(n,) int64, always the same: sums of ids times them, which wrap around, are equal once in 2^63 by chance."""
    return np.random.default_rng(0).integers(2**62, size=n) * 2 + 1


# with more, the products saved do not pay for finding them
_LARGEST_SHARE = 0.4


def linear(x: Tensor | Deduplicated, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (B, C), weight (H, C), bias (H,) -> (B, H), as `F.linear`, under autocast too."""
    if isinstance(x, Tensor):
        return F.linear(x, weight, bias)
    out: Tensor = _Linear.apply(x.common, x.own, x.rows, weight, bias, x.groups)
    return out


class _Linear(torch.autograd.Function):
    """By hand, because autograd would add up whole gradients of a weight that is read in parts."""

    @staticmethod
    def forward(
        ctx: Any, common: Tensor, own: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None, groups: Groups
    ) -> Tensor:
        cut, low = common.shape[1], weight.to(common.dtype)
        shared = F.linear(common, low[:, :cut], None if bias is None else bias.to(common.dtype))  # (U, H)
        ctx.save_for_backward(common, rows, low)
        ctx.groups, ctx.own, ctx.weight_dtype, ctx.biased = groups, own.shape[1], weight.dtype, bias is not None
        return shared.index_select(0, groups.of_row).addmm_(rows, low[:, cut:].t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        common, rows, weight = ctx.saved_tensors
        cut = common.shape[1]
        # of each group the sum over its rows, which is formed in float32
        shared = F.embedding_bag(ctx.groups.order, grad, ctx.groups.begins, mode="sum")  # (U, H)
        of_weight = torch.empty(weight.shape, dtype=ctx.weight_dtype)
        of_weight[:, :cut] = shared.t() @ common
        of_weight[:, cut:] = grad.t() @ rows
        of_bias = shared.sum(dim=0, dtype=ctx.weight_dtype) if ctx.biased else None
        return shared @ weight[:, :cut], grad @ weight[:, cut : cut + ctx.own], None, of_weight, of_bias, None


def product_dtype(x: Tensor) -> torch.dtype:
    """What matrix products of x are formed in: autocast's type, where it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
