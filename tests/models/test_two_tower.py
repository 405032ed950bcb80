"""Two towers under every choice: causal, repeatable, every part learnt, and an answer for who was never met."""

import pytest
import torch
import torch.nn.functional as F

from recsysml.errors import ConfigError
from recsysml.models.two_tower import TwoTower
from recsysml.nn.graph_attention import Graph
from recsysml.schemas.retrievers import TwoTowerConfig
from tests.models import contract

USERS = ["none", "id_table", "deep_hash", "cohort", "mixture"]
HISTORIES = ["mean", "attention", "transformer"]
INPUTS, IDS = torch.tensor([[11, 3, 1, 4, 1, 5], [11, 9, 2, 6, 5, 3]]), torch.tensor([0, 3])


# each of the 11 items hears the next two on a ring; of the 4 users 0 hears 1 and 2, who hear 0, and 3 hears nobody
ITEM_GRAPH = Graph(2 * torch.arange(12), (torch.arange(11)[:, None] + torch.tensor([1, 2])).flatten() % 11)
USER_GRAPH = Graph(torch.tensor([0, 2, 3, 4, 4]), torch.tensor([1, 2, 0, 0]))
GRAPHS = {"item_graph": "co_interaction", "user_graph": "friends", "graph_layers": 2}


def maker(**switches):
    config = {"d_model": 16, "d_hidden": 12, "context_length": 8, "n_cohorts": 4, "user_dropout": 0.0} | switches

    def make():
        generator = torch.Generator().manual_seed(5)
        features = [torch.randn(n, width, generator=generator) for n, width in ((11, 3), (4, 2))]
        graphs = {"item_graph": ITEM_GRAPH, "user_graph": USER_GRAPH}
        asked = {name: graph for name, graph in graphs.items() if name in switches}
        return TwoTower(TwoTowerConfig(**config), 11, 4, *features, **asked)

    return make


def logits(model, inputs):
    return model(inputs, IDS) @ model.item_matrix().T


def loss(model):
    return F.cross_entropy(5 * logits(model, INPUTS[:, :-1]).flatten(0, 1), INPUTS[:, 1:].flatten())


@pytest.mark.parametrize(
    ("user", "history"), [*((user, "attention") for user in USERS), *(("id_table", h) for h in HISTORIES)]
)
def test_contract(user, history):
    make = maker(user=user, history=history)
    contract.check_causality(make, logits, INPUTS)
    contract.check_determinism(make, loss)
    contract.check_state_dict(make, logits, INPUTS)
    contract.check_gradients(make, loss)
    model = make()
    contract.check_hidden_matrices(model, [p for name, p in model.named_parameters() if "embedding" in name])


@pytest.mark.parametrize("user", USERS)
def test_a_history_that_is_not_read_does_not_matter(user):
    make = maker(user=user, history="none")
    contract.check_determinism(make, loss)
    contract.check_state_dict(make, logits, INPUTS)
    contract.check_gradients(make, loss)
    torch.manual_seed(0)
    model = make().eval()
    torch.testing.assert_close(model(INPUTS, IDS), model(INPUTS.flip(1), IDS))
    assert not torch.allclose(*model(INPUTS[:1].expand(2, -1), IDS))  # who the user is does


def test_contract_with_graphs():
    make = maker(**GRAPHS)
    contract.check_causality(make, logits, INPUTS)
    contract.check_determinism(make, loss)
    contract.check_state_dict(make, logits, INPUTS)
    contract.check_gradients(make, loss)
    model = make()
    contract.check_hidden_matrices(model, [p for name, p in model.named_parameters() if "embedding" in name])


@pytest.mark.parametrize("layers", [1, 2])
def test_items_hear_their_neighbours_and_users_their_friends(layers):
    torch.manual_seed(0)
    model = maker(**GRAPHS | {"graph_layers": layers}, dropout=0.0)().eval()
    users, items = model(INPUTS[:1].expand(4, -1), torch.arange(4)), model.item_matrix()
    with torch.no_grad():
        model.item_embedding.weight[5] += torch.linspace(1, 3, 16)
        model.node_embedding.weight[1] += torch.linspace(1, 3, 16)
    changed = (model.item_matrix() != items).any(dim=1).nonzero().flatten().tolist()
    assert changed == list(range(5 - 2 * layers, 6))
    moved = (model(INPUTS[:1, :1].expand(4, -1), torch.arange(4)) != users[:, :1]).flatten(1).any(dim=1)
    assert moved.tolist() == [True, True, layers == 2, False]  # 2 hears 1 through 0


def test_who_was_never_met_hears_nobody_and_a_hidden_user_still_hears_its_friends():
    torch.manual_seed(0)
    switches = {"user": "none", "dropout": 0.0, "graph_layers": 1, "user_graph": "friends"}
    model = maker(**switches, user_dropout=0.999)()
    model.user_features.zero_()
    strangers = model.eval()(INPUTS, torch.tensor([-1, -1]))
    hidden = model.train()(INPUTS, torch.tensor([3, 0]))
    torch.testing.assert_close(hidden[0], strangers[0])  # no friends
    assert not torch.allclose(hidden[1], strangers[1])  # what its friends are is known


@pytest.mark.parametrize("user", USERS)
def test_a_user_never_met_is_answered_from_its_history_alone(user):
    torch.manual_seed(0)
    model = maker(user=user)().eval()
    strangers = model(INPUTS, torch.tensor([-1, -1]))
    assert torch.isfinite(strangers).all()
    assert not torch.allclose(strangers[0, -1], strangers[1, -1])
    twice = model(INPUTS[:1].expand(2, -1), torch.tensor([-1, -7]))
    torch.testing.assert_close(twice[0], twice[1]) if user != "deep_hash" else None


def test_what_is_not_asked_for_does_not_matter():
    """Without a representation of the user two users of equal features get one vector; with a table they do not."""
    for user, same in (("none", True), ("cohort", True), ("id_table", False), ("deep_hash", False)):
        torch.manual_seed(0)
        model = maker(user=user)().eval()
        model.user_features.zero_()
        found = model(INPUTS[:1].expand(2, -1), torch.tensor([0, 3]))
        assert torch.allclose(found[0], found[1]) == same, user


def test_a_hidden_user_is_one_never_met():
    torch.manual_seed(0)
    model = maker(user="id_table", user_dropout=0.999, dropout=0.0)().train()
    model.user_features.zero_()
    torch.testing.assert_close(model(INPUTS, IDS), model.eval()(INPUTS, torch.tensor([-1, -1])))


@pytest.mark.parametrize("user", ["id_table", "deep_hash", "mixture"])
def test_a_user_without_events_to_learn_from_is_one_never_met(user):
    torch.manual_seed(0)
    model = maker(user=user, user_graph="friends")().eval()
    model.user_features.zero_()
    model.user_events[:-1] = torch.tensor([0, 5, 5, 0])
    found = model(INPUTS[:1].expand(4, -1), torch.tensor([3, 2, 1, -1]))
    torch.testing.assert_close(found[0], found[3])
    assert not torch.allclose(found[1], found[3])


@pytest.mark.parametrize("user", ["id_table", "mixture"])
def test_a_memory_speaks_for_its_own_user_alone(user):
    """Nor for one never met."""
    torch.manual_seed(0)
    model = maker(user=user)().eval()
    inputs, users = INPUTS[:1].expand(5, -1), torch.tensor([0, 1, 2, 3, -1])
    model.user_events[:-1] = 7
    before = model(inputs, users)
    with torch.no_grad():
        model.memory.table.weight[2] += torch.linspace(1, 3, 16)
    moved = (model(inputs, users) != before).flatten(1).any(dim=1)
    assert moved.tolist() == [False, False, True, False, False]


def test_a_mixture_trusts_a_memory_the_more_the_more_it_was_learnt_from():
    torch.manual_seed(0)
    model = maker(user="mixture")().eval()
    model.user_features.zero_()
    model.memory.table.weight.data[:] = torch.linspace(1, 2, 16)  # all memories are alike
    model.user_events[:-1] = torch.tensor([0, 1, 10, 1000])
    known = torch.zeros(4, 1, 18)
    share = (model._user(torch.arange(4), known) - model.cohort(known))[:, 0].norm(dim=1)
    assert (share.diff() > 0).all()


def test_features_change_items_and_users_and_are_kept_with_the_weights():
    torch.manual_seed(0)
    model = maker()().eval()
    items, users = model.item_matrix(), model(INPUTS, IDS)
    model.item_features[4] += 1
    model.user_features[3] += 1
    assert (model.item_matrix() != items).any(dim=1).nonzero().flatten().tolist() == [4]
    assert not torch.allclose(model(INPUTS, IDS)[1, -1], users[1, -1])
    assert {"item_features", "user_features"} <= set(model.state_dict())


def test_vectors_have_length_one_if_asked_for():
    model = maker()().eval()
    torch.testing.assert_close(model.item_matrix().norm(dim=1), torch.ones(11))
    assert not torch.allclose(maker(normalise=False)().item_matrix().norm(dim=1), torch.ones(11))


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match=r"model\.user=tabel: Did you mean|model\.user=tabel: it is one of"):
        TwoTower(TwoTowerConfig(user="tabel"), 5, 2)
    for user in ("none", "cohort", "mixture"):
        with pytest.raises(ConfigError, match="no features of its users"):
            TwoTower(TwoTowerConfig(user=user, history="none"), 5, 2)
    TwoTower(TwoTowerConfig(user="id_table", history="none"), 5, 2)
    with pytest.raises(ConfigError, match="multiple"):
        TwoTower(TwoTowerConfig(history="transformer", d_model=15), 5, 2)
