"""What every retriever can do, learnt or counted: score the catalogue for rows of histories, and so recommend."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from recsysml.models.histories import Histories
from recsysml.models.top_k import top_k


class Retriever(Protocol):
    """A user the model has never met is a row like any other: the history goes in, scores come out."""

    n_items: int

    def scores(self, histories: Histories) -> np.ndarray:
        """(R, n_items) float32, the higher the better; finite."""
        ...


class Fitted(Retriever, Protocol):
    """A retriever that is computed from counts in one go instead of trained in steps."""

    def fit(self, histories: Histories) -> None:
        """Learn from all training events, a row a user."""
        ...

    def arrays(self) -> dict[str, np.ndarray]:
        """What `fit` found, by name: what a checkpoint holds."""
        ...

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """The opposite of `arrays`."""
        ...


def recommend(
    retriever: Retriever, histories: Histories, k: int, *, mask_seen: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """The k best items of each row, best first, and their scores: (R, k) int64 and (R, k) float32.

    Equal scores stand in the order of their item indices. With `mask_seen` a row's own items are left out; places that
    no item is left for hold -1 and -inf.
    """
    scores = np.array(retriever.scores(histories), dtype=np.float32)
    if mask_seen:
        scores[histories.owners, histories.items] = -np.inf
    return top_k(scores, k)
