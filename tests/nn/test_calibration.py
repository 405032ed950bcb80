"""Layers of calibration: the identity before a fit, monotone after, and their formulas."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from recsysml.nn.calibration import SHAPES, Calibration, CohortBias, IsotonicLayer, IsotonicTable


@pytest.mark.parametrize("kind", [kind for kind in SHAPES if kind != "isotonic"])
def test_a_layer_that_was_not_fitted_changes_nothing(kind: str) -> None:
    torch.manual_seed(0)
    z = 6 * torch.randn(200, 3)
    cohorts = torch.randint(0, 4, (200, 2))
    layer = Calibration(kind, 3, [4, 4])
    torch.testing.assert_close(layer(z, cohorts), z, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["temperature", "platt", "beta", "isotonic_layer"])
@pytest.mark.parametrize("seed", [1, 2])
def test_any_parameters_give_a_rising_map(kind: str, seed: int) -> None:
    torch.manual_seed(seed)
    layer = Calibration(kind, 2)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=2.0)
    z = torch.linspace(-12, 12, 500)[:, None].expand(-1, 2)
    assert (layer(z).diff(dim=0) >= 0).all()
    grown = layer(z.clone().requires_grad_())
    grown.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in layer.parameters())


def test_the_isotonic_layer_is_the_sum_of_its_pieces() -> None:
    torch.manual_seed(3)
    layer = IsotonicLayer(2, n_pieces=5, low=-2.0, high=3.0)
    torch.nn.init.normal_(layer.slopes)
    torch.nn.init.normal_(layer.bias)
    z = 4 * torch.rand(50, 2) - 1.9  # within the pieces, where the sum of clipped parts is the definition
    expected = layer.bias + layer.low + sum(F.softplus(layer.slopes[k]) * (z + 2 - k).clamp(0, 1) for k in range(5))
    torch.testing.assert_close(layer(z), expected)
    far = torch.tensor([[10.0, -10.0]])
    slope = (layer(far + 1) - layer(far))[0]
    expected_slope = torch.stack([F.softplus(layer.slopes[-1, 0]), F.softplus(layer.slopes[0, 1])])
    torch.testing.assert_close(slope, expected_slope, atol=1e-4, rtol=1e-4)


def test_the_table_lies_on_its_knots_and_straight_between() -> None:
    table = IsotonicTable(2, 3)
    table.at.copy_(torch.tensor([[-1.0, 0.0, 2.0], [0.0, 1.0, 1.0]]))  # the second task has two knots
    table.probability.copy_(torch.tensor([[0.1, 0.3, 0.9], [0.2, 0.6, 0.6]]))
    z = torch.tensor([[-5.0, -5.0], [-1.0, 0.0], [1.0, 0.5], [2.0, 1.0], [9.0, 9.0]])
    expected = torch.tensor([[0.1, 0.2], [0.1, 0.2], [0.6, 0.4], [0.9, 0.6], [0.9, 0.6]])
    torch.testing.assert_close(torch.sigmoid(table(z)), expected, atol=1e-3, rtol=0)
    table.probability[:] = 0.3
    rising = torch.linspace(-9, 12, 2000)[:, None].expand(-1, 2)
    assert (table(rising).diff(dim=0) > 0).all() and (torch.sigmoid(table(rising)) - 0.3).abs().max() < 1e-3


def test_cohort_shifts_are_looked_up_and_added() -> None:
    bias = CohortBias([2, 3], 2)
    torch.nn.init.normal_(bias.shifts)
    cohorts = torch.tensor([[1, 2], [0, 0]])
    torch.testing.assert_close(
        bias(cohorts), torch.stack([bias.shifts[1] + bias.shifts[4], bias.shifts[0] + bias.shifts[2]])
    )


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="does not exist: use"):
        Calibration("plat", 1)
    with pytest.raises(ValueError, match="give their ids"):
        Calibration("platt", 1, [3])(torch.zeros(2, 1))
