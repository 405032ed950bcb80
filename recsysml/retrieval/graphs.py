"""The graphs a network's attention goes over: items by what they share in training events, users by their friends."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recsysml.data.interaction_data import Interactions
from recsysml.errors import ConfigError
from recsysml.models.histories import Histories
from recsysml.nn.graph_attention import Graph
from recsysml.retrieval.co_occurrence import co_occurrence, normalised


def graphs(config: Any, data: Interactions, events: Histories) -> dict[str, Graph]:
    """What a model of `config` is built with: `item_graph` and `user_graph`, each where the config asks for it.

    `events` are those learnt from: nothing later has an edge. Raises ConfigError where the data has no friends.
    """
    found = {}
    if getattr(config, "item_graph", "none") == "co_interaction":
        found["item_graph"] = co_interaction(events, len(data.item_ids), config.graph_degree)
    if getattr(config, "user_graph", "none") == "friends":
        if data.friends is None:
            raise ConfigError(f"model.user_graph=friends: {data.name} has no friends; use none")
        found["user_graph"] = friendships(data.friends, len(data.user_ids), config.graph_degree)
    return found


def co_interaction(histories: Histories, n_items: int, degree: int) -> Graph:
    """Each item listens to the `degree` items it shares most with, its own and their popularity taken out."""
    shared = normalised(co_occurrence(histories, n_items)).tocoo()
    return strongest(shared.row, shared.col, shared.data, n_items, degree)


def friendships(pairs: np.ndarray, n_users: int, degree: int) -> Graph:
    """pairs (E, 2) undirected: each user listens to friends, to `degree` of them drawn by lot where there are more."""
    both = np.concatenate([pairs, pairs[:, ::-1]])
    return strongest(both[:, 0], both[:, 1], np.random.default_rng(0).random(len(both)), n_users, degree)


def strongest(targets: np.ndarray, sources: np.ndarray, weights: np.ndarray, n: int, degree: int) -> Graph:
    """Edges (E,) as a graph of n nodes, of each target the `degree` of greatest weight; equals by their source."""
    order = np.lexsort((sources, -weights, targets))
    starts = np.searchsorted(targets[order], np.arange(n))
    kept = order[np.arange(len(order)) - starts[targets[order]] < degree]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(targets[kept], minlength=n))])
    return Graph(torch.from_numpy(offsets.astype(np.int64)), torch.from_numpy(sources[kept].astype(np.int64)))
