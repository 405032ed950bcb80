"""BPR (Rendle et al., UAI 2009) by `implicit`: factors that rank what a user turned to above what they did not."""

from __future__ import annotations

import numpy as np

from recsysml.models.histories import Histories
from recsysml.schemas.retrievers import BprConfig


class Bpr:
    """scores = U V' with a last column of V that is each item's bias; one thread, so that a seed says everything.

    A user whom training has not met gets the mean of the history's item factors, and so without a history the biases.
    """

    def __init__(self, config: BprConfig, n_items: int) -> None:
        self.config = config
        self.n_items = n_items
        self.users = np.zeros((0, config.factors + 1), np.float32)  # (U, C + 1); a row of zeros was not met
        self.items = np.zeros((n_items, config.factors + 1), np.float32)  # (I, C + 1)

    def fit(self, histories: Histories) -> None:
        """Raises ConfigError where `implicit` is not installed."""
        from scipy import sparse

        from recsysml.models import extras

        extras.check(self.config.kind)
        from implicit.cpu.bpr import BayesianPersonalizedRanking

        settings = self.config
        model = BayesianPersonalizedRanking(
            factors=settings.factors,
            iterations=settings.iterations,
            learning_rate=settings.lr,
            regularization=settings.l2,
            random_state=settings.seed,
            num_threads=1,
        )
        with extras.one_blas_thread():
            model.fit(sparse.csr_matrix(histories.matrix(self.n_items)), show_progress=False)
        self.users, self.items = np.array(model.user_factors), np.array(model.item_factors)

    def scores(self, histories: Histories) -> np.ndarray:
        """(R, n_items)."""
        return self._queries(histories) @ self.items.T

    def _queries(self, histories: Histories) -> np.ndarray:
        """(R, C + 1)."""
        found = np.zeros((len(histories), self.items.shape[1]), np.float32)
        known = (histories.users >= 0) & (histories.users < len(self.users))
        found[known] = self.users[histories.users[known]]
        unmet = ~found.any(axis=1)
        means = histories.matrix(self.n_items, 1 / histories.lengths[histories.owners]) @ self.items
        found[unmet] = means[unmet]
        found[unmet, -1] = 1  # the bias counts for everybody
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        return {"users": self.users, "items": self.items}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.users, self.items = arrays["users"], arrays["items"]
