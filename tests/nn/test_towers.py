"""Towers computed together against each computed alone."""

import pytest
import torch
from torch import nn

from recsysml.nn.towers import Towers


def alone(towers, task, norm):
    """One task's tower, of modules; `norm`: the batch norms take the batch as it is."""
    layers = []
    for place, weight in enumerate(towers.weights):
        own = weight.view(towers.n, -1, weight.shape[1])[task]
        linear = nn.Linear(own.shape[1], len(own), bias=not norm)
        linear.weight = nn.Parameter(own.detach())
        layers.append(linear)
        if norm:
            layers.append(nn.BatchNorm1d(len(own)))
        else:
            linear.bias = nn.Parameter(towers.biases[place].view(towers.n, -1)[task].detach())
        layers.append(nn.ReLU())
    last = nn.Linear(towers.last.shape[1], 1)
    last.weight, last.bias = nn.Parameter(towers.last[task : task + 1]), nn.Parameter(towers.last_bias[task].detach())
    return nn.Sequential(*layers, last)


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize(("seed", "widths"), [(0, [7]), (1, [7, 4]), (2, [])])
def test_together_they_are_what_each_is_alone(seed, widths, norm):
    torch.manual_seed(seed)
    towers = Towers(3, 5, widths, norm=norm)
    x = torch.randn(20, 3, 5, requires_grad=True)
    found = towers(x)
    (found**2).sum().backward()
    assert found.shape == (20, 3)
    for task in range(3):
        one, own = alone(towers, task, norm == "batch"), x[:, task].detach().requires_grad_()
        expected = one(own)[:, 0]
        (expected**2).sum().backward()
        torch.testing.assert_close(found[:, task], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(x.grad[:, task], own.grad, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(towers.last.grad[task], one[-1].weight.grad[0], atol=1e-4, rtol=1e-4)
        if widths:
            weight = towers.weights[0].grad.view(3, -1, 5)[task]
            torch.testing.assert_close(weight, one[0].weight.grad, atol=1e-4, rtol=1e-4)


def test_they_begin_as_linear_layers_do_one_tower_after_the_other():
    torch.manual_seed(3)
    towers = Towers(2, 5, [7])
    torch.manual_seed(3)
    drawn = [[nn.Linear(5, 7), nn.Linear(7, 1)] for _ in range(2)]
    assert torch.equal(towers.weights[0], torch.cat([tower[0].weight for tower in drawn]))
    assert torch.equal(towers.biases[0], torch.cat([tower[0].bias for tower in drawn]))
    assert torch.equal(towers.last, torch.cat([tower[1].weight for tower in drawn]))
    assert torch.equal(towers.last_bias, torch.cat([tower[1].bias for tower in drawn]))


def test_dropout_is_for_training():
    torch.manual_seed(0)
    towers = Towers(2, 5, [400], dropout=0.5)
    x = torch.randn(3, 2, 5)
    assert not torch.equal(towers(x), towers(x))
    towers.eval()
    assert torch.equal(towers(x), towers(x))
