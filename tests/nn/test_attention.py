"""Attention against a loop over positions, and its variants against each other."""

from __future__ import annotations

import math

import pytest
import torch

from recsysml.nn.attention import CausalSelfAttention, KVCache, attend
from recsysml.nn.rope import rope_tables


def by_loops(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The definition, one query at a time; key heads are shared by consecutive query heads."""
    out = torch.zeros_like(q)
    group, offset = q.shape[1] // k.shape[1], k.shape[2] - q.shape[2]
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for t in range(q.shape[2]):
                seen = offset + t + 1
                scores = k[b, h // group, :seen] @ q[b, h, t] / math.sqrt(q.shape[3])
                out[b, h, t] = scores.softmax(0) @ v[b, h // group, :seen]
    return out


@pytest.mark.parametrize("backend", ["auto", "sdpa", "matmul"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize(("length", "keys"), [(7, 7), (1, 6), (3, 9), (1, 1)])
def test_equals_the_definition(backend: str, heads: int, kv_heads: int, length: int, keys: int) -> None:
    torch.manual_seed(0)
    q = torch.randn(2, heads, length, 8)
    k, v = torch.randn(2, 2, kv_heads, keys, 8).unbind(0)
    torch.testing.assert_close(attend(q, k, v, backend), by_loops(q, k, v), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [255, 256, 300, 513, 700])
def test_blocks_equal_flash_forward_and_backward(length: int) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, length, 8).unbind(0)
    results = []
    for backend in ("matmul", "sdpa"):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = attend(*leaves, backend)
        results.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_an_unknown_backend_is_named() -> None:
    x = torch.randn(1, 1, 2, 4)
    with pytest.raises(ValueError, match="auto, sdpa or matmul"):
        attend(x, x, x, "fast")


@pytest.mark.parametrize("backend", ["sdpa", "matmul"])
def test_dropout_keeps_the_mean(backend: str) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 64, 8).unbind(0)
    v = torch.ones(1, 1, 64, 8)
    mean = torch.stack([attend(q, k, v, backend, dropout=0.5) for _ in range(200)]).mean()
    assert abs(mean.item() - 1) < 0.03


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_the_cache_changes_nothing(kv_heads: int, qk_norm: bool) -> None:
    torch.manual_seed(0)
    layer = CausalSelfAttention(32, 4, kv_heads, qk_norm=qk_norm)
    cos, sin = rope_tables(10, 8)
    x = torch.randn(2, 10, 32)
    whole = layer(x, (cos, sin))
    cache, parts, start = KVCache(1, 2, kv_heads, 10, 8), [], 0
    for step in (4, 1, 3, 2):
        end = start + step
        parts.append(layer(x[:, start:end], (cos[start:end], sin[start:end]), cache))
        cache.length = start = end
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="holds 10 positions"):
        layer(x[:, :1], (cos[:1], sin[:1]), cache)


def test_right_padding_never_reaches_real_positions() -> None:
    torch.manual_seed(0)
    layer = CausalSelfAttention(16, 2)
    x = torch.randn(1, 6, 16)
    padded = torch.cat([x, torch.full((1, 3, 16), 1e3)], dim=1)
    torch.testing.assert_close(layer(padded)[:, :6], layer(x), atol=1e-6, rtol=1e-6)


def test_multi_head_attention_of_torch_agrees() -> None:
    torch.manual_seed(0)
    ours, theirs = CausalSelfAttention(32, 4), torch.nn.MultiheadAttention(32, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x = torch.randn(3, 9, 32)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(9)
    expected, _ = theirs(x, x, x, attn_mask=mask, need_weights=False)
    torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)


def test_grouped_heads_with_copied_keys_equal_full_heads() -> None:
    torch.manual_seed(0)
    grouped, full = CausalSelfAttention(32, 4, 2), CausalSelfAttention(32, 4)
    with torch.no_grad():
        full.query.load_state_dict(grouped.query.state_dict())
        full.out.load_state_dict(grouped.out.state_dict())
        for name in ("key", "value"):
            source, target = getattr(grouped, name), getattr(full, name)
            target.weight.copy_(source.weight.view(2, 8, 32).repeat_interleave(2, 0).reshape(32, 32))
            target.bias.copy_(source.bias.view(2, 8).repeat_interleave(2, 0).reshape(32))
    x = torch.randn(2, 5, 32)
    torch.testing.assert_close(grouped(x), full(x), atol=1e-5, rtol=1e-5)
