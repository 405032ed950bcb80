"""Whether to show an ad, which and where: what every action brings, as a network has it, and rules that decide by it.

Action 0 shows no ad. Of an action a, rev(a) is the revenue that is expected and eng(a) the minutes; f turns minutes
into revenue, f(eng) = dial x minute_value x eng. Each method gives every action a score:

    blending         rev(a) - rev(0), and f(eng(0)) of no ad: an ad against all that the session brings without it, as
                     if with an ad nothing of it were left
    engagement_loss  of the ad that earns most, rev(a) - rev(0) - f(eng(0) - eng(a)), and 0 of no ad: it is shown where
                     it earns more than the time it costs is worth
    bandit           rev(a) + f(eng(a)), a model of the reward for every action
    decomposed       the same with the ad system's own estimate for rev(a): what is immediate is given, what is delayed
                     is learnt. Of one ad the policy is sigma((rev + f(eng(1)) - f(eng(0))) / temperature)
    reinforce        the logits of a policy, which knows no outcomes

The policy is the best score, or with a temperature the softmax of score / temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

# the outcomes' places in the network's last dimension
REVENUE, ENGAGEMENT = 0, 1


class AdPlacement(nn.Module):
    """An MLP over a session's features (Hidden layers of SiLU), and a rule. config: AdPlacementConfig."""

    def __init__(self, config: Any, n_features: int, n_actions: int) -> None:
        super().__init__()
        self.method, self.temperature = config.method, config.temperature
        self.minute_value, self.dial = config.minute_value, config.dial
        self.n_actions = n_actions
        self.learns_outcomes = config.method != "reinforce"
        self.network = outcome_network(n_features, config.widths, n_actions * (2 if self.learns_outcomes else 1))
        for name, size in (("feature", n_features), ("outcome", 2)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))

    def fit_units(self, features: Tensor, outcomes: Tensor) -> None:
        """Means and spreads of what is learnt from: features (n, F), outcomes (n, 2)."""
        for name, values in (("feature", features), ("outcome", outcomes)):
            values = values.double()
            getattr(self, f"{name}_mean").copy_(values.mean(dim=0))
            getattr(self, f"{name}_scale").copy_(values.std(dim=0).clamp(min=1e-8))

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, A, 2) outcomes in units of their spread, or (B, A) logits of reinforce."""
        found = self.network((features - self.feature_mean) / self.feature_scale)
        return found.view(-1, self.n_actions, 2) if self.learns_outcomes else found

    def outcomes(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F) -> expected revenue and minutes, (B, A) each. ValueError of reinforce, which knows none."""
        if not self.learns_outcomes:
            raise ValueError("model.method=reinforce knows no outcomes: use bandit")
        found = self(features) * self.outcome_scale + self.outcome_mean
        return found[..., REVENUE], found[..., ENGAGEMENT]

    def scores(self, features: Tensor, revenue_estimate: Tensor, dial: float | None = None) -> Tensor:
        """(B, F), the ad system's estimates (B, A) -> (B, A), -inf of what the rule does not consider.

        dial: another than the model's own; reinforce has learnt its own for good.
        """
        if not self.learns_outcomes:
            return self(features)
        revenue, engagement = self.outcomes(features)
        worth = (self.dial if dial is None else dial) * self.minute_value
        return score(self.method, revenue, worth * engagement, revenue_estimate)

    def policy(self, features: Tensor, revenue_estimate: Tensor, dial: float | None = None) -> Tensor:
        """As `scores` -> (B, A) probabilities of the actions."""
        found = self.scores(features, revenue_estimate, dial)
        if self.temperature > 0:
            return (found / self.temperature).softmax(dim=1)
        return nn.functional.one_hot(found.argmax(dim=1), self.n_actions).to(found.dtype)


def outcome_network(n_features: int, widths: Sequence[int], n_out: int) -> nn.Sequential:
    """(B, n_features) -> (B, n_out)."""
    layers: list[nn.Module] = []
    for wide, narrow in zip([n_features, *widths], widths, strict=False):
        layers += [nn.Linear(wide, narrow), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear([n_features, *widths][-1], n_out))


def score(method: str, revenue: Tensor, engagement_value: Tensor, revenue_estimate: Tensor) -> Tensor:
    """The scores of a rule, (B, A), of outcomes (B, A); engagement_value: f(eng), in units of revenue."""
    if method == "bandit":
        return revenue + engagement_value
    if method == "decomposed":
        return revenue_estimate + engagement_value
    gained = revenue - revenue[:, :1]
    if method == "blending":
        return torch.cat([engagement_value[:, :1], gained[:, 1:]], dim=1)
    if method == "engagement_loss":
        lost = engagement_value[:, :1] - engagement_value
        earns_most = nn.functional.one_hot(gained[:, 1:].argmax(dim=1) + 1, revenue.shape[1]).bool()
        found = torch.where(earns_most, gained - lost, -torch.inf)
        return torch.cat([torch.zeros_like(found[:, :1]), found[:, 1:]], dim=1)
    raise ValueError(f"{method} is no rule over outcomes: use blending, engagement_loss, bandit or decomposed")
