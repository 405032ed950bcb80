"""Each attention row by row against its formula; padding, order and an empty past."""

import pytest
import torch
import torch.nn.functional as F

from recsysml.nn.target_attention import make_target_attention

KINDS = ("din", "multi_head", "hstu")


def drawn(seed=0, batch=5, length=7, width=8):
    generator = torch.Generator().manual_seed(seed)
    target, events = (
        torch.randn(batch, width, generator=generator),
        torch.randn(batch, length, width, generator=generator),
    )
    real = torch.rand(batch, length, generator=generator) < 0.6
    real[0], real[1] = False, True
    return target, events, real


def made(kind, seed=3):
    torch.manual_seed(seed)
    return make_target_attention(kind, 8, 2).eval()


@pytest.mark.parametrize("seed", [0, 1])
def test_din_is_its_network_over_pairs(seed):
    target, events, real = drawn(seed)
    attention = made("din", seed)
    found = attention(target, events, real)
    layers = [attention.event.weight, attention.target.weight, attention.product.weight]
    whole = torch.cat(layers, dim=1)  # one layer over (event, target, event * target)
    for b in range(len(target)):
        total = torch.zeros(8)
        for h in range(events.shape[1]):
            if real[b, h]:
                pair = torch.cat([events[b, h], target[b], events[b, h] * target[b]])
                weight = attention.out(F.silu(whole @ pair + attention.event.bias))
                total = total + weight * events[b, h]
        torch.testing.assert_close(found[b], total, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_multi_head_is_torchs_attention_with_one_query(seed):
    target, events, real = drawn(seed)
    attention = made("multi_head", seed)
    found = attention(target, events, real)
    keys, values = attention.key_value(events).split(8, dim=-1)
    for b in range(1, len(target)):
        if not real[b].any():
            continue
        heads = []
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            query = attention.query(target[b])[part][None]
            k, v = keys[b, real[b]][:, part], values[b, real[b]][:, part]
            heads.append(F.scaled_dot_product_attention(query[None], k[None], v[None])[0, 0])
        torch.testing.assert_close(found[b], attention.out(torch.cat(heads)), atol=1e-5, rtol=1e-4)


def test_hstu_is_pointwise_and_gated():
    target, events, real = drawn(2)
    attention = made("hstu", 2)
    found = attention(target, events, real)
    for b in range(1, len(target)):
        query, gate = F.silu(attention.query_gate(target[b])).split(8)
        own = events[b, real[b]]
        keys, values = F.silu(attention.key_value(own)).split(8, dim=-1)
        heads = []
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            weights = F.silu(keys[:, part] @ query[part])
            heads.append((weights[:, None] * values[:, part]).sum(0) / len(own))
        torch.testing.assert_close(
            found[b], attention.out(attention.norm(torch.cat(heads)) * gate), atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_order_change_nothing_and_an_empty_past_is_zero(kind):
    target, events, real = drawn(4)
    attention = made(kind)
    found = attention(target, events, real)
    assert torch.isfinite(found).all()
    assert not found[0].any()
    noisy = torch.where(real[..., None], events, torch.full_like(events, 1e3))
    torch.testing.assert_close(attention(target, noisy, real), found)
    longer = F.pad(events, (0, 0, 0, 4), value=7.0)
    torch.testing.assert_close(attention(target, longer, F.pad(real, (0, 4))), found)
    order = torch.randperm(events.shape[1])
    torch.testing.assert_close(attention(target, events[:, order], real[:, order]), found, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_with_an_empty_past(kind):
    target, events, real = drawn(5)
    events.requires_grad_()
    attention = made(kind)
    attention(target, events, real).square().sum().backward()
    assert torch.isfinite(events.grad).all()
    assert not events.grad[~real].any()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in attention.parameters())


def test_an_unknown_kind_says_what_there_is():
    with pytest.raises(ValueError, match="use din, multi_head or hstu"):
        make_target_attention("softmax", 8, 2)
