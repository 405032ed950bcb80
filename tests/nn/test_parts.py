"""Norms, rotary positions and MLPs against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from recsysml.nn.mlp import SwiGLU, hidden_width, make_mlp
from recsysml.nn.norm import make_norm
from recsysml.nn.rope import apply_rope, rope_tables


def test_rmsnorm_is_the_formula() -> None:
    torch.manual_seed(0)
    norm = make_norm("rmsnorm", 16)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 5, 16)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)
    assert [name for name, _ in norm.named_parameters()] == ["weight"]


def test_layernorm_with_and_without_bias() -> None:
    x = torch.randn(3, 16)
    expected = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    for bias in (True, False):
        norm = make_norm("layernorm", 16, bias)
        torch.testing.assert_close(norm(x), expected, atol=1e-6, rtol=1e-5)
        assert len(list(norm.parameters())) == 1 + bias


@pytest.mark.parametrize("make", [lambda: make_norm("batch", 4), lambda: make_mlp("relu", 4, True)])
def test_unknown_kinds_are_named(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="does not exist: use"):
        make()


def test_rope_scores_depend_on_distance_alone() -> None:
    torch.manual_seed(0)
    cos, sin = rope_tables(64, 16)
    q, k = torch.randn(2, 16)

    def score(m: int, n: int) -> float:
        turned = [
            apply_rope(x.view(1, 1, 1, 16), cos[i : i + 1], sin[i : i + 1]).flatten() for x, i in ((q, m), (k, n))
        ]
        return float(turned[0] @ turned[1])

    for distance in (0, 1, 7, 30):
        scores = [score(start + distance, start) for start in (0, 3, 20, 33)]
        assert max(scores) - min(scores) < 1e-4
    assert abs(score(5, 0) - score(9, 0)) > 1e-2


def test_rope_turns_each_pair_by_its_angle() -> None:
    torch.manual_seed(0)
    width, position, theta = 8, 13, 10000.0
    cos, sin = rope_tables(20, width, theta)
    x = torch.randn(1, 1, 1, width)
    turned = apply_rope(x, cos[position : position + 1], sin[position : position + 1]).flatten()
    for i in range(width // 2):
        pair = complex(x.flatten()[i], x.flatten()[i + width // 2])
        angle = position * theta ** (-2 * i / width)
        expected = pair * complex(math.cos(angle), math.sin(angle))
        assert abs(complex(turned[i], turned[i + width // 2]) - expected) < 1e-6


def test_rope_tables_do_not_depend_on_the_length() -> None:
    for short, long in zip(rope_tables(7, 16), rope_tables(100, 16), strict=True):
        assert torch.equal(short, long[:7])
    with pytest.raises(ValueError, match="even"):
        rope_tables(4, 7)


def test_swiglu_is_the_formula() -> None:
    torch.manual_seed(0)
    mlp = SwiGLU(8, 24)
    x = torch.randn(5, 8)
    gate = x @ mlp.gate.weight.T
    expected = (gate * torch.sigmoid(gate) * (x @ mlp.up.weight.T)) @ mlp.out.weight.T
    torch.testing.assert_close(mlp(x), expected)


def test_gelu_is_the_tanh_form() -> None:
    mlp = make_mlp("gelu", 8, bias=True)
    x = torch.randn(5, 8)
    u = mlp.up(x)
    u = 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
    torch.testing.assert_close(mlp(x), mlp.out(u), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("width", [256, 384, 768, 1024, 1280, 1600, 2048])
def test_swiglu_is_as_large_as_gelu(width: int) -> None:
    assert abs(3 * hidden_width("swiglu", width) / (2 * hidden_width("gelu", width)) - 1) < 0.01
