"""Simple methods that a ranker is held against, one task at a time: fit on rows of features, then logits.

Each is made of a design matrix: `one_hot` of everything for the linear one, `columns` for the trees. Real labels are
predicted as they are, binary ones as logits.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from scipy import sparse as scipy_sparse

# predicted probabilities are kept so far from 0 and 1
_CLOSEST = 1e-6
# a category of scikit-learn's trees is one byte
_MOST_CATEGORIES = 255


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, _CLOSEST, 1 - _CLOSEST)
    return np.log(p / (1 - p))


class BaseRate:
    """The training rows' own mean, for everyone."""

    def fit(self, features: object, labels: np.ndarray, kind: str) -> None:
        """labels (n,)."""
        mean = labels.mean(keepdims=True).astype(np.float64)
        self.value = float((mean if kind == "real" else _logit(mean))[0])

    def logits(self, features: object, n: int) -> np.ndarray:
        """(n,)."""
        return np.full(n, self.value)


class LogisticRegression:
    """scikit-learn's, with an L2 penalty; for a real label ridge regression."""

    def fit(self, features: scipy_sparse.csr_matrix, labels: np.ndarray, kind: str) -> None:
        """features (n, C) of `one_hot`, labels (n,)."""
        from sklearn import linear_model
        from sklearn.exceptions import ConvergenceWarning

        self.kind = kind
        self.model = (
            linear_model.Ridge(alpha=10.0)
            if kind == "real"
            else linear_model.LogisticRegression(C=0.1, max_iter=100, tol=1e-3)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # near its optimum is what a baseline needs
            self.model.fit(features, labels)

    def logits(self, features: scipy_sparse.csr_matrix, n: int) -> np.ndarray:
        """(n,)."""
        found = self.model.predict(features) if self.kind == "real" else self.model.decision_function(features)
        return np.asarray(found, np.float64)


class GradientBoosting:
    """scikit-learn's histogram gradient boosting: 150 trees of 31 leaves, at a rate of 0.1."""

    def fit(self, features: tuple[np.ndarray, np.ndarray], labels: np.ndarray, kind: str) -> None:
        """features: (n, C) of `columns` and which of them are categories (C,) bool; labels (n,)."""
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        matrix, categories = features
        self.kind = kind
        make = HistGradientBoostingRegressor if kind == "real" else HistGradientBoostingClassifier
        self.model = make(max_iter=150, categorical_features=categories, early_stopping=False, random_state=0)
        self.model.fit(matrix, labels)

    def logits(self, features: tuple[np.ndarray, np.ndarray], n: int) -> np.ndarray:
        """(n,)."""
        found = self.model.predict(features[0]) if self.kind == "real" else self.model.decision_function(features[0])
        return np.asarray(found, np.float64)


def one_hot(
    numbers: np.ndarray, ids: np.ndarray, sizes: Sequence[int], bags: Sequence[np.ndarray], bag_sizes: Sequence[int]
) -> scipy_sparse.csr_matrix:
    """numbers (n, F), ids (n, S) of vocabularies of these sizes, bags (n, W) each, below 0 where there is nothing ->
    (n, F + all sizes): numbers as they are, an id as a one, a bag's ids as shares that sum to 1."""
    n = len(numbers)
    parts = [scipy_sparse.csr_matrix(numbers)]
    rows = np.arange(n)
    for column, size in zip(ids.T, sizes, strict=True):
        parts.append(scipy_sparse.csr_matrix((np.ones(n), (rows, column)), shape=(n, size)))
    for bag, size in zip(bags, bag_sizes, strict=True):
        real = bag >= 0
        share = np.repeat(1 / np.maximum(real.sum(axis=1), 1), real.sum(axis=1))
        parts.append(scipy_sparse.csr_matrix((share, (np.nonzero(real)[0], bag[real])), shape=(n, size)))
    return scipy_sparse.hstack(parts, format="csr")


def columns(numbers: np.ndarray, ids: np.ndarray, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """numbers (n, F), ids (n, S) -> (n, F + S), and which columns are categories: those of few enough values."""
    few = np.array([size <= _MOST_CATEGORIES for size in sizes], dtype=bool)
    return np.concatenate([numbers, ids], axis=1), np.concatenate([np.zeros(numbers.shape[1], dtype=bool), few])


BASELINES: dict[str, type[BaseRate] | type[LogisticRegression] | type[GradientBoosting]] = {
    "base_rate": BaseRate,
    "logistic_regression": LogisticRegression,
    "gradient_boosting": GradientBoosting,
}
