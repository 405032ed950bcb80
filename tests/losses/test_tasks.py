"""The losses of tasks against loops over rows."""

import math

import pytest
import torch

from recsysml.losses.tasks import task_losses


@pytest.mark.parametrize("seed", [0, 1])
def test_each_task_is_a_mean_over_rows_of_what_counts(seed):
    torch.manual_seed(seed)
    logits, labels = torch.randn(30, 3), (torch.rand(30, 3) < 0.4).float()
    labels[:, 2] = torch.randn(30)
    found = task_losses(logits, labels, ["binary", "binary", "real"], {1: 0})
    expected = [[], [], []]
    for z, y in zip(logits.tolist(), labels.tolist(), strict=True):
        expected[0].append(math.log1p(math.exp(z[0])) - y[0] * z[0])
        if y[0] == 1:
            expected[1].append(math.log1p(math.exp(z[1])) - y[1] * z[1])
        expected[2].append(0.5 * (z[2] - y[2]) ** 2)
    torch.testing.assert_close(found, torch.tensor([sum(each) / 30 for each in expected]))


def test_a_parent_that_never_happened_leaves_no_nan():
    labels = torch.zeros(4, 2)
    logits = torch.randn(4, 2, requires_grad=True)
    found = task_losses(logits, labels, ["binary", "binary"], {1: 0})
    found.sum().backward()
    assert float(found[1].detach()) == 0
    assert not logits.grad[:, 1].any()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_sum_is_the_log_likelihood_of_what_happened(seed):
    """Of (a, b) with b only after a there are three outcomes, and their probabilities sum to 1."""
    torch.manual_seed(seed)
    logits = torch.randn(50, 2)
    a = torch.rand(50) < 0.6
    b = a & (torch.rand(50) < 0.5)
    p, q = torch.sigmoid(logits).unbind(dim=1)
    likelihood = torch.where(b, p * q, torch.where(a, p * (1 - q), 1 - p))
    found = task_losses(logits, torch.stack([a, b], dim=1).float(), ["binary", "binary"], {1: 0})
    torch.testing.assert_close(found.sum(), -likelihood.log().mean())
    labels = torch.stack([a, b], dim=1).float()
    halves = [task_losses(logits[part], labels[part], ["binary"] * 2, {1: 0}) for part in (slice(25), slice(25, 50))]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, found)
