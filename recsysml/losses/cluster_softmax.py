"""Cluster softmax (Goodman 2001): p(item) = p(cluster) p(item | cluster), a full softmax at a fraction of its products.

With sqrt(V) clusters of sqrt(V) items a row costs 2 sqrt(V) products instead of V.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recsysml.losses.sampled_softmax import weighted_mean


class Clusters(NamedTuple):
    """Which items share a cluster: K clusters of at most M items."""

    members: Tensor  # (K, M) int64 items; 0 where `real` is false
    real: Tensor  # (K, M) bool
    cluster: Tensor  # (V,) int64, each item's cluster
    place: Tensor  # (V,) int64, its column in `members`


def clusters_of(assignment: Tensor) -> Clusters:
    """assignment (V,) int64, each item's cluster. Clusters without an item are dropped."""
    cluster = torch.unique(assignment, return_inverse=True)[1]
    counts = cluster.bincount()  # (K,)
    order = cluster.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    place = torch.empty_like(cluster)
    place[order] = torch.arange(len(cluster), device=cluster.device) - starts[cluster[order]]
    members = cluster.new_zeros(len(counts), int(counts.max()))
    real = torch.zeros_like(members, dtype=torch.bool)
    members[cluster, place] = torch.arange(len(cluster), device=cluster.device)
    real[cluster, place] = True
    return Clusters(members, real, cluster, place)


def cluster_softmax(
    queries: Tensor,
    cluster_vectors: Tensor,
    item_vectors: Tensor,
    clusters: Clusters,
    targets: Tensor,
    *,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean of -log p(cluster of the target) - log p(target | its cluster): a scalar, in nats.

    queries (N, C), cluster_vectors (K, C), item_vectors (V, C), targets (N,), weights (N,) divided by their sum.
    """
    wanted = clusters.cluster[targets]  # (N,)
    losses = F.cross_entropy((queries @ cluster_vectors.T).float(), wanted, reduction="none")

    # the rows of a cluster side by side, so that each cluster's items are read once and not once a row
    counts = wanted.bincount(minlength=len(cluster_vectors))  # (K,)
    order = wanted.argsort(stable=True)
    column = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[wanted[order]]
    rows = queries.new_zeros(len(counts), int(counts.max()), queries.shape[1])  # (K, R, C)
    rows = rows.index_put((wanted[order], column), queries[order])
    inside = item_vectors[clusters.members]  # (K, M, C)
    logits = (rows @ inside.transpose(1, 2)).float().masked_fill(~clusters.real[:, None, :], -math.inf)  # (K, R, M)
    own = logits[wanted[order], column]  # (N, M), in `order`
    within = F.cross_entropy(own, clusters.place[targets[order]], reduction="none")
    return weighted_mean(losses.index_add(0, order, within), weights)


def cluster_log_probabilities(
    queries: Tensor, cluster_vectors: Tensor, item_vectors: Tensor, clusters: Clusters
) -> Tensor:
    """(N, C) -> (N, V) log p of every item; the rows of its exp sum to 1."""
    outer = (queries @ cluster_vectors.T).float().log_softmax(dim=1)  # (N, K)
    logits = (queries @ item_vectors.T).float()  # (N, V)
    inner = logits[:, clusters.members].masked_fill(~clusters.real, -math.inf).logsumexp(dim=2)  # (N, K)
    return logits + (outer - inner)[:, clusters.cluster]
