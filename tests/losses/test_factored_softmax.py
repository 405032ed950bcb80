"""Hierarchical and cluster softmax: probabilities that sum to 1, losses that are their logarithms."""

import heapq

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recsysml.losses.cluster_softmax import cluster_log_probabilities, cluster_softmax, clusters_of
from recsysml.losses.hierarchical_softmax import (
    hierarchical_log_probabilities,
    hierarchical_softmax,
    huffman_tree,
)


@pytest.mark.parametrize("n_items", [2, 3, 17, 64])
@pytest.mark.parametrize("seed", range(2))
def test_hierarchical_probabilities_sum_to_one_and_the_loss_is_their_logarithm(n_items, seed):
    torch.manual_seed(seed)
    tree = huffman_tree(np.random.default_rng(seed).integers(0, 100, n_items))
    queries, nodes, targets = torch.randn(9, 5), torch.randn(n_items - 1, 5), torch.randint(n_items, (9,))
    log_p = hierarchical_log_probabilities(queries, nodes, tree)
    torch.testing.assert_close(log_p.exp().sum(dim=1), torch.ones(9))
    loss = hierarchical_softmax(queries, nodes, tree, targets)
    torch.testing.assert_close(loss, F.nll_loss(log_p, targets))


def test_every_item_has_a_path_of_its_own_and_decisions_are_the_sigmoids_on_it():
    tree = huffman_tree(np.array([5, 1, 1, 2, 8]))
    paths = {tuple(zip(n.tolist(), s.tolist(), strict=True)) for n, s in zip(tree.nodes, tree.signs, strict=True)}
    assert len(paths) == 5
    torch.manual_seed(0)
    query, nodes = torch.randn(1, 3), torch.randn(4, 3)
    for item in range(5):
        p = 1.0
        for node, sign in zip(tree.nodes[item].tolist(), tree.signs[item].tolist(), strict=True):
            if sign:
                p *= torch.sigmoid(sign * (query[0] @ nodes[node])).item()
        assert hierarchical_log_probabilities(query, nodes, tree)[0, item].exp().item() == pytest.approx(p, rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_paths_are_as_short_as_huffman_makes_them(seed):
    counts = np.random.default_rng(seed).zipf(1.5, 60).clip(max=5000)
    lengths = huffman_tree(counts).signs.abs().sum(dim=1).numpy()
    assert (0.5**lengths).sum() == pytest.approx(1)  # Kraft: a full binary tree
    heap, cost = counts.tolist(), 0  # the least cost is the sum of all merges
    heapq.heapify(heap)
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        cost += merged
        heapq.heappush(heap, merged)
    assert (counts * lengths).sum() == cost


def test_one_item_is_no_tree():
    with pytest.raises(ValueError, match="two items"):
        huffman_tree(np.array([3]))


def clustered(seed, n_items=23, n_clusters=5):
    torch.manual_seed(seed)
    assignment = torch.randint(n_clusters, (n_items,))
    clusters = clusters_of(assignment)
    k = len(clusters.members)
    return assignment, clusters, torch.randn(11, 4), torch.randn(k, 4), torch.randn(n_items, 4)


@pytest.mark.parametrize("seed", range(3))
def test_cluster_probabilities_sum_to_one_and_the_loss_is_their_logarithm(seed):
    _, clusters, queries, centres, items = clustered(seed)
    targets, weights = torch.randint(len(items), (11,)), torch.rand(11)
    log_p = cluster_log_probabilities(queries, centres, items, clusters)
    torch.testing.assert_close(log_p.exp().sum(dim=1), torch.ones(11))
    torch.testing.assert_close(cluster_softmax(queries, centres, items, clusters, targets), F.nll_loss(log_p, targets))
    own = -log_p[torch.arange(11), targets]
    torch.testing.assert_close(
        cluster_softmax(queries, centres, items, clusters, targets, weights=weights),
        (own * weights).sum() / weights.sum(),
    )


def test_cluster_probabilities_against_a_loop():
    assignment, clusters, queries, centres, items = clustered(7)
    names = assignment.unique().tolist()
    for row in range(3):
        outer = torch.softmax(centres @ queries[row], dim=0)
        for item in range(len(items)):
            mates = (assignment == assignment[item]).nonzero().flatten()
            inner = torch.softmax(items[mates] @ queries[row], dim=0)[(mates == item).nonzero().item()]
            expected = outer[names.index(assignment[item].item())] * inner
            found = cluster_log_probabilities(queries, centres, items, clusters)[row, item].exp()
            torch.testing.assert_close(found, expected)


def test_one_cluster_or_one_item_a_cluster_is_the_full_softmax():
    torch.manual_seed(0)
    queries, items, targets = torch.randn(6, 4), torch.randn(9, 4), torch.randint(9, (6,))
    full = F.cross_entropy(queries @ items.T, targets)
    together, apart = clusters_of(torch.zeros(9, dtype=torch.long)), clusters_of(torch.arange(9))
    torch.testing.assert_close(cluster_softmax(queries, torch.randn(1, 4), items, together, targets), full)
    torch.testing.assert_close(cluster_softmax(queries, items, torch.randn(9, 4), apart, targets), full)


def test_gradients_reach_queries_clusters_and_items():
    _, clusters, queries, centres, items = clustered(1)
    inputs = [tensor.clone().double().requires_grad_() for tensor in (queries, centres, items)]
    targets = torch.randint(len(items), (11,))

    def loss(*tensors):
        return cluster_softmax(*tensors, clusters, targets)

    grads = torch.autograd.grad(loss(*inputs), inputs)
    step = 1e-3
    for tensor, grad in zip(inputs, grads, strict=True):
        direction = torch.randn_like(tensor)
        with torch.no_grad():
            up, down = (loss(*(t + s * step * direction if t is tensor else t for t in inputs)).item() for s in (1, -1))
        assert (up - down) / (2 * step) == pytest.approx((grad * direction).sum().item(), abs=2e-3)
