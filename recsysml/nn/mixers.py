"""What several tasks share: x (B, C) -> one vector a task (B, T, K). All say `width` (K) and `shared_weight()`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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

    def forward(self, x: Tensor) -> Tensor:
        biases = list(self.biases) or [None] * len(self.weights)
        x = self._activated(0, F.linear(x, self.weights[0], biases[0]))
        for layer, (weight, bias) in enumerate(zip(list(self.weights)[1:], biases[1:], strict=True), 1):
            x = F.dropout(x, self.dropout, self.training)
            # one after the other: the gradient of a batched product copies its inputs, as they lie apart
            own_biases = [None] * self.n if bias is None else bias.chunk(self.n)
            own = zip(x.unbind(1), weight.chunk(self.n), own_biases, strict=True)
            x = self._activated(layer, torch.cat([F.linear(*each) for each in own], dim=1))
        return F.dropout(x, self.dropout, self.training)

    def _activated(self, layer: int, x: Tensor) -> Tensor:
        """x (B, n x K) -> (B, n, K), normed in float32, as a mean of squares needs it."""
        return F.relu(self.norms[layer](x.float()) if self.norms else x).view(len(x), self.n, -1)


class SharedBottom(nn.Module):
    """One network for all tasks (Caruana 1997)."""

    def __init__(
        self, inputs: int, n_tasks: int, widths: Sequence[int], dropout: float = 0.0, norm: str = "none"
    ) -> None:
        super().__init__()
        self.n_tasks, self.width = n_tasks, widths[-1]
        self.bottom = Experts(1, inputs, widths, dropout, norm)

    def forward(self, x: Tensor) -> Tensor:
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

    def forward(self, x: Tensor) -> Tensor:
        gates = self.gates(x).view(len(x), self.n_tasks, -1).softmax(dim=-1)  # (B, T, n)
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

    def forward(self, x: Tensor) -> Tensor:
        tasks, shared = [x] * self.n_tasks, x
        for level, everyone in enumerate(self.shared):
            common = everyone(shared)  # (B, n_shared, K)
            own = [experts(x) for experts, x in zip(self.own[level], tasks, strict=True)]  # type: ignore[call-overload]
            before, tasks = tasks, []
            for gate, x, mine in zip(self.gates[level], before, own, strict=True):  # type: ignore[call-overload]
                tasks.append(_gated(gate(x), torch.cat([mine, common], dim=1)))
            if level < len(self.shared_gates):
                shared = _gated(self.shared_gates[level](shared), torch.cat([*own, common], dim=1))
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
