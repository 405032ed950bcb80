"""SASRec keeps the contract of sequence models under every switch."""

import pytest
import torch
import torch.nn.functional as F

from recsysml.errors import ConfigError
from recsysml.models.gpt import GPT
from recsysml.models.sasrec import SASRec
from recsysml.schemas.models import GPTConfig
from recsysml.schemas.retrievers import SASRecConfig
from tests.models import contract

SWITCHES = [{}, {"position": "rope"}, {"norm": "rmsnorm", "mlp": "swiglu", "bias": False}, {"normalise": True}]
INPUTS = torch.tensor([[11, 3, 1, 4, 1, 5], [11, 9, 2, 6, 5, 3]])


def maker(**switches):
    return lambda: SASRec(SASRecConfig(**{"d_model": 16, "context_length": 8, "dropout": 0.1} | switches), 11)


def logits(model, inputs):
    return model(inputs) @ model.item_matrix().T


def loss(model):
    return F.cross_entropy(logits(model, INPUTS[:, :-1]).flatten(0, 1), INPUTS[:, 1:].flatten())


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_contract(switches):
    make = maker(**switches)
    contract.check_causality(make, logits, INPUTS)
    contract.check_determinism(make, loss)
    contract.check_state_dict(make, logits, INPUTS)
    model = make()
    contract.check_hidden_matrices(model, [model.item_embedding.weight])
    if switches.get("position") == "rope":  # learned positions beyond the batch are not reached
        contract.check_gradients(make, loss)


def test_it_is_gpt_with_items_for_tokens():
    """GPT's weights in SASRec give GPT's logits: they are made of the same blocks."""
    size = {"n_layers": 2, "n_heads": 2, "d_model": 16, "context_length": 8, "dropout": 0.0}
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(size="nano", pad_vocab_to=1, **size), 12).eval()
    model = SASRec(SASRecConfig(**size), 11).eval()
    names = {"token_embedding.weight": "item_embedding.weight"}
    model.load_state_dict({names.get(name, name): tensor for name, tensor in gpt.state_dict().items()}, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(logits(model, INPUTS), gpt.logits(INPUTS)[..., :11])


def test_normalised_vectors_have_length_one():
    model = maker(normalise=True)().eval()
    torch.testing.assert_close(model(INPUTS).norm(dim=-1), torch.ones(2, 6))
    torch.testing.assert_close(model.item_matrix().norm(dim=-1), torch.ones(11))


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="multiple"):
        SASRec(SASRecConfig(d_model=15), 5)
    with pytest.raises(ConfigError, match="even head width"):
        SASRec(SASRecConfig(d_model=6, n_heads=2, position="rope"), 5)
    with pytest.raises(ValueError, match="the context is 8"):
        maker()()(torch.zeros(1, 9, dtype=torch.long))
