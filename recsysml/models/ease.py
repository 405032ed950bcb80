"""EASE (Steck, WWW 2019): the linear item-item model with a closed form."""

from __future__ import annotations

import numpy as np

from recsysml.errors import ConfigError
from recsysml.models.histories import Histories
from recsysml.schemas.retrievers import EaseConfig


class Ease:
    """scores = X B, with B the minimiser of |X - X B|^2 + l2 |B|^2 among matrices whose diagonal is 0."""

    def __init__(self, config: EaseConfig, n_items: int) -> None:
        if n_items > config.max_items:
            raise ConfigError(
                f"ease inverts a matrix of {n_items:,} x {n_items:,} numbers: set model.max_items={n_items} if there is"
                " memory for three of them, or choose another model"
            )
        self.config = config
        self.n_items = n_items
        self.weights = np.zeros((n_items, n_items), np.float32)

    def fit(self, histories: Histories) -> None:
        """B = I - P / diag(P) by columns, P = (X'X + l2 I)^-1 (eq. 8); X is 1 where a user turned to an item."""
        seen = histories.matrix(self.n_items)
        seen.data[:] = 1
        gram = (seen.T @ seen).toarray().astype(np.float64)
        gram[np.diag_indices_from(gram)] += self.config.l2
        inverse = np.linalg.inv(gram)
        weights = inverse / -np.diag(inverse)
        np.fill_diagonal(weights, 0)
        self.weights = weights.astype(np.float32)

    def scores(self, histories: Histories) -> np.ndarray:
        """(R, n_items): the sum of the weights from the row's items, each counted once."""
        seen = histories.matrix(self.n_items)
        seen.data[:] = 1
        return np.asarray(seen @ self.weights)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"weights": self.weights}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.weights = arrays["weights"]
