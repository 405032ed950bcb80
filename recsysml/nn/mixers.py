"""What several tasks share: x (B, C) -> one vector a task (B, T, K). All say `width` (K) and `shared_weight()`.

x may be `Deduplicated`: what rows share is then multiplied once by the layers that read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recsysml.nn.deduplicated import Deduplicated, linear, product_dtype
from recsysml.nn.dropout import dropout


class Experts(nn.Module):
    """n networks of the same form, computed together: (B, C) -> (B, n, K), ReLU after every layer.

    The first layer of all of them is one matrix product, as they read the same input; the further ones are batched.
    Weights are kept 2-D, (n x out, in), as the optimisers expect of matrices. norm=batch: before each ReLU every unit
    has mean 0 and deviation 1 over the batch (Ioffe & Szegedy 2015), when serving by what training has seen.
    """

    def __init__(self, n: int, inputs: int, widths: Sequence[int], dropout: float = 0.0, norm: str = "none") -> None:
        super().__init__()
        self.n, self.width, self.dropout = n, widths[-1], dropout
        sizes = [inputs, *widths]
        self.weights = nn.ParameterList()
        # a norm takes away whatever is added before it, and has an addition of its own
        self.biases = nn.ParameterList()
        self.norms = nn.ModuleList(nn.BatchNorm1d(n * after) for after in widths if norm == "batch")
        for before, after in pairwise(sizes):
            bound = before**-0.5  # as nn.Linear draws each
            self.weights.append(nn.Parameter(torch.empty(n * after, before).uniform_(-bound, bound)))
            if norm == "none":
                self.biases.append(nn.Parameter(torch.empty(n * after).uniform_(-bound, bound)))

    def forward(self, inputs: Tensor | Deduplicated) -> Tensor:
        biases = list(self.biases) or [None] * len(self.weights)
        x = self._activated(0, linear(inputs, self.weights[0], biases[0]))
        for layer, (weight, bias) in enumerate(zip(list(self.weights)[1:], biases[1:], strict=True), 1):
            x = dropout(x, self.dropout, self.training)
            x = self._activated(layer, _EachLinear.apply(x, weight, bias))
        return dropout(x, self.dropout, self.training)

    def _activated(self, layer: int, x: Tensor) -> Tensor:
        """x (B, n x K) -> (B, n, K). Of bfloat16 too a norm's mean and variance are formed in float32."""
        return F.relu_(self.norms[layer](x) if self.norms else x).view(len(x), self.n, -1)


class _EachLinear(torch.autograd.Function):
    """x (B, n, K), weight (n x H, K), bias (n x H,) -> (B, n x H): to each of the n its own rows of the weight.

    One after the other, as the gradient of a batched product copies its inputs, which lie apart; by hand, because
    autograd casts and joins the gradients of the parts.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        n, dtype = x.shape[1], product_dtype(x)
        x, low = x.to(dtype), weight.to(dtype)
        biases = [None] * n if bias is None else bias.to(dtype).chunk(n)
        parts = zip(x.unbind(1), low.chunk(n), biases, strict=True)
        ctx.save_for_backward(x, low)
        ctx.weight_dtype, ctx.biased = weight.dtype, bias is not None
        return torch.cat([F.linear(*part) for part in parts], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight = torch.empty_like(x), weight.new_empty(weight.shape, dtype=ctx.weight_dtype)
        parts = zip(of_x.unbind(1), of_weight.chunk(x.shape[1]), weight.chunk(x.shape[1]), strict=True)
        for (own_x, own_weight, low), own, above in zip(parts, x.unbind(1), grad.chunk(x.shape[1], dim=1), strict=True):
            own_x.copy_(above @ low)
            own_weight.copy_(above.t() @ own)
        return of_x, of_weight, grad.sum(dim=0, dtype=ctx.weight_dtype) if ctx.biased else None


class SharedBottom(nn.Module):
    """One network for all tasks (Caruana 1997)."""

    def __init__(
        self, inputs: int, n_tasks: int, widths: Sequence[int], dropout: float = 0.0, norm: str = "none"
    ) -> None:
        super().__init__()
        self.n_tasks, self.width = n_tasks, widths[-1]
        self.bottom = Experts(1, inputs, widths, dropout, norm)

    def forward(self, x: Tensor | Deduplicated) -> Tensor:
        return self.bottom(x).expand(-1, self.n_tasks, -1)

    def shared_weight(self) -> nn.Parameter:
        """The last layer that all tasks share, where GradNorm weighs their gradients."""
        return self.bottom.weights[-1]


class MMoE(nn.Module):
    """Experts for all tasks, and of each task a softmax gate over them (Ma et al. 2018, eqs. 6-7)."""

    def __init__(
        self, inputs: int, n_tasks: int, n_experts: int, widths: Sequence[int], dropout: float = 0.0, norm: str = "none"
    ) -> None:
        super().__init__()
        self.n_tasks, self.width = n_tasks, widths[-1]
        self.experts = Experts(n_experts, inputs, widths, dropout, norm)
        self.gates = nn.Linear(inputs, n_tasks * n_experts, bias=False)

    def forward(self, x: Tensor | Deduplicated) -> Tensor:
        gates = linear(x, self.gates.weight).unflatten(1, (self.n_tasks, -1)).softmax(dim=-1)  # (B, T, n)
        experts = self.experts(x)  # (B, n, K)
        return torch.bmm(gates.to(experts.dtype), experts)

    def shared_weight(self) -> nn.Parameter:
        """The last layer that all tasks share, where GradNorm weighs their gradients."""
        return self.experts.weights[-1]


class PLE(nn.Module):
    """Experts of each task beside shared ones, in levels (progressive layered extraction, Tang et al. 2020, eqs. 1-7).

    A task's gate chooses among its own experts and the shared ones, the shared gate among all; what gates gave is the
    next level's input. The last level has no shared output.
    """

    def __init__(
        self,
        inputs: int,
        n_tasks: int,
        n_shared: int,
        n_own: int,
        widths: Sequence[int],
        dropout: float = 0.0,
        norm: str = "none",
        n_levels: int = 2,
    ) -> None:
        super().__init__()
        self.n_tasks, self.width = n_tasks, widths[-1]
        self.own, self.shared = nn.ModuleList(), nn.ModuleList()
        self.gates, self.shared_gates = nn.ModuleList(), nn.ModuleList()
        for level in range(n_levels):
            before = inputs if level == 0 else widths[-1]
            self.own.append(nn.ModuleList(Experts(n_own, before, widths, dropout, norm) for _ in range(n_tasks)))
            self.shared.append(Experts(n_shared, before, widths, dropout, norm))
            self.gates.append(nn.ModuleList(nn.Linear(before, n_own + n_shared, bias=False) for _ in range(n_tasks)))
            if level < n_levels - 1:
                self.shared_gates.append(nn.Linear(before, n_tasks * n_own + n_shared, bias=False))

    def forward(self, inputs: Tensor | Deduplicated) -> Tensor:
        tasks: list[Any] = [inputs] * self.n_tasks
        shared: Any = inputs
        for level, everyone in enumerate(self.shared):
            common = everyone(shared)  # (B, n_shared, K)
            own = [experts(x) for experts, x in zip(self.own[level], tasks, strict=True)]  # type: ignore[call-overload]
            before, tasks = tasks, []
            for gate, x, mine in zip(self.gates[level], before, own, strict=True):  # type: ignore[call-overload]
                tasks.append(_gated(linear(x, gate.weight), torch.cat([mine, common], dim=1)))
            if level < len(self.shared_gates):
                gate = self.shared_gates[level].weight
                shared = _gated(linear(shared, gate), torch.cat([*own, common], dim=1))  # type: ignore[arg-type]
        return torch.stack(tasks, dim=1)

    def shared_weight(self) -> nn.Parameter:
        """The last layer that all tasks share, where GradNorm weighs their gradients."""
        return self.shared[-1].weights[-1]  # type: ignore[return-value,index]


def _gated(scores: Tensor, experts: Tensor) -> Tensor:
    """scores (B, n), experts (B, n, K) -> (B, K): their mean by the softmax of the scores."""
    return torch.einsum("bn,bnk->bk", scores.softmax(dim=-1).to(experts.dtype), experts)


def make_mixer(
    kind: str,
    inputs: int,
    n_tasks: int,
    widths: Sequence[int],
    *,
    n_experts: int,
    n_task_experts: int,
    dropout: float = 0.0,
    norm: str = "none",
) -> SharedBottom | MMoE | PLE:
    """kind: shared_bottom, mmoe or ple; norm: none or batch, in every expert."""
    if kind == "shared_bottom":
        return SharedBottom(inputs, n_tasks, widths, dropout, norm)
    if kind == "mmoe":
        return MMoE(inputs, n_tasks, n_experts, widths, dropout, norm)
    if kind == "ple":
        return PLE(inputs, n_tasks, n_experts, n_task_experts, widths, dropout, norm)
    raise ValueError(f"mixer {kind!r} does not exist: use shared_bottom, mmoe or ple")
