"""Two stages as one retriever: what the first finds by products of vectors the second puts in order."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from recsysml.models.encoder import EncoderRetriever
from recsysml.models.histories import Histories


class StagedRetriever(EncoderRetriever):
    """Its vectors are stage one's, and so what an index holds. The encoder, in eval mode, has a `ranker`.

    Candidates are the `n_candidates` nearest items that a row has not turned to, and what it has that is as near.
    """

    def __init__(self, encoder: nn.Module, device: torch.device | str = "cpu") -> None:
        super().__init__(encoder, device)
        self.n_candidates = int(cast(Any, encoder).config.n_candidates)
        self.ranker = cast(nn.Module, encoder.ranker)

    def first_stage(self) -> EncoderRetriever:
        """Stage one alone."""
        return EncoderRetriever(self.encoder, self.device)

    @torch.no_grad()
    def scores(self, histories: Histories) -> np.ndarray:
        """(R, n_items): of candidates the ranker's; below all of them the rest, by the products."""
        queries = self.queries(histories)  # (R, C)
        products = queries @ self.matrix().T  # (R, I)
        n_seen = int(np.diff(histories.matrix(self.n_items).indptr).max(initial=0))  # different items of a row
        items = products.topk(min(self.n_candidates + n_seen, self.n_items), dim=1).indices  # (R, K)
        ranked, own = self._rank(queries, histories, items)
        lowest = ranked.masked_fill(~own, torch.inf).amin(dim=1, keepdim=True)
        below = products - products.amax(dim=1, keepdim=True) + lowest - 1  # (R, I)
        return below.scatter(1, items, torch.where(own, ranked, below.gather(1, items))).cpu().numpy()

    @torch.no_grad()
    def ranked(self, queries: np.ndarray, histories: Histories, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of what an index found for queries (R, C), items (R, K), nearest first and -1 where there is none, the
        candidates in the ranker's order and its scores, (R, K) int64 and float32; -1 and -inf behind them."""
        found = torch.from_numpy(items).to(self.device)
        scores, own = self._rank(torch.from_numpy(queries).to(self.device), histories, found.clamp(min=0))
        own &= found >= 0
        scores = scores.masked_fill(~own, -torch.inf)
        order = scores.argsort(dim=1, descending=True, stable=True)
        return found.where(own, -1).gather(1, order).cpu().numpy(), scores.gather(1, order).cpu().numpy()

    def _rank(self, queries: Tensor, histories: Histories, items: Tensor) -> tuple[Tensor, Tensor]:
        """queries (R, C), items (R, K), nearest first -> the ranker's scores, and which are candidates, (R, K) each."""
        length = min(cast(Any, self.encoder).context_length - 1, int(histories.lengths.max(initial=0)))
        past = torch.from_numpy(histories.last(max(1, length), self.n_items)).to(self.device)  # (R, L)
        matrix = self.matrix()
        scores = cast(Tensor, self.ranker(queries, matrix[items], *events_of(matrix, past)))
        seen = torch.zeros(len(histories), self.n_items, dtype=torch.bool)
        seen[torch.from_numpy(histories.owners), torch.from_numpy(histories.items)] = True
        fresh = ~seen.to(self.device).gather(1, items)
        return scores, fresh.cumsum(dim=1) - fresh.long() < self.n_candidates


def events_of(matrix: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
    """Item vectors (I, C) and items (N, L), I where there is none -> vectors (N, L, C), and which are real (N, L)."""
    real = past < len(matrix)
    return matrix[past.where(real, 0)] * real[..., None], real
