"""Config of the trainers whose ranker learns to earn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from recsysml.errors import ConfigError
from recsysml.schemas.checks import above, at_least, one_of, share
from recsysml.schemas.trainers import LoopFields

# those that look back at a snapshot of the policy; the others learn from the log as it is
SNAPSHOT_LOSSES = ("grpo", "ecpo", "gbpo", "cispo")
POLICY_LOSSES = ("ips", "snips", "ips_baseline", "dr", "dm", *SNAPSHOT_LOSSES)


@dataclass
class PolicyTrainerConfig(LoopFields):
    """A ranker that is trained to earn: log loss of what was shown plus a policy loss over the whole slate."""

    family: ClassVar[str] = "slates"

    kind: str = "policy"
    # slates in one optimiser step
    batch_size: int = 512
    max_steps: int = 600
    warmup_steps: int = 0
    eval_every: int = 50
    checkpoint_every: int = 300
    lr: float = 3e-3
    weight_decay: float = 0.0
    beta2: float = 0.999
    compile: bool = False
    # none (the supervised ranker alone), ips, snips, ips_baseline, dr, dm, grpo, ecpo, gbpo or cispo
    policy_loss: str = "dr"
    # total loss = log loss + policy_weight x policy loss, both means
    policy_weight: float = 1.0
    # the largest importance weight; 0 is any. One reward a request is mostly chance, and a policy learns it by heart
    max_weight: float = 0.1
    # of grpo, ecpo and cispo: how far a ratio may go; of ecpo: how much further where it is clipped early
    eps: float = 0.2
    delta: float = 0.1
    # steps after which grpo, ecpo, gbpo and cispo look back at a new snapshot of the policy
    refresh_every: int = 50
    # weight of KL(policy || anchor), exact over the slate; anchor: supervised or logging (where all of it is logged)
    kl_weight: float = 0.0
    anchor: str = "supervised"
    # steps of the supervised ranker, which every policy starts from, and learning rates, the best on val being kept
    supervised_steps: int = 600
    supervised_lrs: list[float] = field(default_factory=lambda: [1e-2, 3e-2, 1e-1])
    # what the supervised ranker and the reward model learn from: all places of a slate that were seen, or the top
    places: str = "all"
    # the reward model: trees (at most so many), or network: widths of hidden layers, share of their units left out at a
    # step, steps; and parts that requests are dealt to (each predicted by others)
    reward_model: str = "trees"
    reward_model_trees: int = 200
    reward_model_hidden: list[int] = field(default_factory=lambda: [128])
    reward_model_dropout: float = 0.5
    reward_model_steps: int = 1200
    folds: int = 4
    # share of the training requests that the reward model learns from: a small one makes it wrong, to see what then
    reward_model_share: float = 1.0

    def validate(self) -> None:
        super().validate()
        one_of("trainer.policy_loss", self.policy_loss, ("none", *POLICY_LOSSES))
        one_of("trainer.anchor", self.anchor, ("supervised", "logging"))
        one_of("trainer.reward_model", self.reward_model, ("trees", "network"))
        one_of("trainer.places", self.places, ("all", "top"))
        for name in ("policy_weight", "max_weight", "kl_weight", "delta"):
            at_least(f"trainer.{name}", getattr(self, name), 0)
        for name in ("refresh_every", "supervised_steps", "reward_model_steps", "reward_model_trees"):
            at_least(f"trainer.{name}", getattr(self, name), 1)
        above("trainer.eps", self.eps, 0)
        at_least("trainer.folds", self.folds, 2)
        above("trainer.reward_model_share", self.reward_model_share, 0)
        share("trainer.reward_model_share", self.reward_model_share, one=True)
        share("trainer.reward_model_dropout", self.reward_model_dropout)
        if not self.supervised_lrs:
            raise ConfigError("trainer.supervised_lrs is empty: give one or more learning rates, such as [1e-2].")
        for lr in self.supervised_lrs:
            above("trainer.supervised_lrs", lr, 0)
        for width in self.reward_model_hidden:
            at_least("trainer.reward_model_hidden", width, 1)
        if self.compile and self.policy_loss in SNAPSHOT_LOSSES:
            raise ConfigError(
                f"trainer.policy_loss={self.policy_loss} looks back at a snapshot: it needs trainer.compile=false."
            )

    def ignored(self) -> list[str]:
        """Settings that others make idle, a sentence each."""
        found = []
        if self.policy_loss == "none" and self.kl_weight:
            found.append(f"trainer.kl_weight={self.kl_weight:g} is not read: trainer.policy_loss=none trains no policy")
        if self.anchor == "logging" and not self.kl_weight:
            found.append("trainer.anchor=logging is not read: trainer.kl_weight is 0")
        network = ("reward_model_hidden", "reward_model_dropout", "reward_model_steps")
        idle = network if self.reward_model == "trees" else ("reward_model_trees",)
        found += [
            f"trainer.{name}={getattr(self, name)} is not read: trainer.reward_model is {self.reward_model}"
            for name in idle
            if getattr(self, name) != getattr(type(self)(), name)
        ]
        return found

    def check_data(self, data: Any) -> None:
        """Raise a ConfigError where the data cannot have the anchor that is asked for. data: a config of slates."""
        if self.anchor == "logging" and self.kl_weight and getattr(data, "behaviour", None) == "bts":
            raise ConfigError("trainer.anchor=logging: bts has logged only the probabilities of what was shown.")


@dataclass
class FeedbackLoopTrainerConfig(PolicyTrainerConfig):
    """Rounds of training to earn, each from the log of the policy that the round before has deployed in the world."""

    kind: str = "feedback_loop"
    # rounds, each with all steps of the supervised ranker, the reward model and the policy
    rounds: int = 5
    # share of a deployed policy's requests that are shown any candidate
    exploration: float = 0.0
    # top: a policy that is deployed logs what stood on top and nothing else
    places: str = "top"

    def validate(self) -> None:
        super().validate()
        at_least("trainer.rounds", self.rounds, 1)
        share("trainer.exploration", self.exploration, one=True)
        if self.places != "top":
            raise ConfigError(
                f"trainer.places={self.places}: the log of a policy that is deployed has what stood on top and nothing"
                " else; use trainer.places=top."
            )

    def ignored(self) -> list[str]:
        """As of `policy`, and what only a second round would read."""
        found = super().ignored()
        if self.rounds == 1 and self.exploration:
            found.append(
                f"trainer.exploration={self.exploration:g} is not read: with trainer.rounds=1 no policy is deployed"
            )
        return found

    def check_data(self, data: Any) -> None:
        """Raise a ConfigError where nothing answers a policy that is deployed. data: a config of slates."""
        super().check_data(data)
        if data.kind != "world":
            raise ConfigError("trainer=feedback_loop: only the simulated world answers a policy; use data=world.")
