"""How the vectors of features meet before the mixer: (B, E, D) -> (B, width)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConcatInteraction(nn.Module):
    """The vectors side by side: what follows must find out how they meet."""

    def __init__(self, n_vectors: int, width: int) -> None:
        super().__init__()
        self.width = n_vectors * width

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors.flatten(1)


class DotInteraction(nn.Module):
    """The vectors, and the product of each pair (DLRM, Naumov et al. 2019, which keeps only the dense one's vector)."""

    pairs: Tensor  # (2, P)

    def __init__(self, n_vectors: int, width: int) -> None:
        super().__init__()
        self.register_buffer("pairs", torch.triu_indices(n_vectors, n_vectors, offset=1), persistent=False)
        self.width = n_vectors * width + self.pairs.shape[1]

    def forward(self, vectors: Tensor) -> Tensor:
        products = vectors @ vectors.transpose(1, 2)  # (B, E, E)
        return torch.cat([vectors.flatten(1), products[:, self.pairs[0], self.pairs[1]]], dim=1)


class CrossNetwork(nn.Module):
    """x <- x0 * (W x + b) + x, layer by layer: products of ever higher degree (DCN-v2, Wang et al. 2021, eq. 1).

    W is u v of rank `rank`: the full matrix of a wide input costs more than all that follows.
    """

    def __init__(self, n_vectors: int, width: int, n_layers: int, rank: int = 64) -> None:
        super().__init__()
        self.width = n_vectors * width
        rank = min(rank, self.width)
        self.down = nn.ModuleList(nn.Linear(self.width, rank, bias=False) for _ in range(n_layers))
        self.up = nn.ModuleList(nn.Linear(rank, self.width) for _ in range(n_layers))

    def forward(self, vectors: Tensor) -> Tensor:
        first = x = vectors.flatten(1)
        for down, up in zip(self.down, self.up, strict=True):
            x = first * up(down(x)) + x
        return x


def make_interaction(kind: str, n_vectors: int, width: int, n_layers: int) -> nn.Module:
    """dot, dcn (of n_layers) or concat; each says its output's `width`."""
    if kind == "dot":
        return DotInteraction(n_vectors, width)
    if kind == "dcn":
        return CrossNetwork(n_vectors, width, n_layers)
    if kind == "concat":
        return ConcatInteraction(n_vectors, width)
    raise ValueError(f"interaction {kind!r} does not exist: use dot, dcn or concat")
