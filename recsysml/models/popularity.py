"""Popularity: every user is shown what most training events were about."""

from __future__ import annotations

import numpy as np

from recsysml.models.histories import Histories
from recsysml.schemas.retrievers import PopularityConfig


class Popularity:
    def __init__(self, config: PopularityConfig, n_items: int) -> None:
        self.config = config
        self.n_items = n_items
        self.counts = np.zeros(n_items, np.float32)

    def fit(self, histories: Histories) -> None:
        self.counts = np.bincount(histories.items, minlength=self.n_items).astype(np.float32)

    def scores(self, histories: Histories) -> np.ndarray:
        """(R, n_items): the item's number of training events, the same in each row."""
        return np.broadcast_to(self.counts, (len(histories), self.n_items))

    def arrays(self) -> dict[str, np.ndarray]:
        return {"counts": self.counts}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.counts = arrays["counts"]
