"""Rows encoded by groups of alike lengths: the same states and gradients as all at once, for less padding."""

import numpy as np
import pytest
import torch

from recsysml.models.sasrec import SASRec
from recsysml.models.trimming import FEWEST, by_length, groups
from recsysml.schemas.retrievers import SASRecConfig


@pytest.mark.parametrize("seed", range(3))
def test_states_and_gradients_are_those_of_all_rows_at_once(seed):
    torch.manual_seed(seed)
    model = SASRec(SASRecConfig(d_model=16, context_length=40, dropout=0.0), 30)
    lengths = torch.cat([torch.randint(1, 6, (40,)), torch.randint(1, 41, (40,))])[torch.randperm(80)]
    inputs = torch.randint(30, (80, 40))
    real = torch.arange(40) < lengths[:, None]  # (B, T)
    inputs[~real] = 30
    pull = torch.randn(80, 40, 16)

    def states_and_gradient(states):
        return states[real], torch.autograd.grad((states * pull)[real].sum(), model.item_embedding.weight)[0]

    whole = states_and_gradient(model(inputs))
    passes = []

    def encode(part, users):
        passes.append(part.shape)
        return model(part, users)

    trimmed = states_and_gradient(by_length(encode, inputs, torch.zeros(80, dtype=torch.long), lengths))
    torch.testing.assert_close(trimmed, whole, atol=1e-5, rtol=1e-4)
    assert len(passes) > 1
    assert sum(rows * places for rows, places in passes) < 0.75 * inputs.numel()


def test_each_row_goes_with_its_own_user():
    users = torch.arange(50)
    lengths = 1 + (users * 7) % 20

    def encode(inputs, users):
        return users[:, None, None] * torch.ones(*inputs.shape, 1)

    states = by_length(encode, torch.zeros(50, 20, dtype=torch.long), users, lengths)
    assert torch.equal(states[:, 0, 0], users.float())
    assert ((states[..., 0] != 0).sum(dim=1)[1:] >= lengths[1:]).all()


@pytest.mark.parametrize("seed", range(5))
def test_groups_cover_all_and_are_half_full_where_they_are_large(seed):
    random = np.random.default_rng(seed)
    lengths = sorted(random.geometric(0.1, 300).tolist())
    cut = groups(lengths)
    assert [place for group in cut for place in range(*group)] == list(range(300))
    for start, stop in cut:
        assert lengths[stop - 1] <= 2 * lengths[start] or lengths[min(start + FEWEST, 300) - 1] == lengths[stop - 1]
    assert groups([3] * 40) == [(0, 40)]
    assert groups([]) == []


def test_places_of_several_vectors_keep_them_apart():
    torch.manual_seed(0)
    table = torch.randn(9, 3, 4)
    inputs, lengths = torch.randint(9, (60, 20)), torch.randint(1, 21, (60,))
    states = by_length(lambda inputs, users: table[inputs], inputs, torch.zeros(60, dtype=torch.long), lengths)
    assert states.shape == (60, 20, 3, 4)
    real = torch.arange(20) < lengths[:, None]
    assert torch.equal(states[real], table[inputs[real]])
