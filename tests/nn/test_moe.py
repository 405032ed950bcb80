"""The mixture of experts against a loop over tokens."""

from __future__ import annotations

import math

import pytest
import torch

from recsysml.nn.grouped import grouped_linear
from recsysml.nn.moe import MoE, balance_loss, z_loss


def make(kind: str = "swiglu", experts: int = 4, per_token: int = 2) -> MoE:
    torch.manual_seed(0)
    return MoE(16, kind, experts, per_token, balance_weight=0.01, z_weight=0.001)


def by_tokens(moe: MoE, x: torch.Tensor) -> torch.Tensor:
    """Every token by itself through the experts it chose, as plain modules."""
    out = torch.zeros_like(x)
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            probabilities = moe.router(x[b, t]).softmax(0)
            gates, chosen = probabilities.topk(moe.per_token)
            if moe.per_token > 1:
                gates = gates / gates.sum()
            out[b, t] = sum(gate * moe.experts[int(e)](x[b, t]) for gate, e in zip(gates, chosen, strict=True))
    return out


@pytest.mark.parametrize("kind", ["gelu", "swiglu"])
@pytest.mark.parametrize("per_token", [1, 2, 4])
def test_equals_a_loop_over_tokens(kind: str, per_token: int) -> None:
    moe = make(kind, 4, per_token)
    x = torch.randn(3, 7, 16, requires_grad=True)
    y, _ = moe(x)
    expected = by_tokens(moe, x)
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=1e-5)
    leaves = [x, *moe.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(y.square().sum(), leaves),
        torch.autograd.grad(expected.square().sum(), leaves, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if theirs is None else theirs, atol=1e-6, rtol=1e-4)


def test_no_token_is_lost_when_all_want_the_same_expert() -> None:
    moe = make(experts=8, per_token=1)
    with torch.no_grad():
        moe.router.weight.zero_()
        moe.router.weight[3] = 5.0
    x = torch.rand(2, 50, 16) + 0.1  # positive, so that expert 3 wins for every token
    y, auxiliary = moe(x)
    torch.testing.assert_close(y, by_tokens(moe, x), atol=1e-6, rtol=1e-5)
    assert (y.abs().sum(-1) > 0).all()
    auxiliary.backward()
    assert moe.router.weight.grad is not None
    assert moe.router.weight.grad.abs().sum() > 0


def test_the_router_chooses_in_float32_under_autocast() -> None:
    moe = make(experts=8, per_token=2)
    x = torch.randn(2, 50, 16)
    y, auxiliary = moe(x)
    with torch.autocast("cpu", torch.bfloat16):
        short, same = moe(x)
    assert torch.equal(same, auxiliary)
    assert short.dtype == torch.bfloat16  # the experts themselves are quick
    torch.testing.assert_close(short.float(), y, atol=2e-2, rtol=2e-2)


def test_all_experts_alike_are_one_expert() -> None:
    moe = make(per_token=3)
    for expert in moe.experts:
        expert.load_state_dict(moe.experts[0].state_dict())
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(moe(x)[0], moe.experts[0](x), atol=1e-6, rtol=1e-5)


def test_losses_in_closed_form() -> None:
    even = torch.full((10, 4), 0.25)
    assert balance_loss(torch.full((4,), 0.25), even).item() == pytest.approx(1)
    one = torch.eye(4)[0]
    assert balance_loss(one, one.expand(10, 4)).item() == pytest.approx(4)
    assert z_loss(torch.zeros(10, 4)).item() == pytest.approx(math.log(4) ** 2)


def test_the_auxiliary_loss_is_the_weighted_sum() -> None:
    moe = make(per_token=2)
    x = torch.randn(3, 7, 16)
    scores = moe.router(x).view(-1, 4)
    load = torch.zeros(4)
    for e in scores.topk(2).indices.flatten():
        load[e] += 1 / (2 * 21)
    expected = 0.01 * 4 * (load * scores.softmax(-1).mean(0)).sum() + 0.001 * scores.logsumexp(-1).square().mean()
    torch.testing.assert_close(moe(x)[1], expected)


def test_the_balance_loss_balances() -> None:
    moe = make(experts=4, per_token=1)
    with torch.no_grad():
        moe.router.weight[0] += 0.5
    x = torch.randn(1, 256, 16) + 0.5
    optimizer = torch.optim.Adam([moe.router.weight], 0.05)

    def largest_share() -> float:
        return (moe.router(x).argmax(-1).flatten().bincount(minlength=4) / 256).max().item()

    before = largest_share()
    for _ in range(60):
        optimizer.zero_grad()
        moe(x)[1].backward()
        optimizer.step()
    assert before > 0.8
    assert largest_share() < 0.5


def test_every_expert_has_matrices_of_its_own() -> None:
    moe = make()
    weights = [p for name, p in moe.named_parameters() if "experts" in name]
    assert len(weights) == 4 * 3
    assert all(p.ndim == 2 for p in weights)


def test_grouped_linear_has_the_right_gradients() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    weights = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    counts = torch.tensor([2, 0, 4])
    assert torch.autograd.gradcheck(lambda x, *w: grouped_linear(x, counts, list(w)), (x, *weights))
    torch.library.opcheck(torch.ops.recsysml.grouped_linear.default, (x, counts, weights))


def test_the_compiled_graph_is_whole() -> None:
    moe = make()
    x = torch.randn(2, 8, 16)
    expected, auxiliary = moe(x)
    y, compiled_auxiliary = torch.compile(moe, fullgraph=True, dynamic=False, backend="aot_eager")(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(compiled_auxiliary, auxiliary)


def test_too_many_experts_a_token_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 4"):
        make(experts=4, per_token=5)
