"""Features of users or items as one matrix of numbers, for networks: whatever the data has, side by side."""

from __future__ import annotations

import numpy as np

from recsysml.data.features import Features


def feature_matrix(features: Features, fitted: np.ndarray) -> np.ndarray | None:
    """(N, F) float32: dense columns, one-hot categories, tags and content vectors; None where nothing is known.

    Dense columns are standardised on the rows `fitted` (indices; repeats weigh), a missing value is the mean, and where
    a column has any a second one says so. An unknown category is all zeros. A row's tags share a length of 1.
    """
    if features.is_empty:
        return None
    n = len(features)
    parts: list[np.ndarray] = []
    for column in features.dense.T.astype(np.float64):
        missing = np.isnan(column)
        known = column[fitted][~missing[fitted]]
        mean, spread = (known.mean(), known.std()) if len(known) else (0.0, 0.0)
        parts.append(np.where(missing, 0.0, (column - mean) / (spread or 1.0))[:, None])
        if missing.any():
            parts.append(missing[:, None].astype(np.float64))
    for column, size in zip(features.categorical.T, features.n_categories, strict=True):
        parts.append(np.eye(size)[column][:, 1:])
    if features.tag_names:
        tags = np.zeros((n, len(features.tag_names)))
        tags[np.repeat(np.arange(n), np.diff(features.tag_offsets)), features.tags] = 1
        parts.append(tags / np.maximum(np.linalg.norm(tags, axis=1, keepdims=True), 1))
    parts.append(features.vectors)
    return np.concatenate(parts, axis=1).astype(np.float32)
