"""A ranker that is a policy: probabilities of what may come of each candidate, their worth, a softmax over the slate.

    logits (B, N, T)            of each candidate and task, from what is known of request, item and both together
    s_i = sum_t w_t p_i(t) / temperature
    pi(i | slate) = softmax(s)  first place; Plackett-Luce over s for the whole ranking

The gradient of a policy's loss runs through the task probabilities, so that what is learnt of reward and what is learnt
of actions share every weight.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recsysml.errors import ConfigError
from recsysml.losses.policy import log_policy
from recsysml.schemas.policies import PolicyRankerConfig


class PolicyRanker(nn.Module):
    """`forward` gives logits, `log_policy` of them the log probability of each candidate on top."""

    worth: Tensor
    temperature: Tensor

    def __init__(
        self, config: PolicyRankerConfig, widths: tuple[int, int, int], rewards: dict[str, float], places: int = 1
    ) -> None:
        """widths: features of a context, of an item, of a pair; rewards: task -> what one is worth; places: of a slate
        that training reads."""
        super().__init__()
        config.validate()
        self.config, self.widths, self.rewards = config, widths, dict(rewards)
        self.tasks = list(rewards)
        self.scales = nn.ModuleList(Standardised(width) for width in widths)
        first = config.hidden[0] if config.hidden else len(self.tasks)
        # one layer cut in three: what is known of the request is multiplied once, not once a candidate
        self.parts = nn.ModuleList(nn.Linear(width, first, bias=place == 0) for place, width in enumerate(widths))
        layers: list[nn.Module] = []
        for place, width in enumerate(config.hidden):
            after = [*config.hidden, len(self.tasks)][place + 1]
            layers += [nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(width, after)]
        self.rest = nn.Sequential(*layers)
        # what a place further down costs, in logits; the top costs nothing, and what serves is always at the top
        self.places = nn.Parameter(torch.zeros(places, len(self.tasks)))
        self.register_buffer("worth", torch.tensor([rewards[task] for task in self.tasks], dtype=torch.float32))
        self.register_buffer("temperature", torch.tensor(float(config.temperature)))

    def forward(self, contexts: Tensor, items: Tensor, pairs: Tensor) -> Tensor:
        """contexts (B, C), items (B, N, D), pairs (B, N, P) -> logits (B, N, T)."""
        context, item, pair = (
            part(scale(x)) for part, scale, x in zip(self.parts, self.scales, (contexts, items, pairs), strict=True)
        )
        return self.rest(context[:, None] + item + pair).float()

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The 2-D weights between features and logits, for Muon."""
        linear = [layer for layer in self.rest if isinstance(layer, nn.Linear)]
        return [layer.weight for layer in linear[:-1]]

    def placed(self, logits: Tensor, places: Tensor) -> Tensor:
        """logits (B, T) of items shown at places (B,) from 0 -> (B, T)."""
        return logits + self.places[places] * (places > 0)[:, None]

    def values(self, logits: Tensor) -> Tensor:
        """(..., T) -> (...): what a candidate is worth, in the reward's unit."""
        return logits.sigmoid() @ self.worth

    def log_policy(self, logits: Tensor, mask: Tensor) -> Tensor:
        """logits (B, N, T), mask (B, N) -> (B, N)."""
        return log_policy(self.values(logits) / self.temperature, mask)


class Standardised(nn.Module):
    """x minus the mean over the standard deviation of what was learnt from; a constant column becomes 0."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def fit(self, mean: Tensor, deviation: Tensor) -> None:
        """mean, deviation (width,)."""
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(deviation > 1e-6, 1 / deviation.clamp(min=1e-6), 0.0))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.scale


def check_initial(config: Any) -> None:
    """Raises ConfigError where model.init_from is no run or checkpoint."""
    if checkpoint_folder(config.init_from) is None:
        raise ConfigError(
            f"model.init_from={config.init_from}: there is no checkpoint; give the directory of a run, such as"
            " recsysml train model=policy_ranker makes."
        )


def checkpoint_folder(path: str | Path) -> Path | None:
    """The checkpoint folder that a run directory, or a checkpoint, stands for; None where there is none."""
    folder = Path(path).expanduser()
    for place in (folder / "checkpoints" / "best", folder / "checkpoints" / "last", folder):
        if (place / "checkpoint.json").is_file():
            return place
    return None
