"""Graphs against loops: the strongest edges of each node, friends in both directions, nothing after training."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from recsysml.errors import ConfigError
from recsysml.models.histories import Histories
from recsysml.retrieval.graphs import co_interaction, friendships, graphs, strongest


def neighbours(graph):
    offsets = graph.offsets.tolist()
    return [graph.sources[a:b].tolist() for a, b in pairwise(offsets)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("degree", [1, 3, 50])
def test_each_node_keeps_its_strongest_edges(seed, degree):
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(np.unique(rng.integers(0, 9, (60, 2)), axis=0))  # of 12 nodes three have no edge
    weights = rng.integers(0, 4, len(pairs)).astype(float)
    found = neighbours(strongest(pairs[:, 0], pairs[:, 1], weights, 12, degree))
    for node in range(12):
        own = [(-w, source) for (target, source), w in zip(pairs.tolist(), weights, strict=True) if target == node]
        assert found[node] == [source for _, source in sorted(own)][:degree]


def test_friends_hear_one_another_up_to_the_cap():
    rng = np.random.default_rng(0)
    pairs = np.unique(np.sort(rng.integers(0, 20, (80, 2)), axis=1), axis=0)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    known = {frozenset(pair) for pair in pairs.tolist()}
    for degree in (4, 100):
        found = neighbours(friendships(pairs, 22, degree))
        for user in range(22):
            friends = {other for other in range(22) if frozenset((user, other)) in known and other != user}
            assert set(found[user]) <= friends
            assert len(found[user]) == len(set(found[user])) == min(degree, len(friends))


def test_items_hear_those_that_stand_beside_them():
    items = np.array([0, 1, 0, 1, 2, 3, 4, 2, 3])
    users = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    histories = Histories.of_events(users, items, np.arange(9.0), np.arange(3))
    assert neighbours(co_interaction(histories, 6, 1)) == [[1], [0], [3], [2], [2], []]


def test_friends_are_asked_of_data_that_has_them():
    config = SimpleNamespace(item_graph="none", user_graph="friends", graph_degree=3)
    data = SimpleNamespace(friends=None, name="ml-100k")
    with pytest.raises(ConfigError, match="ml-100k has no friends"):
        graphs(config, data, None)
