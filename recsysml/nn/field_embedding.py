"""Vectors of many columns' ids out of one table: each column has its own range of rows, which begins at its offset."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class FieldEmbedding(nn.Module):
    """One table for all vocabularies: one gather for all columns of a batch, one tensor for the optimiser."""

    def __init__(self, vocabularies: Mapping[str, int], width: int, std: float = 0.1) -> None:
        """vocabularies: name -> how many ids it has."""
        super().__init__()
        self.width = width
        sizes = list(vocabularies.values())
        firsts = [sum(sizes[:place]) for place in range(len(sizes))]
        self.offsets = dict(zip(vocabularies, firsts, strict=True))
        self._begins: dict[tuple[tuple[str, ...], torch.device], Tensor] = {}
        self.table = nn.Embedding(max(1, sum(sizes)), width)
        nn.init.normal_(self.table.weight, std=std)
        # id 0 stands for what training never met: it has no gradient there, and says nothing rather than anything
        with torch.no_grad():
            self.table.weight[torch.tensor(firsts, dtype=torch.int64)] = 0.0

    def at(self, names: list[str], device: torch.device) -> Tensor:
        """(len(names),) where each vocabulary begins."""
        key = tuple(names), device
        if key not in self._begins:
            self._begins[key] = torch.tensor([self.offsets[name] for name in names], dtype=torch.int64, device=device)
        return self._begins[key]

    def forward(self, ids: Tensor, names: list[str]) -> Tensor:
        """ids (..., K), column k of the vocabulary names[k] -> (..., K, D). No id is padding."""
        return self._rows(ids + self.at(names, ids.device))

    def _rows(self, rows: Tensor) -> Tensor:
        """rows (...) of the table -> (..., D). On a CPU the gradient takes half the time that nn.Embedding's does."""
        return self.table.weight.index_select(0, rows.flatten()).view(*rows.shape, self.width)

    def pooled(self, bags: Tensor, names: list[str]) -> Tensor:
        """bags (B, G, W), below 0 where there is nothing -> (B, G, D): the mean of each bag, 0 of an empty one."""
        real = bags >= 0
        rows = torch.where(real, bags + self.at(names, bags.device)[:, None], 0)
        kept = real[..., None].to(self.table.weight.dtype)  # (B, G, W, 1)
        return (self._rows(rows) * kept).sum(dim=2) / kept.sum(dim=2).clamp(min=1)

    def summed(self, events: Tensor, names: list[str]) -> Tensor:
        """events (B, H, Q), below 0 where there is nothing -> (B, H, D): of each event the sum over its columns."""
        real = events >= 0
        rows = torch.where(real, events + self.at(names, events.device), 0)
        return (self._rows(rows) * real[..., None].to(self.table.weight.dtype)).sum(dim=2)
