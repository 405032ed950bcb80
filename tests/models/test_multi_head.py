"""Several vectors a user: the contract of sequence models, and scores against a loop over vectors."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recsysml.errors import ConfigError
from recsysml.models.encoder import EncoderRetriever
from recsysml.models.multi_head import MultiHead
from recsysml.schemas.retrievers import MultiHeadConfig
from tests.models import contract

INPUTS, IDS = torch.tensor([[11, 3, 1, 4, 1, 5], [11, 9, 2, 6, 5, 3]]), torch.tensor([0, 3])


def maker(**switches):
    config = {"d_model": 16, "d_hidden": 12, "context_length": 8, "n_cohorts": 4, "user_dropout": 0.0} | switches
    return lambda: MultiHead(MultiHeadConfig(**config), 11, 4)


def logits(model, inputs):
    return model.pool(model(inputs, IDS) @ model.item_matrix().T)


def loss(model):
    return F.cross_entropy(5 * logits(model, INPUTS[:, :-1]).flatten(0, 1), INPUTS[:, 1:].flatten())


@pytest.mark.parametrize("switches", [{}, {"pooling": "max"}, {"n_vectors": 1, "normalise": False}], ids=str)
def test_contract(switches):
    make = maker(**switches)
    contract.check_causality(make, logits, INPUTS)
    contract.check_determinism(make, loss)
    contract.check_state_dict(make, logits, INPUTS)
    contract.check_gradients(make, loss)
    model = make()
    contract.check_hidden_matrices(model, [p for name, p in model.named_parameters() if "embedding" in name])


@pytest.mark.parametrize(("pooling", "sharpness"), [("max", 1.0), ("logsumexp", 0.5), ("logsumexp", 30.0)])
def test_scores_against_a_loop_over_vectors(pooling, sharpness, draw):
    torch.manual_seed(0)
    model = MultiHead(MultiHeadConfig(d_model=16, n_vectors=3, pooling=pooling, sharpness=sharpness), 12, 20).eval()
    retriever = EncoderRetriever(model)
    histories = draw(0)
    users, items, scores = retriever.user_vectors(histories), retriever.item_vectors(), retriever.scores(histories)
    assert users.shape == (20, 3, 16)
    assert np.linalg.norm(users, axis=2) == pytest.approx(np.ones((20, 3)), rel=1e-5)
    for row in range(20):
        for item in range(12):
            products = [float(vector @ items[item]) for vector in users[row]]
            smooth = math.log(sum(math.exp(sharpness * product) for product in products)) / sharpness
            assert scores[row, item] == pytest.approx(max(products) if pooling == "max" else smooth, abs=1e-5)


def test_vectors_of_one_user_differ():
    torch.manual_seed(0)
    vectors = maker()().eval()(INPUTS, IDS)[0, -1]  # (H, C)
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-2)


def test_what_cannot_work_is_refused():
    for wrong, words in (
        ({"pooling": "mean"}, "model.pooling=mean"),
        ({"n_vectors": 0}, "model.n_vectors=0"),
        ({"sharpness": 0.0}, "model.sharpness=0.0"),
        ({"user": "tabel"}, "model.user=tabel"),
    ):
        with pytest.raises(ConfigError, match=words):
            MultiHeadConfig(**wrong).validate()
