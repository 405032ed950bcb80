"""Cross-entropy against its definition, whole and in chunks."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from recsysml.losses.softmax import chunked_cross_entropy, cross_entropy, linear_cross_entropy, token_losses


def by_loop(logits: torch.Tensor, targets: torch.Tensor) -> list[float]:
    rows = zip(logits.flatten(0, -2).tolist(), targets.flatten().tolist(), strict=True)
    return [0.0 if t == -100 else math.log(sum(map(math.exp, row))) - row[t] for row, t in rows]


def test_equals_the_definition_and_ignores() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    targets[0, 3] = targets[1, 0] = -100
    losses = by_loop(logits, targets)
    assert cross_entropy(logits, targets).item() == pytest.approx(sum(losses) / 8, rel=1e-5)
    torch.testing.assert_close(token_losses(logits, targets).flatten(), torch.tensor(losses))


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_value_and_gradient_are_torchs_own(seed: int, scale: float) -> None:
    torch.manual_seed(seed)
    logits = (scale * torch.randn(40, 97)).double().requires_grad_()
    targets = torch.randint(97, (40,))
    targets[::7] = -100
    theirs = F.cross_entropy(logits, targets)
    (expected,) = torch.autograd.grad(3 * theirs, logits)
    single = logits.detach().float().requires_grad_()
    ours = cross_entropy(single, targets)
    (3 * ours).backward()
    assert single.grad is not None
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(single.grad.double(), expected, rtol=1e-5, atol=1e-7)


def test_nothing_to_predict_costs_nothing() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.full((3,), -100))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(3, 4))


def test_half_precision_logits_are_summed_in_fp32() -> None:
    logits = torch.zeros(4096, 512, dtype=torch.bfloat16)
    loss = cross_entropy(logits, torch.zeros(4096, dtype=torch.long))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(512), rel=1e-6)


@pytest.mark.parametrize("chunk", [1, 3, 10, 64])
def test_chunks_change_neither_value_nor_gradient(chunk: int) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 5, 6, requires_grad=True), torch.randn(8, 6, requires_grad=True)
    targets = torch.randint(7, (2, 5))
    targets[1, 2] = -100
    whole = cross_entropy((hidden @ weight.T)[..., :7], targets)
    parts = chunked_cross_entropy(hidden, weight, targets, 7, chunk)
    torch.testing.assert_close(parts, whole)
    for ours, theirs in zip(
        torch.autograd.grad(parts, [hidden, weight]), torch.autograd.grad(whole, [hidden, weight]), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("held", [1, 1000, 1 << 20])  # logits: 16 rows at a time, 25, and all
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_linear_cross_entropy_and_its_gradients_are_torchs(
    seed: int, weighted: bool, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsysml.losses.softmax.CACHED_LOGITS", held)
    torch.manual_seed(seed)
    hidden, weight = (3 * torch.randn(n, 8, dtype=torch.float64) for n in (70, 40))
    targets = torch.randint(40, (70,))
    row_weights = torch.rand(70) if weighted else None
    exact = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    losses = F.cross_entropy(exact[0] @ exact[1].T, targets, reduction="none")
    shares = torch.ones(70) if row_weights is None else row_weights
    expected = (losses * shares).sum() / shares.sum()
    ours = [hidden.float().requires_grad_(), weight.float().requires_grad_()]
    loss = linear_cross_entropy(*ours, targets, row_weights)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    for found, wanted in zip(
        torch.autograd.grad(2 * loss, ours), torch.autograd.grad(2 * expected, exact), strict=True
    ):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        assert linear_cross_entropy(*ours, targets, row_weights).item() == loss.item()


def test_linear_cross_entropy_takes_states_in_half_precision() -> None:
    torch.manual_seed(0)
    weight, targets = torch.randn(40, 8, requires_grad=True), torch.randint(40, (70,))
    hidden = torch.randn(70, 8)
    exact = F.cross_entropy(hidden @ weight.T, targets)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden.bfloat16().requires_grad_(), weight, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=2e-2)
    (found,) = torch.autograd.grad(loss, weight)
    (wanted,) = torch.autograd.grad(exact, weight)
    assert found.dtype == torch.float32
    assert (found - wanted).norm() < 0.03 * wanted.norm()
