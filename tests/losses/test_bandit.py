"""Losses on logged decisions, against the expectation over all actions by enumeration."""

import pytest
import torch

from recsysml.losses import bandit

S, A = 6, 4  # sessions, actions


def made(seed):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(S, A, generator=g, dtype=torch.float64, requires_grad=True)
    propensity = (torch.randn(S, A, generator=g, dtype=torch.float64)).softmax(1)
    reward = torch.randn(S, A, generator=g, dtype=torch.float64)
    return g, logits, propensity, reward


def expected_over_log(propensity, of_action):
    """sum over actions of p(a) x what the loss is if every session took a: by sessions, as p differs."""
    total = 0.0
    for session in range(S):
        for action in range(A):
            total = total + propensity[session, action] * of_action(session, action) / S
    return total


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("baseline", [0.0, -3.0, 1.7])
def test_weighted_reinforce_has_the_exact_gradient_of_the_policys_value(seed, baseline):
    _, logits, propensity, reward = made(seed)

    def one(session, action):
        at = slice(session, session + 1)
        return bandit.reinforce(
            logits[at], torch.tensor([action]), propensity[at, action], reward[at, action] - baseline, weighted=True
        )

    (exact,) = torch.autograd.grad(-(logits.softmax(1) * reward).sum(1).mean(), logits)
    (found,) = torch.autograd.grad(expected_over_log(propensity, one), logits)
    torch.testing.assert_close(found, exact)


def test_without_weights_the_gradient_is_the_logs_and_moves_with_the_rewards_zero():
    _, logits, propensity, reward = made(0)

    def gradient(shift, own):
        p = logits.detach().softmax(1) if own else propensity

        def one(session, action):
            at = slice(session, session + 1)
            return bandit.reinforce(
                logits[at], torch.tensor([action]), p[at, action], reward[at, action] + shift, weighted=False
            )

        return torch.autograd.grad(expected_over_log(p, one), logits)[0]

    (exact,) = torch.autograd.grad(-(logits.softmax(1) * reward).sum(1).mean(), logits)
    torch.testing.assert_close(gradient(0.0, own=True), exact)  # right of one's own log
    torch.testing.assert_close(gradient(-3.0, own=True), exact)
    assert (gradient(0.0, own=False) - exact).abs().max() > 0.02
    assert (gradient(-3.0, own=False) - gradient(0.0, own=False)).abs().max() > 0.05


def test_a_clipped_weight_bounds_the_gradient():
    logits = torch.zeros(1, A, dtype=torch.float64, requires_grad=True)
    action, one = torch.tensor([0]), torch.ones(1, dtype=torch.float64)
    grads = [
        torch.autograd.grad(
            bandit.reinforce(logits, action, 0.01 * one, one, weighted=True, clip=clip), logits
        )[0].abs().max().item()
        for clip in (0.0, 5.0)
    ]  # fmt: skip
    assert grads == pytest.approx([25 * 0.75, 5 * 0.75])


@pytest.mark.parametrize("seed", range(4))
def test_doubly_robust_outcomes_are_right_if_either_part_is(seed):
    g, _, propensity, outcome = made(seed)
    wrong = torch.randn(S, A, 1, generator=g, dtype=torch.float64)
    wrong_propensity = torch.rand(S, A, generator=g, dtype=torch.float64)

    def mean(predicted, believed):
        total = torch.zeros(S, A, 1, dtype=torch.float64)
        for action in range(A):
            taken = torch.full((S,), action)
            target = bandit.outcome_targets("dr", taken, believed[:, action], outcome[:, action, None], predicted)
            total += propensity[:, action, None, None] * target
        return total[..., 0]

    torch.testing.assert_close(mean(wrong, propensity), outcome)
    torch.testing.assert_close(mean(outcome[..., None], wrong_propensity), outcome)
    assert (mean(wrong, wrong_propensity) - outcome).abs().max() > 0.1


@pytest.mark.parametrize("learning", ["ipw", "dr"])
def test_the_loss_is_on_average_that_over_all_actions(learning):
    g, _, propensity, outcome = made(5)
    guess = torch.randn(S, A, 2, generator=g, dtype=torch.float64, requires_grad=True)
    both = torch.stack([outcome, -outcome], dim=2)  # (S, A, 2)
    none = torch.zeros_like(guess).detach()

    def one(session, action):
        at, taken = slice(session, session + 1), torch.tensor([action])
        p = propensity[at, action]
        targets = bandit.outcome_targets(learning, taken, p, both[at, action], none[at])
        return bandit.outcome_loss(guess[at], targets, bandit.outcome_weights(learning, taken, p, A))

    (exact,) = torch.autograd.grad(((guess - both) ** 2).sum(2).mean(), guess)
    (found,) = torch.autograd.grad(expected_over_log(propensity, one), guess)
    torch.testing.assert_close(found, exact)


def test_learning_directly_weighs_actions_as_the_log_does():
    taken = torch.tensor([0, 2, 2])
    p = torch.tensor([0.5, 0.1, 0.25])
    weights = bandit.outcome_weights("direct", taken, p, A)
    assert weights.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]]
    assert bandit.outcome_weights("ipw", taken, p, A)[1, 2] == pytest.approx(2.5)
