"""Two stages: the contract of sequence models, the ranker against a loop, and candidates against plain sorting."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recsysml.errors import ConfigError
from recsysml.models import heads
from recsysml.models.multi_stage import MultiStage, check_initial
from recsysml.models.retriever import recommend
from recsysml.models.stages import StagedRetriever, events_of
from recsysml.schemas.retrievers import MultiStageConfig
from tests.models import contract

INPUTS, IDS = torch.tensor([[11, 3, 1, 4, 1, 5], [11, 9, 2, 6, 5, 3]]), torch.tensor([0, 3])
SMALL = {"d_model": 16, "d_hidden": 12, "d_ranker": 10, "context_length": 8, "n_cohorts": 4, "user_dropout": 0.0}


def make(n_items=11, n_users=4, **switches):
    model = MultiStage(MultiStageConfig(**{**SMALL, "n_candidates": 4, **switches}), n_items, n_users)
    torch.nn.init.normal_(model.ranker.out.weight)  # a ranker that has learnt something
    return model


def logits(model, inputs):
    """The ranker's word on every item at every place."""
    states, items = model(inputs, IDS), model.item_matrix()
    length = inputs.shape[1]
    past = inputs[:, None].expand(-1, length, -1).masked_fill(torch.ones(length, length).triu(1).bool(), len(items))
    rows = states.flatten(0, 1)
    scores = model.ranker(rows, items.expand(len(rows), -1, -1), *events_of(items, past.flatten(0, 1)))
    return scores.unflatten(0, inputs.shape)


def loss(model):
    return F.cross_entropy(logits(model, INPUTS[:, :-1]).flatten(0, 1), INPUTS[:, 1:].flatten())


@pytest.mark.parametrize("switches", [{}, {"normalise": False, "history": "mean", "user": "none"}], ids=str)
def test_contract(switches):
    def maker():
        return make(**switches)

    contract.check_causality(maker, logits, INPUTS)
    contract.check_determinism(maker, loss)
    contract.check_state_dict(maker, logits, INPUTS)
    contract.check_gradients(maker, loss)
    model = maker()
    tables = [p for name, p in model.named_parameters() if "embedding" in name or "ranker.out" in name]
    contract.check_hidden_matrices(model, tables)


@pytest.mark.parametrize("seed", range(3))
def test_the_ranker_is_its_formula_candidate_by_candidate(seed):
    torch.manual_seed(seed)
    ranker = make().ranker
    users, candidates, events = torch.randn(3, 16), torch.randn(3, 5, 16), torch.randn(3, 7, 16)
    real = torch.rand(3, 7) < 0.5
    real[0] = False  # of whom nothing is known
    with torch.no_grad():
        found = ranker(users, candidates, events, real)
    for n in range(3):
        for k in range(5):
            user, item = users[n], candidates[n, k]
            past = torch.zeros(16)
            known = events[n][real[n]]
            if len(known):
                past = torch.softmax(known @ (ranker.query.weight @ item) / math.sqrt(16), dim=0) @ known
            hidden = (
                ranker.user(user) + ranker.item.weight @ item + ranker.match.weight @ (user * item)
                + ranker.past.weight @ (past * item)
            )  # fmt: skip
            expected = ranker.scale * (user @ item) + (ranker.out.weight[0] @ F.gelu(hidden)) + ranker.out.bias[0]
            assert float(found[n, k]) == pytest.approx(expected.item(), rel=1e-4, abs=1e-4)
    events[~real] = 1e3
    with torch.no_grad():
        assert torch.equal(ranker(users, candidates, events, real), found)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_candidates", [1, 4, 50])
def test_candidates_are_the_nearest_unseen_and_stand_before_all_others(seed, n_candidates, draw, lists):
    torch.manual_seed(seed)
    model = make(12, 20, n_candidates=n_candidates).eval()
    retriever = heads.retriever_of(model)
    assert isinstance(retriever, StagedRetriever)
    histories = draw(seed)
    scores, products = retriever.scores(histories), retriever.first_stage().scores(histories)
    assert np.isfinite(scores).all()
    matrix = retriever.matrix()
    for row, seen in enumerate(lists(histories)):
        nearest = np.argsort(-products[row], kind="stable")
        fresh = [i for i in nearest if i not in seen]
        candidates, rest = fresh[:n_candidates], fresh[n_candidates:]
        own = histories.part(row, row + 1)
        past = torch.tensor([seen[-7:]], dtype=torch.long)  # the start token takes one place
        with torch.no_grad():
            told = model.ranker(retriever.queries(own), matrix[None, candidates], *events_of(matrix, past))[0].numpy()
        order = [candidates[i] for i in np.argsort(-told, kind="stable")] + rest
        assert [i for i in np.argsort(-scores[row], kind="stable") if i not in seen] == order
        assert scores[row, candidates] == pytest.approx(told, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_what_an_index_finds_is_ordered_as_without_one(seed, draw):
    torch.manual_seed(seed)
    retriever = StagedRetriever(make(12, 20).eval())
    histories = draw(seed)
    queries, vectors = retriever.user_vectors(histories), retriever.item_vectors()
    for row in range(20):
        own = histories.part(row, row + 1)
        seen = set(own.items.tolist())
        depth = min(4 + len(seen), 12)
        near = np.argsort(-(queries[row] @ vectors.T), kind="stable")[:depth]
        padded = np.concatenate([near, [-1, -1]])[None]  # an index may find less than it was asked for
        items, scores = retriever.ranked(queries[row : row + 1], own, padded)
        assert np.isneginf(scores[items < 0]).all()
        fresh = [(i, s) for i, s in zip(items[0].tolist(), scores[0].tolist(), strict=True) if i not in seen and i >= 0]
        assert len(fresh) == min(4, 12 - len(seen))
        whole, values = recommend(retriever, own, len(fresh))
        assert [i for i, _ in fresh] == whole[0].tolist()
        assert [s for _, s in fresh] == pytest.approx(values[0].tolist(), rel=1e-4, abs=1e-5)


def test_before_it_has_learnt_the_order_is_stage_ones(draw):
    torch.manual_seed(0)
    model = MultiStage(MultiStageConfig(**SMALL, n_candidates=5), 12, 20).eval()
    retriever, histories = StagedRetriever(model), draw(1)
    assert np.array_equal(
        np.argsort(-retriever.scores(histories), axis=1), np.argsort(-retriever.first_stage().scores(histories), axis=1)
    )


def test_towers_of_a_run_do_not_learn():
    model = make(init_from="somewhere").train()
    assert not model.towers.training
    assert model.ranker.training
    assert all(name.startswith("ranker.") == p.requires_grad for name, p in model.named_parameters())
    assert all(p.requires_grad for p in model.hidden_matrices())


def test_what_cannot_work_is_refused(tmp_path):
    for wrong, words in (
        ({"n_candidates": 0}, r"model\.n_candidates=0"),
        ({"distillation": 1.5}, r"model\.distillation=1\.5"),
        ({"user": "tabel"}, r"model\.user=tabel"),
    ):
        with pytest.raises(ConfigError, match=words):
            MultiStageConfig(**wrong).validate()
    for field, other in (("init_from", ""), ("teacher", "one of none, ease")):
        with pytest.raises(ConfigError, match=rf"model\.{field}=.*nowhere: there is no checkpoint; give {other}"):
            check_initial(MultiStageConfig(**{field: str(tmp_path / "nowhere")}))
    check_initial(MultiStageConfig(teacher="seq_knn"))
