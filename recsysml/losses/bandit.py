"""Losses of learning from logged decisions among a few actions: outcomes of every action, or a policy as it is.

A decision is logged with the probability it was made with, its propensity. Outcomes are seen of the action that was
taken and of no other; what stands for those of the others is what the three ways differ in:

    direct  only the action that was taken is learnt from: right where the model can be right everywhere
    ipw     the same, each weighing 1 / (A x propensity): the mean over sessions is that over all A actions
    dr      q + 1[taken] (outcome - q) / propensity of every action, q of a model that has not seen the session: on
            average the action's outcome if the propensities or q are right (Dudik, Langford & Li 2011)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from recsysml.losses import policy


def outcome_targets(learning: str, actions: Tensor, propensity: Tensor, outcomes: Tensor, predicted: Tensor) -> Tensor:
    """(n, A, C) what is learnt of every action; 0 where `outcome_weights` is 0.

    actions (n,), propensity (n,), outcomes (n, C); predicted (n, A, C): q, read by dr alone.
    """
    taken = one_hot(actions, predicted.shape[1])[..., None]  # (n, A, 1)
    if learning != "dr":
        return taken * outcomes[:, None]
    rest = (outcomes[:, None] - predicted) / propensity[:, None, None]
    return predicted + taken * rest


def outcome_weights(learning: str, actions: Tensor, propensity: Tensor, n_actions: int) -> Tensor:
    """(n, A) how much each target of `outcome_targets` weighs."""
    if learning == "dr":
        return torch.full((len(actions), n_actions), 1 / n_actions)
    taken = one_hot(actions, n_actions).to(propensity.dtype)
    return taken if learning == "direct" else taken / (propensity[:, None] * n_actions)


def outcome_loss(predicted: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted squared error: predicted and targets (B, A, C), weights (B, A); a mean over the batch."""
    return (weights[..., None] * (predicted - targets) ** 2).sum(dim=(1, 2)).mean()


def reinforce(
    logits: Tensor, actions: Tensor, propensity: Tensor, advantage: Tensor, *, weighted: bool, clip: float = 0.0
) -> Tensor:
    """Minus a surrogate whose gradient is w x advantage x grad log pi(action) (Williams 1992), a mean over the batch.

    logits (B, A); actions, propensity, advantage (B,). weighted: w = pi / propensity, at most clip (0: no bound), so
    that the gradient is that of the policy's own value whoever made the log; else w = 1, which is right only of
    actions that this policy has drawn.
    """
    log_pi = logits.log_softmax(dim=1)
    if weighted:
        return policy.ips(log_pi, actions, propensity, advantage, clip)
    return -(advantage * log_pi.gather(1, actions[:, None])[:, 0]).mean()
