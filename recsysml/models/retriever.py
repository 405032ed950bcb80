"""What every retriever can do, learnt or counted: score the catalogue for rows of histories, and so recommend."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from recsysml.models.histories import Histories


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


def top_k(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(R, I) -> the k best columns of each row, best first, and their scores, (R, k) each; equals by column.

    Columns of score -inf are no candidates: their places hold -1.
    """
    n_items = scores.shape[1]
    kept = min(k, n_items)
    # the k-th best score bounds the list; of the columns equal to it the first ones get the places left
    bound = -np.partition(-scores, kept - 1, axis=1)[:, kept - 1 : kept]  # (R, 1)
    above = scores > bound
    level = scores == bound
    room = kept - above.sum(axis=1, keepdims=True)
    chosen = above | (level & (np.cumsum(level, axis=1) <= room))
    items = np.nonzero(chosen)[1].reshape(len(scores), kept)  # rising by column
    values = np.take_along_axis(scores, items, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    items, values = np.take_along_axis(items, order, axis=1), np.take_along_axis(values, order, axis=1)
    items = np.where(np.isneginf(values), -1, items)
    missing = ((0, 0), (0, k - kept))
    return np.pad(items, missing, constant_values=-1), np.pad(values, missing, constant_values=-np.inf)
