"""Losses of calibration against loops over buckets, cohorts and requests, and where their optimum lies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recsysml.losses.calibration import bucket_loss, cohort_loss, listwise_loss


def drawn(seed: int, n: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    z = 2 * torch.randn(n, dtype=torch.float64)
    return z, (torch.rand(n) < 0.4).double()


def loop(p: Tensor, y: Tensor, groups: list[list[int]]) -> float:
    return sum(len(rows) / len(p) * float(p[rows].mean() - y[rows].mean()) ** 2 for rows in groups if rows)


@pytest.mark.parametrize(("seed", "n"), [(0, 64), (1, 37), (2, 3), (3, 1)])
def test_buckets_are_a_loop(seed: int, n: int) -> None:
    z, y = drawn(seed, n)
    p = torch.sigmoid(z)
    wide = [[i for i in range(n) if b / 10 <= p[i] < (b + 1) / 10] for b in range(10)]
    assert bucket_loss(z, y, 10, "width") == pytest.approx(loop(p, y, wide))
    order = p.argsort().tolist()
    equal = [[row for rank, row in enumerate(order) if rank * 10 // n == b] for b in range(10)]
    assert sum(map(len, equal)) == n and max(map(len, equal)) - min(map(len, equal)) <= 1
    assert bucket_loss(z, y, 10, "mass") == pytest.approx(loop(p, y, equal))


def test_cohorts_are_a_loop_and_an_empty_one_costs_nothing() -> None:
    z, y = drawn(4, 50)
    cohorts = torch.randint(0, 5, (50,))
    rows = [[i for i in range(50) if cohorts[i] == c] for c in range(5)]
    value = cohort_loss(z.requires_grad_(), y, cohorts, 9)  # 5 to 8 are empty
    assert value.item() == pytest.approx(loop(torch.sigmoid(z.detach()), y, rows))
    value.backward()
    assert torch.isfinite(z.grad).all()


def test_listwise_is_a_loop_over_requests() -> None:
    z, y = drawn(5, 60)
    requests = torch.randint(0, 12, (60,)) * 1000
    y[requests == requests[0]] = 0  # a request without a positive
    expected = []
    for request in requests.unique():
        own = requests == request
        if y[own].sum():
            p = torch.sigmoid(z[own])
            expected.append(-(y[own] * (p / p.sum()).log()).sum())
    assert listwise_loss(z, y, requests).item() == pytest.approx((torch.stack(expected).sum() / y.sum()).item())
    assert listwise_loss(z, 0 * y, requests) == 0
    far = torch.full_like(z, -500.0).requires_grad_()
    listwise_loss(far, y, requests).backward()
    assert torch.isfinite(far.grad).all()


def test_the_truth_is_where_the_losses_pull_to() -> None:
    """Two items shown together many times: gaps of cohorts find p, and so do log and listwise loss together."""
    p = torch.tensor([0.15, 0.45], dtype=torch.float64)
    # all four outcomes of a pair, as often as they come in 400
    outcomes = torch.tensor([[a, b] for a in (0.0, 1.0) for b in (0.0, 1.0)], dtype=torch.float64)
    odds = (outcomes * p + (1 - outcomes) * (1 - p)).prod(dim=1)
    times = (400 * odds).round().long()
    y = outcomes.repeat_interleave(times, dim=0)
    n = len(y)
    requests, item = torch.arange(n).repeat_interleave(2), torch.arange(2).repeat(n)
    for make in (
        lambda z: cohort_loss(z[item], y.flatten(), item, 2),
        lambda z: (
            listwise_loss(z[item], y.flatten(), requests)
            + torch.nn.functional.binary_cross_entropy_with_logits(z[item], y.flatten())
        ),
    ):
        z = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        search = torch.optim.LBFGS([z], max_iter=100, line_search_fn="strong_wolfe")

        def closure(z: Tensor = z, search: torch.optim.LBFGS = search, make=make) -> Tensor:  # type: ignore[no-untyped-def]
            search.zero_grad()
            value = make(z)
            value.backward()
            return value

        search.step(closure)
        torch.testing.assert_close(torch.sigmoid(z.detach()), y.mean(dim=0), atol=2e-3, rtol=0)


def test_the_squared_gap_is_unbiased_where_the_absolute_one_is_not() -> None:
    """At the truth, over all labels of a batch of three at p = .2: the mean gradient is that of no gap."""
    p = 0.2
    z = torch.tensor(p, dtype=torch.float64).logit().requires_grad_()
    squared, absolute = 0.0, 0.0
    for k, ways in ((0, 1), (1, 3), (2, 3), (3, 1)):
        odds = ways * p**k * (1 - p) ** (3 - k)
        y = torch.tensor([1.0] * k + [0.0] * (3 - k), dtype=torch.float64)
        value = cohort_loss(z.expand(3), y, torch.zeros(3, dtype=torch.long), 1)
        squared += odds * torch.autograd.grad(value, z)[0].item()
        gap = (torch.sigmoid(z.expand(3)) - y).mean().abs()
        absolute += odds * torch.autograd.grad(gap, z)[0].item()
    assert abs(squared) < 1e-12
    assert abs(absolute) > 1e-3


def test_an_unknown_binning_is_named() -> None:
    with pytest.raises(ValueError, match="use mass or width"):
        bucket_loss(torch.zeros(2), torch.zeros(2), 2, "equal")
