"""Attention over the edges of a graph: each node asks its neighbours, and keeps what it was."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Graph(NamedTuple):
    """Node n listens to `sources[offsets[n]:offsets[n + 1]]`. A node that listens to nobody is an isolated one."""

    offsets: Tensor  # (N + 1,) int64, from 0
    sources: Tensor  # (E,) int64 nodes

    @property
    def targets(self) -> Tensor:
        """(E,) the node that listens, edge by edge."""
        degrees = self.offsets.diff()
        nodes = torch.arange(len(degrees), device=degrees.device)
        return nodes.repeat_interleave(degrees, output_size=len(self.sources))


def around(graph: Graph, nodes: Tensor, hops: int) -> tuple[Graph, Tensor, Tensor]:
    """The part of a graph that `nodes` (M,) hear from through `hops` layers.

    Returns it with its nodes numbered anew, those nodes' old numbers (K,), and where each of `nodes` stands among
    them (M,). The nodes at its rim, whom the last layer's answer only asks for what they are, listen to nobody in it.
    """
    found = nodes.unique()
    inner = found
    for _ in range(hops):
        inner, found = found, torch.cat([found, _heard(graph, found)[0]]).unique()
    sources, degrees = _heard(graph, inner)
    where = torch.full((len(graph.offsets) - 1,), -1, device=found.device)
    where[found] = torch.arange(len(found), device=found.device)
    counts = torch.zeros_like(found)
    counts[where[inner]] = degrees
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Graph(offsets, where[sources]), found, where[nodes]


def _heard(graph: Graph, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """Whom `nodes` (M,) listen to, node after node, and how many that are for each (M,)."""
    starts = graph.offsets[nodes]
    degrees = graph.offsets[nodes + 1] - starts
    begins = degrees.cumsum(0) - degrees
    edges = torch.arange(int(degrees.sum()), device=nodes.device) + (starts - begins).repeat_interleave(degrees)
    return graph.sources[edges], degrees


def segment_softmax(scores: Tensor, segments: Tensor, n_segments: int) -> Tensor:
    """Softmax of scores (E, H) within each segment, segments (E,) int64 -> (E, H)."""
    index = segments[:, None].expand_as(scores)
    highest = scores.new_full((n_segments, scores.shape[1]), -math.inf)
    highest = highest.scatter_reduce(0, index, scores.detach(), "amax")  # no exponent overflows
    weights = (scores - highest[segments]).exp()
    sums = torch.zeros_like(highest).index_add(0, segments, weights)
    return weights / sums[segments]


class GraphAttention(nn.Module):
    """x + out(attention of each node's query on its neighbours' keys and values), heads as in self-attention.

    The node's own previous value is added and is not among what it attends to; an isolated node keeps it unchanged. No
    positions: the nodes may be numbered in any order.
    """

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        if width % n_heads:
            raise ValueError(f"width {width} is not a multiple of heads {n_heads}")
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        nn.init.normal_(self.out.weight, std=0.02)  # embeddings begin small: neighbours must not drown them

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """x (N, C), a graph of N nodes -> (N, C)."""
        n_nodes, width = x.shape
        split = (n_nodes, self.n_heads, width // self.n_heads)
        h = self.norm(x)
        q, k, v = self.query(h).view(split), self.key(h).view(split), self.value(h).view(split)  # (N, H, D)
        targets = graph.targets
        scores = (q[targets] * k[graph.sources]).sum(dim=2) / math.sqrt(split[2])  # (E, H)
        weights = segment_softmax(scores, targets, n_nodes)
        heard = torch.zeros_like(v).index_add(0, targets, weights[..., None] * v[graph.sources])
        return x + self.out(heard.view(n_nodes, width))
