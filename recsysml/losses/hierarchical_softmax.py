"""Hierarchical softmax (Morin & Bengio 2005): an item is a path of left-or-right decisions down a binary tree.

The loss of a row costs as many products as the path is long, about log2 of the catalogue, instead of one per item.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recsysml.losses.sampled_softmax import weighted_mean


class Tree(NamedTuple):
    """Every item's path from the root; V items have V - 1 inner nodes, numbered from 0."""

    nodes: Tensor  # (V, D) int64, the nodes on the way; 0 behind the end of a path
    signs: Tensor  # (V, D) float32: +1 goes one way, -1 the other, 0 behind the end of a path


def huffman_tree(counts: np.ndarray) -> Tree:
    """The tree with the shortest paths on average when item i is asked for counts[i] times (Huffman 1952).

    counts (V,), V at least 2; a count of 0 is allowed.
    """
    n = len(counts)
    if n < 2:
        raise ValueError("a tree needs at least two items")
    heap: list[tuple[float, int]] = [(float(count), item) for item, count in enumerate(counts)]
    heapq.heapify(heap)
    parent, sign = np.zeros(2 * n - 1, np.int64), np.zeros(2 * n - 1, np.float32)
    for made in range(n, 2 * n - 1):  # items are 0 .. n - 1, inner nodes follow in the order they are made
        (small, a), (large, b) = heapq.heappop(heap), heapq.heappop(heap)
        parent[[a, b]], sign[a], sign[b] = made, 1.0, -1.0
        heapq.heappush(heap, (small + large, made))
    nodes, signs = [], []
    at, root = np.arange(n), 2 * n - 2
    while (at != root).any():  # one level for all items at once
        below = at != root
        nodes.append(np.where(below, parent[at] - n, 0))
        signs.append(np.where(below, sign[at], 0))
        at = np.where(below, parent[at], root)
    return Tree(torch.from_numpy(np.stack(nodes, 1)), torch.from_numpy(np.stack(signs, 1).astype(np.float32)))


def hierarchical_softmax(
    queries: Tensor, node_vectors: Tensor, tree: Tree, targets: Tensor, *, weights: Tensor | None = None
) -> Tensor:
    """Mean of -log p(target), p the product of sigmoid(sign * query . node) along the path: a scalar, in nats.

    queries (N, C), node_vectors (V - 1, C), targets (N,), weights (N,) divided by their sum.
    """
    nodes, signs = tree.nodes[targets], tree.signs[targets]  # (N, D)
    logits = torch.einsum("nc,ndc->nd", queries, node_vectors[nodes])
    losses = -(F.logsigmoid(signs * logits.float()) * signs.abs()).sum(dim=1)
    return weighted_mean(losses, weights)


def hierarchical_log_probabilities(queries: Tensor, node_vectors: Tensor, tree: Tree) -> Tensor:
    """(N, C) -> (N, V) log p of every item; the rows of its exp sum to 1."""
    logits = (queries @ node_vectors.T).float()  # (N, V - 1)
    total = logits.new_zeros(len(queries), len(tree.nodes))
    for nodes, signs in zip(tree.nodes.T, tree.signs.T, strict=True):  # one level of all paths at once
        total = total + F.logsigmoid(signs * logits[:, nodes]) * signs.abs()
    return total
