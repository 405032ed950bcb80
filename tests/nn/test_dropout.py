"""Dropout by bits of few draws: what it keeps, how often, how it is scaled, and that nothing hangs together."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recsysml.nn.dropout import dropout


@pytest.mark.parametrize("p", [0.02, 0.3, 0.5, 0.97])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_so_many_are_dropped_and_the_rest_is_scaled(p, dtype):
    torch.manual_seed(int(p * 100))
    x = torch.rand(1001, 333).to(dtype) + 1
    found = dropout(x, p, True)
    assert found.dtype == dtype
    dropped = found == 0
    n = x.numel()
    assert abs(dropped.double().mean() - p) < 4 * (p * (1 - p) / n) ** 0.5
    torch.testing.assert_close(
        found[~dropped], (x / (1 - p))[~dropped], atol=0, rtol=0.02 if dtype != x.float().dtype else 1e-6
    )


def test_neighbours_do_not_hang_together():
    """Four share a draw: at every distance up to eight kept and dropped are as unrelated as chance leaves them."""
    torch.manual_seed(5)
    kept = (dropout(torch.ones(400_000), 0.4, True) > 0).double().numpy()
    for place in range(4):
        assert abs(kept[place::4].mean() - 0.6) < 4 * (0.24 / 100_000) ** 0.5
    for distance in range(1, 9):
        assert abs(np.corrcoef(kept[:-distance], kept[distance:])[0, 1]) < 4 / len(kept) ** 0.5


def test_the_gradient_goes_where_the_value_went():
    torch.manual_seed(1)
    x = torch.randn(50, 7, requires_grad=True)
    found = dropout(x, 0.25, True)
    found.sum().backward()
    torch.testing.assert_close(x.grad, torch.where(found == 0, 0.0, 1 / 0.75))


def test_a_seed_gives_the_same_and_another_not():
    x = torch.ones(1000)
    torch.manual_seed(3)
    first, next_one = dropout(x, 0.5, True), dropout(x, 0.5, True)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5, True), first)
    assert not torch.equal(first, next_one)


def test_the_ends_and_serving_are_torchs():
    x = torch.randn(9, 5)
    assert dropout(x, 0.0, True) is x
    assert dropout(x, 0.9, False) is x
    assert torch.equal(dropout(x, 1.0, True), F.dropout(x, 1.0))
    assert dropout(x[:0], 0.5, True).shape == (0, 5)
