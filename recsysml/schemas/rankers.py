"""Config of every model that scores impressions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from recsysml.errors import ConfigError
from recsysml.schemas.checks import above, at_least, nearest, one_of, share
from recsysml.schemas.value_expression import ParsedExpression

CALIBRATIONS = ("none", "temperature", "platt", "beta", "isotonic", "isotonic_layer")


@dataclass
class MTMLConfig:
    """A multi-task ranker: features, history, interactions, a mixer of experts and one tower a task."""

    accepts: ClassVar[str] = "impressions"
    trainers: ClassVar[tuple[str, ...]] = ("ranking",)

    kind: str = "mtml"
    # a label of the YAML: the model's name in results.json
    name: str = "mtml"
    # labels to predict; empty is all that the data has
    tasks: list[str] = field(default_factory=list)
    # width of every embedding
    d_embedding: int = 16
    # standard deviation of the table's vectors before training; id 0, what training never met, begins at zero
    embedding_std: float = 0.1
    # who the user is: id_table, deep_hash (no table), cohort (of alike users), mixture (id_table and cohort, gated by
    # how much history there is)
    user: str = "id_table"
    n_cohorts: int = 32
    # share of a training batch's users whose id is hidden, so that one never met is nothing new
    user_dropout: float = 0.0
    # the user's past against what is shown: din (an MLP), multi_head, hstu (pointwise) or none
    history: str = "din"
    n_heads: int = 2
    # the last so many events are read
    context_length: int = 30
    # how features meet: dot (products of pairs), dcn (crosses) or concat
    interaction: str = "dcn"
    n_cross_layers: int = 2
    # what tasks share: shared_bottom, mmoe or ple
    mixer: str = "mmoe"
    # experts of mmoe; of ple those that all tasks share
    n_experts: int = 4
    # ple's experts of each task
    n_task_experts: int = 1
    # widths inside the bottom or an expert, and inside a task's tower
    expert_widths: list[int] = field(default_factory=lambda: [256, 128])
    tower_widths: list[int] = field(default_factory=lambda: [64])
    dropout: float = 0.0
    # before every ReLU of experts and towers: none, or batch (mean 0, deviation 1 over a batch; when serving over those
    # of training)
    norm: str = "none"
    # bias of the place in the slate, left out when serving: none, additive (to the logits) or examination (a factor
    # of the probability)
    position: str = "additive"
    # task -> the task without which it cannot be: p(like) becomes p(click) p(like | click)
    factorised: dict[str, str] = field(default_factory=dict)
    # how the tasks' losses are added up: equal, fixed (by task_weights), uncertainty or gradnorm
    weighting: str = "equal"
    task_weights: dict[str, float] = field(default_factory=dict)
    # gradnorm's alpha: how strongly tasks are pulled to train at one pace
    gradnorm_alpha: float = 1.5
    # the map of each task's logit that is fitted on rows that the ranker does not learn from: none, temperature, platt,
    # beta, isotonic, or isotonic_layer (a rising line of straight pieces)
    calibration: str = "platt"
    # when it is fitted: post_hoc (once, to the finished model, on all rows between those it learnt from and test) or
    # in_model (a step at a time while the model is trained, which does not feel it, on the later half of val)
    calibration_fit: str = "post_hoc"
    # whether each value of the data's cohort columns has a shift of its own besides
    calibrate_cohorts: bool = False

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        for name in ("d_embedding", "n_cohorts", "n_heads", "context_length", "n_experts", "n_task_experts"):
            at_least(f"model.{name}", getattr(self, name), 1)
        for name in ("n_cross_layers", "gradnorm_alpha"):
            at_least(f"model.{name}", getattr(self, name), 0)
        above("model.embedding_std", self.embedding_std, 0)
        one_of("model.user", self.user, ("id_table", "deep_hash", "cohort", "mixture"))
        one_of("model.history", self.history, ("din", "multi_head", "hstu", "none"))
        one_of("model.interaction", self.interaction, ("dot", "dcn", "concat"))
        one_of("model.mixer", self.mixer, ("shared_bottom", "mmoe", "ple"))
        one_of("model.norm", self.norm, ("none", "batch"))
        one_of("model.position", self.position, ("none", "additive", "examination"))
        one_of("model.calibration", self.calibration, CALIBRATIONS)
        one_of("model.calibration_fit", self.calibration_fit, ("post_hoc", "in_model"))
        if self.calibration_fit == "in_model" and (self.calibration in ("none", "isotonic") or self.calibrate_cohorts):
            what = "cohorts' shifts have" if self.calibrate_cohorts else f"model.calibration={self.calibration} has"
            raise ConfigError(f"{what} nothing that steps can train: use model.calibration_fit=post_hoc.")
        one_of("model.weighting", self.weighting, ("equal", "fixed", "uncertainty", "gradnorm"))
        if len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(f"model.tasks={self.tasks}: name each task once.")
        share("model.dropout", self.dropout)
        share("model.user_dropout", self.user_dropout)
        for key in ("expert_widths", "tower_widths"):
            for width in getattr(self, key):
                at_least(f"model.{key}", width, 1)
        if not self.expert_widths:
            raise ConfigError("model.expert_widths is empty: give the width of at least one layer.")
        if self.history in ("multi_head", "hstu") and self.d_embedding % self.n_heads:
            raise ConfigError(
                f"model.d_embedding={self.d_embedding} is not a multiple of model.n_heads={self.n_heads}."
            )
        for task, weight in self.task_weights.items():
            at_least(f"model.task_weights.{task}", weight, 0)
        if self.task_weights and self.weighting != "fixed":
            raise ConfigError(f"model.task_weights are not read with model.weighting={self.weighting}: use fixed.")
        if self.weighting == "fixed" and not self.task_weights:
            raise ConfigError("model.weighting=fixed needs model.task_weights: where all weigh 1, use equal.")
        if parents := set(self.factorised) & set(self.factorised.values()):
            raise ConfigError(f"model.factorised: {min(parents)} stands on both sides; one step is what can be.")

    def check_data(self, data: Any) -> None:
        """Raise a ConfigError where a task is named that the data does not have. data: a config of impressions."""
        if self.calibrate_cohorts and getattr(data, "cohorts", None) == []:
            raise ConfigError("model.calibrate_cohorts: the data names no cohort columns; set data.cohorts.")
        types = data.task_types()
        if not types:
            return  # the data's own check says so, once the whole config is known
        chosen = self.tasks or list(types)
        known = {
            "model.tasks": (self.tasks, list(types)),
            "model.task_weights": (list(self.task_weights), chosen),
            "model.factorised": ([*self.factorised, *self.factorised.values()], chosen),
        }
        for key, (names, among) in known.items():
            for name in names:
                if name not in among:
                    near = nearest(name, among)
                    hint = f"Did you mean: {near}? " if near else ""
                    raise ConfigError(f"{key}: {name} is no task here. {hint}There are {', '.join(among)}.")
        if self.position == "examination" and (real := [name for name in chosen if types.get(name) == "real"]):
            raise ConfigError(
                f"model.position=examination is a factor of probabilities, which the real label {real[0]} has not: use"
                " additive, or leave it out of model.tasks."
            )
        for name in {*self.factorised, *self.factorised.values()}:
            if types[name] != "binary":
                raise ConfigError(f"model.factorised: {name} is no binary label, so it has no probability.")

    def check_trainer(self, trainer: Any, processes: int) -> None:
        """Raise a ConfigError where training cannot go that way. trainer: a config of the ranking trainer."""
        if trainer.compile and self.weighting == "gradnorm":
            raise ConfigError("model.weighting=gradnorm looks into the backward pass: it needs trainer.compile=false.")
        if self.calibration_fit == "in_model" and (trainer.compile or processes > 1):
            raise ConfigError("model.calibration_fit=in_model needs trainer.compile=false and one process.")
        if self.norm == "batch" and (trainer.grad_accum > 1 or processes > 1):
            # its gradient would be another: each part of a batch has a mean of its own
            raise ConfigError(
                "model.norm=batch norms over a whole batch: it needs trainer.grad_accum=1 and one process."
            )
        if self.norm == "batch":
            at_least("trainer.batch_size", trainer.batch_size, 2)


@dataclass
class ValueModelConfig:
    """What an item is worth: a weighted sum, or an expression, of the probabilities of what may come of it.

    One of three says how: `importance` (weights are found that give each task this share), `weights`, `expression`.
    With none of them every task matters alike, but for what the data calls unwanted.
    """

    accepts: ClassVar[str] = "impressions"
    trainers: ClassVar[tuple[str, ...]] = ("value",)

    kind: str = "value_model"
    # a label of the YAML: the model's name in results.json
    name: str = "value_model"
    # a run of a ranker whose probabilities are weighed; null fits a logistic regression to each task
    init_from: str | None = None
    # task -> how much it is to matter, in any unit: only the shares count. Empty, without weights and expression: alike
    importance: dict[str, float] = field(default_factory=dict)
    # task -> its weight, as it is; below 0 of what is unwanted
    weights: dict[str, float] = field(default_factory=dict)
    # of p_<task>, such as p_like / p_leave; numbers, + - * / **, brackets, exp log sqrt min max. Of a label that is a
    # number p_<task> is the number expected
    expression: str | None = None
    # another expression for the first top_places of a slate; the items left stand below them by weights or expression
    top_expression: str | None = None
    top_places: int = 1

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        ways = {"importance": self.importance, "weights": self.weights, "expression": self.expression}
        chosen = [name for name, value in ways.items() if value]
        if len(chosen) > 1:
            raise ConfigError(f"model.{' and model.'.join(chosen)} are both given: one says what an item is worth.")
        for task, value in self.importance.items():
            above(f"model.importance.{task}", value, 0)
        for task, value in self.weights.items():
            if not value or not math.isfinite(value):
                raise ConfigError(f"model.weights.{task}={value}: give a number other than 0, or leave the task out.")
        at_least("model.top_places", self.top_places, 1)
        if self.top_expression and not (self.weights or self.expression):
            raise ConfigError(
                "model.top_expression: say by what the rest is ordered: model.weights or model.expression."
            )
        if self.top_places != 1 and not self.top_expression:
            raise ConfigError(f"model.top_places={self.top_places} is read with model.top_expression alone.")
        if len(self.importance) == 1:
            raise ConfigError(f"model.importance={self.importance}: one task alone matters wholly; name two or more.")

    def asked(self, data: Any) -> dict[str, float]:
        """Task -> share of importance, which sum to 1; empty where weights or an expression are given."""
        if self.weights or self.expression:
            return {}
        unwanted = getattr(data, "unwanted", ())
        alike = [task for task, kind in data.task_types().items() if kind == "binary" and task not in unwanted]
        units = self.importance or dict.fromkeys(alike, 1.0)
        return {task: unit / sum(units.values()) for task, unit in units.items()}

    def check_data(self, data: Any) -> None:
        """Raise a ConfigError where a task is named that the data does not have. data: a config of impressions."""
        types = data.task_types()
        for key in ("expression", "top_expression"):
            if text := getattr(self, key):
                ParsedExpression(text, list(types), f"model.{key}")
        if not (self.weights or self.expression) and len(self.asked(data)) < 2:
            raise ConfigError("data has fewer than two binary labels: one alone matters wholly; give model.weights.")
        for key, names in (("model.importance", self.importance), ("model.weights", self.weights)):
            for name in names:
                if name not in types:
                    near = nearest(name, types)
                    hint = f"Did you mean: {near}? " if near else ""
                    raise ConfigError(f"{key}: {name} is no task here. {hint}There are {', '.join(types)}.")
                if types[name] != "binary":
                    raise ConfigError(f"{key}: {name} is no binary label, so it has no probability.")


AD_METHODS = ("blending", "engagement_loss", "bandit", "decomposed", "reinforce")


@dataclass
class AdPlacementConfig:
    """Whether to show an ad, which and where: revenue now against the user's time, weighed by a dial.

    What an action is worth is its revenue + dial x minute_value x its minutes of engagement.
    """

    accepts: ClassVar[str] = "ads"
    trainers: ClassVar[tuple[str, ...]] = ("ads",)

    kind: str = "ad_placement"
    # a label of the YAML: the model's name in results.json
    name: str = "ad_placement"
    # blending (the ad that earns most against all the time that the session would take without it), engagement_loss
    # (that ad, where it earns more than the time that it costs), bandit (the action worth most), decomposed (the same
    # with the ad system's own estimate of revenue) or reinforce (a policy, learnt as it is)
    method: str = "bandit"
    # what the user's time counts beside revenue: 0 is revenue alone
    dial: float = 1.0
    # revenue that a minute of engagement is worth
    minute_value: float = 1.0
    # 0 does what is best; above it, actions are drawn by a softmax of their worth / temperature, which explores
    temperature: float = 0.0
    # widths inside the network
    widths: list[int] = field(default_factory=lambda: [64, 64])

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        one_of("model.method", self.method, AD_METHODS)
        for name in ("dial", "minute_value", "temperature"):
            at_least(f"model.{name}", getattr(self, name), 0)
        for width in self.widths:
            at_least("model.widths", width, 1)

    def check_eval(self, how: Any) -> None:
        """Raise a ConfigError for a dial that what was learnt cannot be turned to. how: the eval's config."""
        if self.method == "reinforce" and how.dial is not None:
            raise ConfigError(
                f"eval.dial={how.dial:g}: reinforce has learnt its own for good, model.dial={self.dial:g}; another one"
                " is trained anew."
            )
