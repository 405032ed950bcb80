"""What is known of users or items besides their index: numbers, categories, tags and content vectors."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Features:
    """One row an index. A kind that the data lacks has width 0, so that a model never asks whether it is there.

    Numbers are as the data has them: who standardises fits that on the rows it learns from.
    """

    dense: np.ndarray  # (N, F) float32, NaN where the data has no value
    categorical: np.ndarray  # (N, C) int64; 0 is unknown
    tag_offsets: np.ndarray  # (N + 1,) int64, where each row's tags begin
    tags: np.ndarray  # (M,) int64 indices into tag_names
    vectors: np.ndarray  # (N, E) float32 content vectors
    dense_names: list[str] = field(default_factory=list)  # F
    categorical_names: list[str] = field(default_factory=list)  # C
    categories: list[list[str]] = field(default_factory=list)  # C lists; categories[c][v - 1] is what value v > 0 means
    tag_names: list[str] = field(default_factory=list)

    @property
    def n_categories(self) -> list[int]:
        """Values of each categorical column, the unknown one included: the rows its embedding needs."""
        return [len(names) + 1 for names in self.categories]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known at all."""
        return not (self.dense.shape[1] or self.categorical.shape[1] or len(self.tag_names) or self.vectors.shape[1])

    def __len__(self) -> int:
        return len(self.dense)


def no_features(n: int) -> Features:
    """n rows of which nothing is known."""
    return Features(
        np.zeros((n, 0), np.float32),
        np.zeros((n, 0), np.int64),
        np.zeros(n + 1, np.int64),
        np.zeros(0, np.int64),
        np.zeros((n, 0), np.float32),
    )
