"""One matrix of all features, against what each kind should become."""

import numpy as np
import pytest

from recsysml.data.features import Features, no_features
from recsysml.retrieval.feature_matrix import feature_matrix


def test_every_kind_stands_side_by_side():
    features = Features(
        dense=np.array([[1, 5], [3, np.nan], [5, 7], [100, 9]], np.float32),
        categorical=np.array([[0], [2], [1], [2]]),
        tag_offsets=np.array([0, 2, 2, 3, 6]),
        tags=np.array([0, 2, 1, 0, 1, 2]),
        vectors=np.array([[0.5], [1.5], [2.5], [3.5]], np.float32),
        categories=[["red", "blue"]],
        tag_names=["a", "b", "c"],
    )
    found = feature_matrix(features, np.array([0, 1, 2]))  # row 3 is not learnt from
    assert found.shape == (4, 1 + 2 + 2 + 3 + 1)
    first = np.array([1.0, 3, 5])
    assert found[:, 0] == pytest.approx((np.array([1, 3, 5, 100]) - first.mean()) / first.std())
    assert found[:, 1] == pytest.approx(
        [-1, 0, 1, 3]
    )  # mean 6, spread 1 of the known ones; the missing one is the mean
    assert found[:, 2].tolist() == [0, 1, 0, 0]
    assert found[:, 3:5].tolist() == [[0, 0], [0, 1], [1, 0], [0, 1]]
    assert found[0, 5:8] == pytest.approx([0.5**0.5, 0, 0.5**0.5])
    assert found[1, 5:8].tolist() == [0, 0, 0]
    assert found[3, 5:8] == pytest.approx([3**-0.5] * 3)
    assert found[:, 8].tolist() == [0.5, 1.5, 2.5, 3.5]


def test_a_column_that_never_varies_is_no_division_by_zero():
    features = no_features(3)
    constant = Features(
        np.full((3, 1), 7, np.float32),
        *(getattr(features, n) for n in ("categorical", "tag_offsets", "tags", "vectors")),
    )
    assert feature_matrix(constant, np.arange(3)).tolist() == [[0], [0], [0]]
    assert feature_matrix(features, np.arange(3)) is None
