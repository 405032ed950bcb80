"""ALS (Hu, Koren & Volinsky, ICDM 2008) by `implicit`: weighted least squares for users and items in turn."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from recsysml.models import extras
from recsysml.models.histories import Histories
from recsysml.schemas.retrievers import AlsConfig


class Als:
    """scores = U V'. Items' factors are what is kept: a row's user factor is solved for from its history (eq. 4), so
    that new users and new events need no training. One thread, so that a seed says everything.

    Raises ConfigError where `implicit` is not installed.
    """

    def __init__(self, config: AlsConfig, n_items: int) -> None:
        extras.check(config.kind)
        self.config = config
        self.n_items = n_items
        self._model = self._new(np.zeros((n_items, config.factors), np.float32))

    def _new(self, items: np.ndarray | None) -> Any:
        from implicit.cpu.als import AlternatingLeastSquares

        settings = self.config
        with extras.one_blas_thread():  # it warns of more
            model = AlternatingLeastSquares(
                factors=settings.factors,
                iterations=settings.iterations,
                regularization=settings.l2,
                alpha=settings.alpha,
                random_state=settings.seed,
                num_threads=1,
            )
        model.item_factors = items
        return model

    def fit(self, histories: Histories) -> None:
        self._model = self._new(None)
        with extras.one_blas_thread():
            self._model.fit(self._matrix(histories), show_progress=False)

    def scores(self, histories: Histories) -> np.ndarray:
        """(R, n_items)."""
        with extras.one_blas_thread():
            users = self._model.recalculate_user(np.arange(len(histories)), self._matrix(histories))  # (R, C)
        return np.asarray(users @ self._model.item_factors.T, np.float32)

    def _matrix(self, histories: Histories) -> sparse.csr_matrix:
        return sparse.csr_matrix(histories.matrix(self.n_items))

    def arrays(self) -> dict[str, np.ndarray]:
        return {"items": np.array(self._model.item_factors)}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self._model = self._new(np.ascontiguousarray(arrays["items"], np.float32))
