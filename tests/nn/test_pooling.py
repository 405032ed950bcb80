"""Pooling of the past against a loop over positions."""

import pytest
import torch

from recsysml.nn.pooling import CausalAttentionPooling, causal_mean


def drawn(seed):
    torch.manual_seed(seed)
    x, real = torch.randn(3, 6, 4), torch.rand(3, 6) < 0.6
    real[0, :2] = False  # nothing real at first
    return x, real


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_against_a_loop(seed):
    x, real = drawn(seed)
    found = causal_mean(x, real)
    for b in range(3):
        for t in range(6):
            kept = x[b, : t + 1][real[b, : t + 1]]
            torch.testing.assert_close(found[b, t], kept.mean(dim=0) if len(kept) else torch.zeros(4))


@pytest.mark.parametrize("seed", range(3))
def test_attention_pooling_against_a_loop(seed):
    x, real = drawn(seed)
    pooling = CausalAttentionPooling(4)
    found = pooling(x, real)
    for b in range(3):
        for t in range(6):
            kept = x[b, : t + 1][real[b, : t + 1]]
            weights = torch.softmax(pooling.score(kept)[:, 0], dim=0) if len(kept) else torch.zeros(0)
            torch.testing.assert_close(found[b, t], weights @ pooling.value(kept))
    loss = found.square().sum()
    loss.backward()
    assert all(
        p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in pooling.parameters()
    )


@pytest.mark.parametrize("pool", [causal_mean, CausalAttentionPooling(4)], ids=["mean", "attention"])
def test_nothing_later_and_no_padding_matters(pool):
    x, real = drawn(0)
    before = pool(x, real)
    later, padding = x.clone(), x.clone()
    later[:, 4:] += 10
    padding[~real] -= 10
    torch.testing.assert_close(pool(later, real)[:, :4], before[:, :4])
    torch.testing.assert_close(pool(padding, real), before)
