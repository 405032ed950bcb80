"""Which items stand near one another in users' histories, and what follows from that: clusters of items."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import eigsh

from recsysml.models.histories import Histories

WINDOW = 5  # how many places apart two items may stand to count
FACTORS = 32  # dimensions in which items are clustered


def co_occurrence(histories: Histories, n_items: int, window: int = WINDOW) -> sparse.csr_array:
    """(I, I) symmetric: 1/d for each time two different items stand d places apart in a history, d up to `window`."""
    items, owners = histories.items, histories.owners
    total = sparse.csr_array((n_items, n_items), dtype=np.float64)
    for distance in range(1, window + 1):
        left, right = items[:-distance], items[distance:]
        kept = (owners[:-distance] == owners[distance:]) & (left != right)
        places = (left[kept], right[kept])
        total = total + sparse.csr_array((np.full(len(places[0]), 1 / distance), places), (n_items, n_items))
    return sparse.csr_array(total + total.T)


def normalised(counts: sparse.csr_array) -> sparse.csr_array:
    """D^-1/2 counts D^-1/2, with D the row sums: what two items share, whatever their popularity."""
    sums = counts.sum(axis=1)
    scale = sparse.diags_array(np.where(sums > 0, 1 / np.sqrt(np.maximum(sums, 1e-12)), 0.0))
    return sparse.csr_array(scale @ counts @ scale)


def item_clusters(histories: Histories, n_items: int, n_clusters: int, seed: int) -> np.ndarray:
    """(I,) int64, each item's cluster: k-means of the leading eigenvectors of what items share, scaled to
    length 1 (Ng, Jordan & Weiss 2002); the seed decides where it begins.

    A cluster of more than twice the average size is cut along its longest direction, since the largest one decides what
    a cluster softmax costs. There may so be a few more clusters than asked for.
    """
    import faiss

    n_clusters = min(n_clusters, n_items)
    shared = normalised(co_occurrence(histories, n_items))
    if not shared.nnz:  # nothing says which items are alike
        return np.arange(n_items) % n_clusters
    n_factors = min(FACTORS, n_clusters, n_items - 1)
    if n_items > 4 * FACTORS:
        start = np.random.default_rng(seed).normal(size=n_items)
        values, vectors = eigsh(shared, k=n_factors, which="LA", v0=start)
    else:
        values, vectors = (found[..., -n_factors:] for found in np.linalg.eigh(shared.toarray()))
    vectors = vectors * np.maximum(values, 0)  # (I, F)
    vectors = (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    means = faiss.Kmeans(n_factors, n_clusters, niter=25, seed=seed, min_points_per_centroid=1)
    means.train(np.ascontiguousarray(vectors))
    assignment = means.index.search(np.ascontiguousarray(vectors), 1)[1][:, 0].astype(np.int64)
    return _cut(assignment, vectors, largest=2 * -(-n_items // n_clusters))


def _cut(assignment: np.ndarray, vectors: np.ndarray, largest: int) -> np.ndarray:
    """Clusters of more than `largest` items as several, of sizes that differ by one at most."""
    assignment = assignment.copy()
    following = int(assignment.max()) + 1
    for cluster in np.flatnonzero(np.bincount(assignment) > largest):
        members = np.flatnonzero(assignment == cluster)
        centred = vectors[members] - vectors[members].mean(axis=0)
        longest = np.linalg.svd(centred, full_matrices=False)[2][0]
        order = members[np.argsort(centred @ longest, kind="stable")]
        for part in np.array_split(order, -(-len(order) // largest))[1:]:
            assignment[part] = following
            following += 1
    return assignment
