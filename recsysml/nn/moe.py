"""A mixture of experts in the place of the MLP."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsysml.nn.grouped import grouped_linear
from recsysml.nn.mlp import GELUMLP, SwiGLU, make_mlp


class MoE(nn.Module):
    """Each token goes to the `per_token` experts its router scores highest (Mixtral, Jiang et al. 2024).

    An expert is the dense MLP of the same `kind`, without biases, its weights 2-D matrices of its own. There is no
    capacity and so no dropped token: an expert takes whatever comes. Gates are the chosen experts' probabilities,
    normalised to sum 1 (Mixtral); with one expert a token the probability itself (Switch), or the router would get no
    gradient from the task.
    """

    def __init__(
        self, width: int, kind: str, n_experts: int, per_token: int, *, balance_weight: float, z_weight: float
    ) -> None:
        super().__init__()
        if not 1 <= per_token <= n_experts:
            raise ValueError(f"{per_token} experts a token of {n_experts}: use at least 1 and at most {n_experts}")
        self.per_token = per_token
        self.balance_weight = balance_weight
        self.z_weight = z_weight
        self.router = nn.Linear(width, n_experts, bias=False)
        self.experts = nn.ModuleList(make_mlp(kind, width, bias=False) for _ in range(n_experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, C) -> (B, T, C) and the weighted auxiliary loss, a scalar."""
        rows = x.reshape(-1, x.shape[-1])  # (N, C)
        with torch.autocast(x.device.type, enabled=False):  # a router in bf16 chooses differently (Switch, section 2.4)
            scores = F.linear(rows.float(), self.router.weight.float())  # (N, E)
        probabilities = scores.softmax(dim=-1)
        gates, chosen = probabilities.topk(self.per_token, dim=-1)  # (N, K) each
        if self.per_token > 1:
            gates = gates / gates.sum(dim=-1, keepdim=True)

        # one slot for each (token, expert) pair, sorted by expert; equal experts keep the tokens' order
        expert_of_slot = chosen.flatten()  # (N*K,)
        order = expert_of_slot.argsort(stable=True)
        counts = (expert_of_slot[:, None] == torch.arange(len(self.experts), device=x.device)).sum(dim=0)  # (E,)
        slots = rows.repeat_interleave(self.per_token, dim=0)[order]  # (N*K, C)
        y = self._experts(slots, counts)
        back = order.argsort()  # the inverse permutation: a gather, where scattering would add in no fixed order
        y = y[back].view(-1, self.per_token, x.shape[-1])  # (N, K, C)
        y = (y * gates[..., None].to(y.dtype)).sum(dim=1)

        load = counts / expert_of_slot.numel()
        auxiliary = self.balance_weight * balance_loss(load, probabilities) + self.z_weight * z_loss(scores)
        return y.view(x.shape), auxiliary

    def _experts(self, x: Tensor, counts: Tensor) -> Tensor:
        """The experts on their own rows of x (N*K, C), counts (E,) rows each."""

        def weights(name: str) -> list[Tensor]:
            return [getattr(expert, name).weight for expert in self.experts]

        up = grouped_linear(x, counts, weights("up"))
        if isinstance(self.experts[0], SwiGLU):
            hidden = F.silu(grouped_linear(x, counts, weights("gate"))) * up
        else:
            assert isinstance(self.experts[0], GELUMLP)
            hidden = F.gelu(up, approximate="tanh")
        return grouped_linear(hidden, counts, weights("out"))


def balance_loss(load: Tensor, probabilities: Tensor) -> Tensor:
    """E * sum_i f_i P_i (Switch Transformer, Fedus et al. 2022, eq. 4-6): 1 when balanced, up to E when not.

    `load` (E,) is the share of assignments each expert got, `probabilities` (N, E) the router's. With more than one
    expert a token f counts all assignments.
    """
    return load.shape[0] * (load * probabilities.mean(dim=0)).sum()


def z_loss(scores: Tensor) -> Tensor:
    """Mean squared log-sum-exp of the router's scores (N, E) (ST-MoE, Zoph et al. 2022, eq. 5): keeps them small."""
    return scores.logsumexp(dim=-1).square().mean()
