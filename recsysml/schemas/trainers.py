"""Config of every trainer kind."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from recsysml.errors import ConfigError
from recsysml.schemas.checks import above, at_least, one_of, share


@dataclass
class LoopFields:
    """What the loop and the optimisers ask of every trainer."""

    # optimiser steps
    max_steps: int = 300
    # sequences in one optimiser step, over all accumulation steps and processes
    batch_size: int = 16
    # micro-batches one step is cut into: less memory, same mathematics
    grad_accum: int = 1
    # adamw or muon (hidden matrices by Muon, the rest by AdamW)
    optimizer: str = "adamw"
    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    # AdamW in one kernel: the same update, several times as fast
    fused: bool = True
    # largest global gradient norm; 0 is no clipping
    grad_clip: float = 1.0
    # cosine, linear, wsd (warm-up, stable, decay) or constant
    schedule: str = "cosine"
    warmup_steps: int = 30
    # the last learning rate as a share of the first
    min_lr_ratio: float = 0.1
    # share of the steps that wsd spends decaying
    decay_fraction: float = 0.2
    # fp32, bf16, fp16 (with a gradient scaler) or auto (bf16 where the hardware multiplies it, else fp32)
    precision: str = "auto"
    compile: bool = True
    # same config, same seed, same bits, on one kind of hardware; null is true on a CPU, where it costs little
    deterministic: bool | None = None
    # on a CPU: keep freed memory for the next step instead of giving it back (glibc): a twentieth to a half of a step
    keep_memory: bool = True
    # decay of an exponential moving average of the weights used for validation and best/; 0 is none
    ema_decay: float = 0.0
    # background threads that read batches ahead; null is 2 on a GPU and none on a CPU
    loader_workers: int | None = None
    # in steps; 0 is only at the end (validation is also done at step 0)
    eval_every: int = 50
    # validations in a row without a better one after which training ends; 0 is never
    patience: int = 0
    checkpoint_every: int = 100
    log_every: int = 1
    # how many step-* checkpoints are kept beside the best
    keep_checkpoints: int = 2

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        for name in ("max_steps", "batch_size", "grad_accum", "log_every", "keep_checkpoints"):
            at_least(f"trainer.{name}", getattr(self, name), 1)
        for name in ("warmup_steps", "eval_every", "checkpoint_every", "patience"):
            at_least(f"trainer.{name}", getattr(self, name), 0)
        if self.patience and not self.eval_every:
            raise ConfigError(f"trainer.patience={self.patience} counts validations: set trainer.eval_every as well.")
        for name in ("weight_decay", "grad_clip", "loader_workers"):
            at_least(f"trainer.{name}", getattr(self, name), 0)
        for name in ("beta1", "beta2", "ema_decay"):
            share(f"trainer.{name}", getattr(self, name))
        for name in ("min_lr_ratio", "decay_fraction"):
            share(f"trainer.{name}", getattr(self, name), one=True)
        above("trainer.lr", self.lr, 0)
        one_of("trainer.optimizer", self.optimizer, ("adamw", "muon"))
        one_of("trainer.schedule", self.schedule, ("cosine", "linear", "wsd", "constant"))
        one_of("trainer.precision", self.precision, ("auto", "fp32", "bf16", "fp16"))
        if self.batch_size % self.grad_accum:
            raise ConfigError(
                f"trainer.grad_accum={self.grad_accum}: trainer.batch_size={self.batch_size} must be a multiple of it."
            )


@dataclass
class LanguageTrainerConfig(LoopFields):
    """Next-token training of a language model."""

    family: ClassVar[str] = "text"

    kind: str = "language"
    # recompute activations in the backward pass: less memory, a third more time
    gradient_checkpointing: bool = False
    # rows of the logits computed at once in the loss; 0 is all at once (faster; more memory)
    loss_chunk: int = 0
    # tokens sampled from `sample_prompt` at each validation; 0 is none
    sample_tokens: int = 64
    sample_prompt: str = ""
    # tasks asked at each validation and, with the best weights, at the end; of each the first so many questions
    eval_tasks: list[str] = field(default_factory=list)
    eval_tasks_limit: int | None = 200

    def validate(self) -> None:
        super().validate()
        at_least("trainer.eval_tasks_limit", self.eval_tasks_limit, 1)
        for name in ("loss_chunk", "sample_tokens"):
            at_least(f"trainer.{name}", getattr(self, name), 0)


@dataclass
class RetrievalTrainerConfig(LoopFields):
    """Next-item training of a retriever, at every position of every user's sequence."""

    family: ClassVar[str] = "interactions"

    kind: str = "retrieval"
    batch_size: int = 128
    max_steps: int = 2000
    warmup_steps: int = 100
    eval_every: int = 100
    checkpoint_every: int = 500
    weight_decay: float = 0.0
    compile: bool = False
    # full (all items), sampled (softmax over negatives, logQ corrected), gbce (Petrov & Macdonald 2023), or one that
    # brings an output of its own: hierarchical (a Huffman tree over the items' counts) or cluster (p(cluster) times
    # p(item | cluster), both full)
    loss: str = "full"
    # scores are divided by it
    temperature: float = 1.0
    # negatives of a step drawn evenly from the catalogue, taken from the batch's targets, and taken for their scores
    uniform_negatives: int = 256
    in_batch_negatives: int = 0
    hard_negatives: int = 0
    # whether a sampled negative's score is corrected for how often it is drawn
    logq: bool = True
    # whether the target's score is corrected too, as if it had been drawn
    logq_positive: bool = False
    # whether the other items of a row's window are none of its negatives
    mask_known: bool = False
    # gbce's t: 0 is binary cross-entropy, 1 calibrated
    calibration: float = 0.75
    # about how many clusters loss=cluster has; null is the root of the catalogue's size. They are k-means clusters of
    # what items share in users' histories, made before the first step and fixed from then on
    clusters: int | None = None
    # each target weighs 1, 1/sqrt(the user's events) or 1/sqrt(the item's events): none, user, item
    row_weights: str = "none"
    # none, or age: a learnt term by how old an item is at the moment of each event is in the training's logits and in
    # nothing that serves, so that having been fresh is not taken for being good
    debias: str = "none"
    # auto (by the catalogue's size), flat (exact), ivf, hnsw or ivf_pq
    index: str = "auto"

    def validate(self) -> None:
        super().validate()
        one_of("trainer.loss", self.loss, ("full", "sampled", "gbce", "hierarchical", "cluster"))
        one_of("trainer.row_weights", self.row_weights, ("none", "user", "item"))
        one_of("trainer.index", self.index, ("auto", "flat", "ivf", "hnsw", "ivf_pq"))
        above("trainer.temperature", self.temperature, 0)
        share("trainer.calibration", self.calibration, one=True)
        for name in ("uniform_negatives", "in_batch_negatives", "hard_negatives"):
            at_least(f"trainer.{name}", getattr(self, name), 0)
        one_of("trainer.debias", self.debias, ("none", "age"))
        if self.debias != "none" and self.loss in ("hierarchical", "cluster"):
            raise ConfigError(
                f"trainer.debias={self.debias}: trainer.loss={self.loss} has no logit of an item; use none."
            )
        at_least("trainer.clusters", self.clusters, 2)
        if self.loss == "sampled" and not self.uniform_negatives + self.in_batch_negatives + self.hard_negatives:
            raise ConfigError("trainer.loss=sampled: all kinds of negatives are 0; set trainer.uniform_negatives=256.")
        if self.loss == "gbce" and (self.uniform_negatives < 1 or self.in_batch_negatives or self.hard_negatives):
            raise ConfigError(
                "trainer.loss=gbce: its negatives are uniform; set trainer.uniform_negatives=256"
                " trainer.in_batch_negatives=0 trainer.hard_negatives=0."
            )


@dataclass
class RankingTrainerConfig(LoopFields):
    """Training of a ranker on impressions: the log loss of every task."""

    family: ClassVar[str] = "impressions"

    kind: str = "ranking"
    # impressions in one optimiser step
    batch_size: int = 512
    max_steps: int = 400
    warmup_steps: int = 30
    eval_every: int = 50
    checkpoint_every: int = 200
    lr: float = 3e-3
    weight_decay: float = 0.0
    beta2: float = 0.999
    compile: bool = False
    # which validation says what is best: ne (normalised entropy) or auc, each the mean over the binary tasks; where
    # there are none it is the loss
    best_by: str = "ne"
    # rows of a user that stay side by side in batches, so that there are fewer users in one; null is 16, or a 32nd of a
    # smaller batch, where the model multiplies once what a user's rows share (model.interaction=concat, norm=none and
    # user=id_table, data with columns of users, a CPU and no trainer.compile), else 1
    rows_per_user: int | None = None
    # weights of what may be added to the log loss of every binary task: the squared gap between predicted and observed
    # of ten buckets of the prediction, of each cohort, and the cross-entropy within each request (RCR, Bai et al. 2023;
    # batches then hold whole requests)
    bucket_weight: float = 0.0
    cohort_weight: float = 0.0
    listwise_weight: float = 0.0

    def validate(self) -> None:
        super().validate()
        one_of("trainer.best_by", self.best_by, ("ne", "auc"))
        for name in ("bucket_weight", "cohort_weight", "listwise_weight"):
            at_least(f"trainer.{name}", getattr(self, name), 0)
        at_least("trainer.rows_per_user", self.rows_per_user, 1)
        if (self.rows_per_user or 1) > self.batch_size:
            raise ConfigError(f"trainer.rows_per_user={self.rows_per_user}: a batch has {self.batch_size} rows.")
        if self.listwise_weight and (self.rows_per_user or 1) > 1:
            raise ConfigError("trainer.listwise_weight takes whole requests: leave trainer.rows_per_user at 1 or null.")

    def check_data(self, data: Any) -> None:
        """Raise a ConfigError where the data has not what is to be weighed. data: a config of impressions."""
        if (self.rows_per_user or 1) > 1 and getattr(data, "user_column", "") is None:
            raise ConfigError("trainer.rows_per_user: the data names no column of users; set data.user_column.")
        if self.cohort_weight and getattr(data, "cohorts", None) == []:
            raise ConfigError("trainer.cohort_weight: the data names no cohort columns; set data.cohorts.")


@dataclass
class ValueTrainerConfig:
    """Weights of a value model from the importance that each task is to have."""

    family: ClassVar[str] = "impressions"

    kind: str = "value"
    # how importance is measured: loo (what the order loses without the task, as NDCG) or regret (a task twice as
    # important has half the regret, 1 - NDCG of the order judged by that task)
    measure: str = "loo"
    # the sum of absolute gaps between asked and reached shares at which the search ends
    tolerance: float = 0.01
    # rounds of multiplicative updates
    max_steps: int = 200

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        one_of("trainer.measure", self.measure, ("loo", "regret"))
        above("trainer.tolerance", self.tolerance, 0)
        at_least("trainer.max_steps", self.max_steps, 1)


@dataclass
class FitTrainerConfig:
    """Models that are computed from counts in one go."""

    family: ClassVar[str] = "interactions"

    kind: str = "fit"

    def validate(self) -> None:
        """Nothing to choose, nothing to refuse."""


@dataclass
class AdsTrainerConfig(LoopFields):
    """Learning where to place ads from a log of decisions: the outcomes of every action, or a policy as it is."""

    family: ClassVar[str] = "ads"

    kind: str = "ads"
    # how outcomes are learnt, by all methods but reinforce: direct (from the sessions in which the action was taken),
    # ipw (each weighing 1 / its propensity) or dr (every action of every session, from doubly robust outcomes)
    learning: str = "dr"
    # parts of the log: what doubly robust outcomes need of a part is learnt from the others
    folds: int = 2
    # of reinforce: what is taken from the reward: none, mean, or value (what is expected of the session, learnt)
    baseline: str = "value"
    # of reinforce: whether a session weighs pi / its propensity, so that the log may be another policy's
    importance_weights: bool = True
    # the largest such weight; 0 is none
    max_weight: float = 20.0
    # added to every reward that is learnt from: the best policy stays the same, and so should what is learnt
    reward_shift: float = 0.0

    def validate(self) -> None:
        super().validate()
        one_of("trainer.learning", self.learning, ("direct", "ipw", "dr"))
        one_of("trainer.baseline", self.baseline, ("none", "mean", "value"))
        at_least("trainer.folds", self.folds, 2)
        at_least("trainer.max_weight", self.max_weight, 0)
        if not math.isfinite(self.reward_shift):
            raise ConfigError(f"trainer.reward_shift={self.reward_shift}: it must be a number.")
