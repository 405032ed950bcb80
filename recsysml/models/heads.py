"""Outputs that tell items apart by other means than products with vectors: down a tree, or by cluster and then item.

A head is trained with its encoder and kept with its weights; its log-probabilities are the scores that are served.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from recsysml.losses.cluster_softmax import Clusters, cluster_log_probabilities, cluster_softmax, clusters_of
from recsysml.losses.hierarchical_softmax import (
    Tree,
    hierarchical_log_probabilities,
    hierarchical_softmax,
)
from recsysml.models.encoder import Encoder, EncoderRetriever
from recsysml.models.histories import Histories
from recsysml.models.stages import StagedRetriever

KINDS = ("hierarchical", "cluster")  # the losses that need one


class Head(Protocol):
    """queries (N, C) are divided by the temperature already; items (I, C) is None where `reads_items` is false."""

    reads_items: bool
    temperature: Tensor  # () what queries are divided by; unlike a product's, the order of these scores hangs on it

    def loss(self, queries: Tensor, items: Tensor | None, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Mean of -log p(target), of targets (N,) with weights (N,) or None: a scalar, in nats."""
        ...

    def log_probabilities(self, queries: Tensor, items: Tensor | None) -> Tensor:
        """(N, I); the rows of its exp sum to 1."""
        ...


class HierarchicalHead(nn.Module):
    """A vector for each inner node of a binary tree whose leaves are the items; items need no vectors of their own."""

    reads_items = False
    temperature: Tensor
    nodes: Tensor
    signs: Tensor

    def __init__(self, width: int, tree: Tree, temperature: float) -> None:
        super().__init__()
        self.node_vectors = nn.Parameter(torch.empty(len(tree.nodes) - 1, width))
        nn.init.normal_(self.node_vectors, std=0.02)
        self.register_buffer("nodes", tree.nodes)
        self.register_buffer("signs", tree.signs)
        self.register_buffer("temperature", torch.tensor(temperature))

    def loss(self, queries: Tensor, items: Tensor | None, targets: Tensor, weights: Tensor | None) -> Tensor:
        tree = Tree(self.nodes, self.signs)
        return hierarchical_softmax(queries, self.node_vectors, tree, targets, weights=weights)

    def log_probabilities(self, queries: Tensor, items: Tensor | None) -> Tensor:
        return hierarchical_log_probabilities(queries, self.node_vectors, Tree(self.nodes, self.signs))


class ClusterHead(nn.Module):
    """A vector for each cluster beside those of the items: a full softmax over clusters and one within the target's."""

    reads_items = True
    temperature: Tensor
    cluster: Tensor
    place: Tensor
    members: Tensor
    real: Tensor

    def __init__(self, width: int, assignment: Tensor, temperature: float) -> None:
        """assignment (I,) int64, each item's cluster."""
        super().__init__()
        clusters = clusters_of(assignment)
        self.cluster_vectors = nn.Parameter(torch.empty(len(clusters.members), width))
        nn.init.normal_(self.cluster_vectors, std=0.02)
        self.register_buffer("cluster", clusters.cluster)
        for name in ("place", "members", "real"):  # they follow from `cluster`
            self.register_buffer(name, getattr(clusters, name), persistent=False)
        self.register_buffer("temperature", torch.tensor(temperature))

    @property
    def _clusters(self) -> Clusters:
        return Clusters(self.members, self.real, self.cluster, self.place)

    def loss(self, queries: Tensor, items: Tensor | None, targets: Tensor, weights: Tensor | None) -> Tensor:
        assert items is not None
        return cluster_softmax(queries, self.cluster_vectors, items, self._clusters, targets, weights=weights)

    def log_probabilities(self, queries: Tensor, items: Tensor | None) -> Tensor:
        assert items is not None
        return cluster_log_probabilities(queries, self.cluster_vectors, items, self._clusters)


def attach(encoder: nn.Module, head: nn.Module) -> None:
    """Make the head a part of the encoder. What only makes item vectors is not trained under a head that reads none."""
    encoder.head = head
    if not cast(Head, head).reads_items:
        for parameter in cast(Any, encoder).item_side():
            parameter.requires_grad_(False)


def restored(kind: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The head of a checkpoint's tensors, its own weights not yet put in. kind: hierarchical or cluster."""
    temperature = float(tensors["head.temperature"])
    if kind == "hierarchical":
        width = tensors["head.node_vectors"].shape[1]
        return HierarchicalHead(width, Tree(tensors["head.nodes"], tensors["head.signs"]), temperature)
    return ClusterHead(tensors["head.cluster_vectors"].shape[1], tensors["head.cluster"], temperature)


class HeadRetriever:
    """An encoder with a head, in eval mode. It scores; it has no vectors that an index could hold."""

    def __init__(self, encoder: nn.Module, device: torch.device | str = "cpu") -> None:
        self.n_items = cast(Encoder, encoder).n_items
        self.head = cast(Head, encoder.head)
        self._plain = EncoderRetriever(encoder, device)

    @torch.no_grad()
    def scores(self, histories: Histories) -> np.ndarray:
        queries = self._plain.queries(histories) / self.head.temperature
        items = self._plain.matrix() if self.head.reads_items else None
        return self.head.log_probabilities(queries, items).cpu().numpy()


def retriever_of(encoder: nn.Module, device: torch.device | str = "cpu") -> EncoderRetriever | HeadRetriever:
    """A network as what scores the catalogue: by its head or in two stages where it has them, else by products."""
    if hasattr(encoder, "head"):
        return HeadRetriever(encoder, device)
    return (StagedRetriever if hasattr(encoder, "ranker") else EncoderRetriever)(encoder, device)
