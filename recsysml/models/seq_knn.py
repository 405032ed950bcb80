"""Sequential neighbours: which items followed which, counted with decay (Ludewig & Jannach 2018, rule-based form)."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from recsysml.models.histories import Histories
from recsysml.schemas.retrievers import SeqKnnConfig


class SeqKnn:
    """C[a, b] sums decay^(gap - 1) over the times b came `gap` places after a, up to `window` places.

    An item's score is the sum of age_decay^age C[a, item] over a row's items a, age 0 the newest, divided by the item's
    number of training events to the power `popularity_power`.
    """

    def __init__(self, config: SeqKnnConfig, n_items: int) -> None:
        self.config = config
        self.n_items = n_items
        self.transitions = sparse.csr_array((n_items, n_items), dtype=np.float32)
        self.counts = np.zeros(n_items, np.float32)

    def fit(self, histories: Histories) -> None:
        items, owners = histories.items, histories.owners
        total = sparse.csr_array((self.n_items, self.n_items), dtype=np.float32)
        for gap in range(1, self.config.window + 1):
            together = np.flatnonzero(owners[gap:] == owners[:-gap])  # (pairs,)
            weights = np.full(len(together), self.config.decay ** (gap - 1), np.float32)
            pairs = (items[together], items[together + gap])
            total = total + sparse.coo_array((weights, pairs), shape=total.shape).tocsr()
        self.transitions = total
        self.counts = np.bincount(items, minlength=self.n_items).astype(np.float32)

    def scores(self, histories: Histories) -> np.ndarray:
        age = (histories.offsets[1:] - 1)[histories.owners] - np.arange(len(histories.items))  # (N,) 0 is the newest
        found = histories.matrix(self.n_items, self.config.age_decay**age) @ self.transitions
        dense = np.zeros((len(histories), self.n_items), np.float32)
        rows = np.repeat(np.arange(len(histories)), np.diff(found.indptr))
        dense[rows, found.indices] = found.data
        return dense / np.maximum(self.counts, 1) ** np.float32(self.config.popularity_power)

    def arrays(self) -> dict[str, np.ndarray]:
        parts = {"data": self.transitions.data, "indices": self.transitions.indices, "indptr": self.transitions.indptr}
        return {**parts, "counts": self.counts}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        parts = (arrays["data"], arrays["indices"], arrays["indptr"])
        self.transitions = sparse.csr_array(parts, shape=(self.n_items, self.n_items))
        self.counts = arrays["counts"]
