"""One user's recommendations: the same from an index as from all scores, whatever is known of the user."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from recsysml.data.features import no_features
from recsysml.data.interaction_data import Interactions, InteractionSplit
from recsysml.errors import ConfigError
from recsysml.models.encoder import EncoderRetriever
from recsysml.models.histories import Histories
from recsysml.retrieval import index
from recsysml.retrieval.opening import Opened
from recsysml.retrieval.serving import everything, history_of_items, recommendations, usual_queries

N_ITEMS, WIDTH = 400, 8


class LastItem(nn.Module):
    """A position's vector is that of its last item."""

    def __init__(self, seed):
        super().__init__()
        self.n_items, self.context_length = N_ITEMS, 6
        self.table = nn.Parameter(torch.randn(N_ITEMS + 1, WIDTH, generator=torch.Generator().manual_seed(seed)))

    def forward(self, inputs, users):
        return self.table[inputs]

    def item_matrix(self):
        return self.table[:-1]


@pytest.fixture
def opened():
    ids = [f"i{i:03d}" for i in range(N_ITEMS)]
    return Opened(EncoderRetriever(LastItem(0)), "two_tower", "two_tower", 1, ["u"], ids, "f" * 64)


def row(*items):
    return Histories(np.array([-1]), np.array([0, len(items)]), np.array(items, np.int64), np.arange(float(len(items))))


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
@pytest.mark.parametrize("history", [(), (3,), (3, 9, 3)])
@pytest.mark.parametrize("mask_seen", [True, False])
@pytest.mark.parametrize("k", [5, N_ITEMS])
def test_an_index_gives_as_many_and_the_best(opened, tmp_path, kind, history, mask_seen, k):
    items = opened.retriever.item_vectors()
    made = index.build(items, items[:50], kind)
    made.save(tmp_path)
    found = recommendations(opened, row(*history), k, mask_seen=mask_seen, folder=tmp_path)
    exact = recommendations(opened, row(*history), k, mask_seen=mask_seen)
    assert len(found) == len(exact) == min(k, N_ITEMS - (len(set(history)) if mask_seen else 0))
    assert len({name for name, _ in found}) == len(found)
    if kind == "flat" or k == N_ITEMS:
        assert [name for name, _ in found] == [name for name, _ in exact]
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    products = items @ (items[history[-1]] if history else opened.retriever.encoder.table[-1].detach().numpy())
    if mask_seen:
        products[list(history)] = -np.inf
    assert exact[0] == (f"i{products.argmax():03d}", pytest.approx(products.max(), rel=1e-5))


def known(opened, n_users=1500):
    """Each user turned to one item, user u to item 7u; the last ones in val and test."""
    users = np.arange(n_users)
    parts = np.split(users, [n_users - 20, n_users - 10])
    splits = {
        name: InteractionSplit(part, 7 * part % N_ITEMS, part.astype(float))
        for name, part in zip(("train", "val", "test"), parts, strict=True)
    }
    nothing = no_features(n_users), no_features(N_ITEMS)
    return Interactions("d", "f" * 64, [f"u{n}" for n in users], opened.item_ids, splits, *nothing)


def test_a_rebuilt_index_is_set_on_users_the_checkpoint_knows(opened):
    data = known(opened)
    table = opened.retriever.encoder.table.detach().numpy()
    other = usual_queries(opened.retriever, opened, data)  # of users it does not know: items' own vectors
    assert (other == table[:-1]).all()
    assert (usual_queries(opened.retriever, opened, None) == table[:-1]).all()
    opened = dataclasses.replace(opened, user_ids=data.user_ids)
    found = usual_queries(opened.retriever, opened, data)
    assert len(found) == index.MEASURED_QUERIES
    every = everything(data, np.arange(1500))
    assert (found[0] == table[every.items[0]]).all()
    assert (found[-1] == table[every.items[-1]]).all()  # the latest event, also one of the test
    assert len(np.unique(found, axis=0)) == N_ITEMS  # many different ones


@pytest.mark.parametrize(
    ("names", "kept", "said"),
    [
        (["i001", "i002"], [1, 2], ""),
        (["i001", "what", "i002", "what"], [1, 2], "no item what; left out"),
        ([], [], ""),
    ],
)
def test_unknown_items_are_left_out_and_said(opened, caplog, names, kept, said):
    found = history_of_items(opened, names)
    assert found.items.tolist() == kept
    assert found.users.tolist() == [-1]
    assert said in caplog.text
    assert bool(said) == bool(caplog.records)


def test_a_history_of_unknown_items_alone_is_a_mistake(opened):
    with pytest.raises(ConfigError, match=r"no item i01\. Did you mean: i"):
        history_of_items(opened, ["i01", "nothing"])
