"""Recent popularity: training events count the less the longer they lie back."""

from __future__ import annotations

import numpy as np

from recsysml.models.histories import Histories
from recsysml.schemas.retrievers import RecentPopularityConfig


class RecentPopularity:
    """An event at time t counts 2^-((end - t) / h), h = `half_life` times the span of the training events."""

    def __init__(self, config: RecentPopularityConfig, n_items: int) -> None:
        self.config = config
        self.n_items = n_items
        self.counts = np.zeros(n_items, np.float32)

    def fit(self, histories: Histories) -> None:
        if not len(histories.times):
            return
        end = histories.times.max()
        half_life = max((end - histories.times.min()) * self.config.half_life, np.finfo(np.float64).tiny)
        weights = np.exp2((histories.times - end) / half_life)
        self.counts = np.bincount(histories.items, weights, minlength=self.n_items).astype(np.float32)

    def scores(self, histories: Histories) -> np.ndarray:
        """(R, n_items): the item's decayed number of training events, the same in each row."""
        return np.broadcast_to(self.counts, (len(histories), self.n_items))

    def arrays(self) -> dict[str, np.ndarray]:
        return {"counts": self.counts}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.counts = arrays["counts"]
