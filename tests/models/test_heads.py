"""Heads: their scores are the logarithms of what they are trained on; they come back from a checkpoint's tensors."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recsysml.losses.hierarchical_softmax import huffman_tree
from recsysml.models import heads
from recsysml.models.sasrec import SASRec
from recsysml.models.two_tower import TwoTower
from recsysml.schemas.retrievers import SASRecConfig, TwoTowerConfig


def make(kind, n_items, width, temperature=0.5):
    if kind == "hierarchical":
        return heads.HierarchicalHead(width, huffman_tree(np.arange(n_items)), temperature)
    return heads.ClusterHead(width, torch.arange(n_items) % 3, temperature)


@pytest.mark.parametrize("kind", heads.KINDS)
def test_what_is_served_is_what_was_trained(kind, draw):
    torch.manual_seed(0)
    encoder = SASRec(SASRecConfig(d_model=16, dropout=0.0), 12).eval()
    heads.attach(encoder, make(kind, 12, 16))
    torch.nn.init.normal_(next(encoder.head.parameters()))
    histories = draw(0)
    retriever = heads.retriever_of(encoder)
    scores = torch.from_numpy(retriever.scores(histories))
    torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(20))
    queries = torch.from_numpy(heads.EncoderRetriever(encoder).user_vectors(histories))
    targets = torch.arange(20) % 12
    loss = encoder.head.loss(queries / 0.5, encoder.item_matrix(), targets, None)
    torch.testing.assert_close(loss, F.nll_loss(scores, targets))


@pytest.mark.parametrize("kind", heads.KINDS)
def test_a_head_comes_back_from_the_tensors_of_a_checkpoint(kind, draw):
    torch.manual_seed(0)
    first, second = (SASRec(SASRecConfig(d_model=16), 12).eval() for _ in range(2))
    heads.attach(first, make(kind, 12, 16, temperature=0.3))
    tensors = first.state_dict()
    heads.attach(second, heads.restored(kind, tensors))
    second.load_state_dict(tensors, strict=True)
    pair = [heads.retriever_of(encoder).scores(draw(1)) for encoder in (first, second)]
    assert np.array_equal(*pair)


def test_the_item_tower_rests_under_a_head_that_reads_no_items():
    for kind, rests in (("hierarchical", True), ("cluster", False)):
        encoder = TwoTower(TwoTowerConfig(d_model=8, history="mean"), 12, 3)
        heads.attach(encoder, make(kind, 12, 8))
        assert all(p.requires_grad != rests for p in encoder.item_tower.parameters())
        states = encoder(torch.tensor([[12, 3, 5]]), torch.tensor([1]))[0]
        items = None if rests else encoder.item_matrix()
        encoder.head.loss(states, items, torch.tensor([3, 5, 1]), None).backward()
        assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad and p.ndim > 1)
