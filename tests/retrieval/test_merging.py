"""Merged answers against scoring every item."""

import numpy as np
import pytest
import torch

from recsysml.models.multi_head import MultiHead
from recsysml.retrieval import index
from recsysml.retrieval.merging import merged_top_k
from recsysml.schemas.retrievers import MultiHeadConfig


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("settings", [("max", 1.0), ("logsumexp", 0.3), ("logsumexp", 20.0)], ids=str)
@pytest.mark.parametrize("k", [1, 7, 40, 400])
def test_the_list_is_that_of_scoring_every_item(seed, settings, k):
    rng = np.random.default_rng(seed)
    items = rng.normal(size=(300, 8)).astype(np.float32)
    queries = rng.normal(size=(11, 3, 8)).astype(np.float32)
    pool = MultiHead(MultiHeadConfig(d_model=8, pooling=settings[0], sharpness=settings[1]), 5, 2).pool
    asked = []
    flat = index.build(items, queries.reshape(-1, 8), "flat")

    def search(vectors, depth):
        asked.append(depth)
        return flat.search(vectors, depth)

    found, scores = merged_top_k(search, queries, items, pool, k)
    truth = pool(torch.from_numpy(queries) @ torch.from_numpy(items).T).numpy()
    best = -np.sort(-truth, axis=1)[:, :k]  # scores and not items: two may differ by less than a rounding
    assert np.take_along_axis(truth, found[:, :300], axis=1) == pytest.approx(best, abs=1e-5)
    assert scores[:, :300] == pytest.approx(best, abs=1e-5)
    assert all(len(set(row)) == len(row) for row in found[:, :300].tolist())
    assert (found[:, 300:] == -1).all()
    assert max(asked) < 300 or settings[0] == "logsumexp" or k > 100  # max never needs more than the lists


def test_the_two_best_of_each_vector_alone_would_be_wrong():
    """An item that is good for both vectors beats those that are best for one: the search must go deeper."""
    angles = np.linspace(0, np.pi / 2, 41)
    items = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    queries = np.eye(2, dtype=np.float32)[None]
    pool = MultiHead(MultiHeadConfig(d_model=8, pooling="logsumexp", sharpness=0.1), 5, 2).pool
    flat = index.build(items, queries[0], "flat")
    assert merged_top_k(flat.search, queries, items, pool, 1)[0].tolist() == [[20]]
