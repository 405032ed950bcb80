"""Config of every model that is a policy over slates."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from recsysml.errors import ConfigError
from recsysml.schemas.checks import above, at_least, nearest, share


@dataclass
class PolicyRankerConfig:
    """A ranker whose scores are a policy: what candidates' actions are worth, softmax over the slate."""

    accepts: ClassVar[str] = "slates"
    trainers: ClassVar[tuple[str, ...]] = ("policy", "feedback_loop")

    kind: str = "policy_ranker"
    # a label of the YAML: the model's name in results.json
    name: str = "policy_ranker"
    # a run of a policy_ranker whose weights are where the policy starts; null trains the supervised ranker first
    init_from: str | None = None
    # task -> what one is worth; empty is what the data says
    weights: dict[str, float] = field(default_factory=dict)
    # widths of hidden layers; [] is a logistic regression a task
    hidden: list[int] = field(default_factory=list)
    # values are divided by it before the softmax: the lower, the nearer the policy is to the best item alone
    temperature: float = 0.1
    dropout: float = 0.0

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        above("model.temperature", self.temperature, 0)
        share("model.dropout", self.dropout)
        for width in self.hidden:
            at_least("model.hidden", width, 1)
        for task, weight in self.weights.items():
            if not math.isfinite(weight):
                raise ConfigError(f"model.weights.{task}={weight}: it must be a number.")

    def rewards(self, data: Any) -> dict[str, float]:
        """Task -> what one is worth. data: a config of slates."""
        return dict(self.weights or data.reward_weights)

    def check_data(self, data: Any) -> None:
        """Raise a ConfigError where a task is named that the data does not have. data: a config of slates."""
        types = data.task_types()
        if not types:
            return  # the data's own check says so, once the whole config is known
        for name in self.weights:
            if name not in types:
                near = nearest(name, types)
                hint = f"Did you mean: {near}? " if near else ""
                raise ConfigError(f"model.weights: {name} is no task here. {hint}There are {', '.join(types)}.")
        for name, weight in self.rewards(data).items():
            if weight and types[name] != "binary":
                group = "model" if self.weights else "data"
                raise ConfigError(
                    f"{group}.weights: {name} is no binary label, so it has no probability to be paid for; pay binary"
                    " ones alone, such as +model.weights.click=1."
                )
        if not any(self.rewards(data).values()):
            raise ConfigError("model.weights are all 0: nothing would be worth showing.")
