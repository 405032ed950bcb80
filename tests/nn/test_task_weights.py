"""Weights of tasks against their closed forms."""

import pytest
import torch

from recsysml.nn.task_weights import TaskWeights


def test_equal_and_fixed_weights():
    losses = torch.tensor([1.0, 2.0, 4.0])
    assert float(TaskWeights("equal", 3)(losses)) == 7.0
    assert float(TaskWeights("fixed", 3, [1.0, 0.0, 0.5])(losses)) == 3.0


def test_uncertainty_settles_where_a_tasks_weight_is_one_over_twice_its_loss():
    """d/ds (exp(-s) L + s / 2) = 0 at exp(-s) = 1 / (2 L)."""
    losses = torch.tensor([0.1, 0.5, 3.0])
    weights = TaskWeights("uncertainty", 3)
    optimizer = torch.optim.LBFGS(weights.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = weights(losses)
        value.backward()
        return value

    optimizer.step(closure)
    torch.testing.assert_close(weights.current(3), 1 / (2 * losses), atol=1e-3, rtol=1e-3)


def test_gradnorm_gives_tasks_of_one_pace_gradients_of_one_norm():
    weights = TaskWeights("gradnorm", 3, alpha=1.0)
    optimizer = torch.optim.Adam(weights.parameters(), lr=0.01)
    losses, norms = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 1.0, 0.5])
    for _ in range(1500):
        optimizer.zero_grad()
        weights(losses, norms).backward()
        optimizer.step()
    found = weights.current(3)
    assert float(found.sum()) == pytest.approx(3.0)
    torch.testing.assert_close(found * norms, (found * norms).mean().expand(3), atol=0.05, rtol=0)


def test_gradnorm_pulls_at_the_task_that_lags_and_its_losses_keep_their_weights():
    weights = TaskWeights("gradnorm", 2, alpha=1.5)
    norms = torch.ones(2)
    weights(torch.tensor([1.0, 1.0]), norms)  # the first step
    lagging = torch.tensor([1.0, 0.2], requires_grad=True)
    weights(lagging, norms).backward()
    assert weights.scores.grad[0] < 0 < weights.scores.grad[1]  # the slow one's weight rises
    torch.testing.assert_close(lagging.grad, weights.current(2))
    weights.eval()
    assert float(weights(torch.tensor([1.0, 1.0]), norms)) == pytest.approx(2.0)


def test_gradnorm_asks_a_lagging_task_for_its_pace_to_the_power_of_alpha():
    """The goal of each norm is the mean norm x pace^alpha: where the weighted norms are there, nothing moves."""
    for alpha in (0.5, 2.0):
        weights = TaskWeights("gradnorm", 2, alpha=alpha)
        weights(torch.ones(2), torch.ones(2))  # the first step
        losses = torch.tensor([0.9, 0.3])  # paces 1.5 and 0.5
        norms = torch.tensor([1.5**alpha, 0.5**alpha])
        norms = norms / norms.mean()
        value = weights(losses, norms)
        assert float(value.detach()) == pytest.approx(
            float(losses.sum() + (norms - torch.tensor([1.5, 0.5]) ** alpha).abs().sum())
        )
