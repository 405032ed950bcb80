"""How the losses of several tasks become one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TaskWeights(nn.Module):
    """sum of weight x loss over T tasks.

    equal: every weight is 1. fixed: as given. uncertainty: exp(-s) loss + s / 2, s learnt of each task (Kendall et al.
    2018, s = log sigma^2). gradnorm: weights that sum to T, learnt so that every task's gradient at the last shared
    layer has the norm that its pace asks for (Chen et al. 2018, eqs. 1-2); `weigh` needs these norms.
    """

    weights: Tensor  # (T,) of fixed ones
    first: Tensor  # (T,) losses of the first step, 0 before it

    def __init__(self, kind: str, n_tasks: int, fixed: Sequence[float] = (), alpha: float = 1.5) -> None:
        super().__init__()
        self.kind, self.alpha = kind, alpha
        if kind not in ("equal", "fixed", "uncertainty", "gradnorm"):
            raise ValueError(f"weighting {kind!r} does not exist: use equal, fixed, uncertainty or gradnorm")
        if kind == "fixed":
            self.register_buffer("weights", torch.tensor(list(fixed), dtype=torch.float32), persistent=False)
        if kind in ("uncertainty", "gradnorm"):
            self.scores = nn.Parameter(torch.zeros(n_tasks))
        if kind == "gradnorm":
            self.register_buffer("first", torch.zeros(n_tasks))

    @property
    def needs_norms(self) -> bool:
        return self.kind == "gradnorm"

    def current(self, n_tasks: int) -> Tensor:
        """(T,) the weights of this moment, without a gradient."""
        if self.kind == "uncertainty":
            return torch.exp(-self.scores.detach())
        if self.kind == "gradnorm":
            return n_tasks * self.scores.detach().softmax(dim=0)
        return self.weights if self.kind == "fixed" else torch.ones(n_tasks)

    def forward(self, losses: Tensor, norms: Tensor | None = None) -> Tensor:
        """losses (T,), of gradnorm the norms (T,) of their unweighted gradients -> a scalar to minimise."""
        if self.kind == "equal":
            return losses.sum()
        if self.kind == "fixed":
            return (self.weights * losses).sum()
        if self.kind == "uncertainty":
            return (torch.exp(-self.scores) * losses + self.scores / 2).sum()
        weights = len(losses) * self.scores.softmax(dim=0)
        value = (weights.detach() * losses).sum()
        if norms is None or not self.training:
            return value
        with torch.no_grad():
            now = losses.detach()
            self.first.copy_(torch.where(self.first == 0, now, self.first))
            pace = now / self.first.clamp(min=1e-8)
            pace = pace / pace.mean()
            goal = (weights * norms).mean() * pace**self.alpha
        return value + (weights * norms.detach() - goal).abs().sum()
