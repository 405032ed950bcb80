"""Vectors of ids: a table, a table-free hash, cohorts of alike features, and a mixture that trusts what it knows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PRIME = 2_147_483_647  # 2^31 - 1: products of two numbers below it fit 64 bits


class TableEmbedding(nn.Module):
    """A row for each of n ids, and one more for ids never met (any id below 0)."""

    def __init__(self, n: int, width: int) -> None:
        super().__init__()
        self.n = n
        self.table = nn.Embedding(n + 1, width)

    def forward(self, ids: Tensor) -> Tensor:
        """(...) int64 below n -> (..., width)."""
        return self.table(torch.where(ids < 0, self.n, ids))


class DeepHashEmbedding(nn.Module):
    """Deep hash embedding (Kang et al. 2021): k hashes of an id, as numbers in [-1, 1], through a network.

    No table: the parameters do not grow with the ids, and an id never met has a vector of its own. The hashes
    (a id + b mod p) mod m are fixed by `seed` and kept with the weights: the same id has the same code in every
    process, on every call.
    """

    multipliers: Tensor  # (k,)
    shifts: Tensor  # (k,)

    def __init__(self, width: int, *, n_hashes: int = 64, hidden: int = 128, buckets: int = 1_000_003, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("multipliers", torch.randint(1, _PRIME, (n_hashes,), generator=generator))
        self.register_buffer("shifts", torch.randint(0, _PRIME, (n_hashes,), generator=generator))
        self.buckets = buckets
        self.network = nn.Sequential(
            nn.Linear(n_hashes, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, width)
        )

    def codes(self, ids: Tensor) -> Tensor:
        """(...) int64 -> (..., k) float32 in [-1, 1], spread evenly."""
        places = (ids[..., None].remainder(_PRIME) * self.multipliers + self.shifts) % _PRIME % self.buckets
        return places.float() * (2 / (self.buckets - 1)) - 1

    def forward(self, ids: Tensor) -> Tensor:
        """(...) int64, any -> (..., width)."""
        return self.network(self.codes(ids))


class CohortEmbedding(nn.Module):
    """Features give soft addresses of a small table: users who are alike share what is learnt of them.

    The address is a softmax over all cohorts. Taking only the largest would leave the network that addresses without a
    gradient.
    """

    def __init__(self, n_features: int, n_cohorts: int, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.address = nn.Sequential(nn.Linear(n_features, hidden), nn.GELU(), nn.Linear(hidden, n_cohorts))
        self.table = nn.Parameter(torch.empty(n_cohorts, width))
        nn.init.normal_(self.table, std=0.02)

    def forward(self, features: Tensor) -> Tensor:
        """(..., n_features) -> (..., width)."""
        return self.address(features).softmax(dim=-1) @ self.table


class GatedMixture(nn.Module):
    """g memory + (1 - g) cohort, g = sigmoid(bias + slope log(1 + events)), the slope never below 0.

    The more is known of a user, the more its own memory counts; with nothing known about 1 in 50 of it does, until
    training moves the bias.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(-4.0))
        self.slope = nn.Parameter(torch.tensor(1.0))  # through a softplus

    def gate(self, events: Tensor) -> Tensor:
        """(...) how many events are known -> (...) the memory's share, rising."""
        return torch.sigmoid(self.bias + F.softplus(self.slope) * events.float().log1p())

    def forward(self, memory: Tensor, cohort: Tensor, events: Tensor) -> Tensor:
        """(..., C), (..., C), (...) -> (..., C)."""
        share = self.gate(events)[..., None]
        return share * memory + (1 - share) * cohort
