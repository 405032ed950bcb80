"""Config of data whose rows are logged slates: what could have been shown, what was, and the probability of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from recsysml.errors import ConfigError
from recsysml.schemas.checks import at_least, one_of, parts_of_time


@dataclass
class _SlateFields:
    """What all logs of slates share."""

    families: ClassVar[tuple[str, ...]] = ("slates",)

    # a label of the YAML: the data set's name in results.json
    name: str = "logged_slates"
    # shares of the requests, the newest last
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    # what the final policy learns from: train, or train_val (then nothing may be chosen on val)
    fit_range: str = "train"

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        parts_of_time(self.val_fraction, self.test_fraction, self.fit_range)


@dataclass
class OpenBanditConfig(_SlateFields):
    """Open Bandit Dataset, small version: fashion items in three places of a page, shown by two known policies."""

    # what a policy is paid for, where its model does not say otherwise
    reward_weights: ClassVar[dict[str, float]] = {"click": 1.0}

    kind: str = "open_bandit"
    name: str = "open_bandit"
    # the folder with random/ and bts/
    path: str = "obd"
    # the policy that showed the items: random, or bts (Bernoulli Thompson sampling)
    behaviour: str = "random"
    # men or women
    campaign: str = "men"

    def validate(self) -> None:
        super().validate()
        one_of("data.behaviour", self.behaviour, ("random", "bts"))
        one_of("data.campaign", self.campaign, ("men", "women"))

    def task_types(self) -> dict[str, str]:
        """Label -> binary or real."""
        return {"click": "binary"}


@dataclass
class LoggedSlatesConfig(_SlateFields):
    """Slates from a table of your own with a row a candidate: which columns say what stands in the config."""

    kind: str = "logged_slates"
    # a CSV, TSV or Parquet file, gzipped or not, with a row for each candidate of each request
    path: str | None = None
    # what groups the candidates of one request
    request_column: str = "request_id"
    item_column: str = "item_id"
    # 1 in the row of the item on top, 0 elsewhere
    shown_column: str = "shown"
    # of showing an item on top, in its own row: of what was shown, or of all candidates, which says more of the policy
    # that logged; null: that policy is estimated, and every result says so
    propensity_column: str | None = None
    # seconds, or dates; null: the requests stand in the order of time
    time_column: str | None = None
    user_column: str | None = None
    # numbers known of a candidate in its request
    dense: list[str] = field(default_factory=list)
    # the same, of few values, which become columns of 0 and 1
    categorical: list[str] = field(default_factory=list)
    # column -> binary (0 or 1) or real: what was done with the item on top
    labels: dict[str, str] = field(default_factory=dict)
    # label -> what one is worth; empty: 1 each
    weights: dict[str, float] = field(default_factory=dict)
    # the most values that a categorical column may have
    max_categories: int = 200
    # parts that requests are dealt to, where propensities are estimated: each by a model of the others
    folds: int = 5

    def validate(self) -> None:
        super().validate()
        at_least("data.max_categories", self.max_categories, 2)
        at_least("data.folds", self.folds, 2)
        for name, kind in self.labels.items():
            one_of(f"data.labels.{name}", kind, ("binary", "real"))
        for name, weight in self.weights.items():
            if name not in self.labels:
                raise ConfigError(f"data.weights: {name} is none of data.labels ({', '.join(self.labels) or 'empty'}).")
            if not math.isfinite(weight):
                raise ConfigError(f"data.weights.{name}={weight}: it must be a number.")
        keys = ("request_column", "item_column", "shown_column", "propensity_column", "time_column", "user_column")
        named = [getattr(self, key) for key in keys if getattr(self, key)]
        used = [*named, *self.dense, *self.categorical, *self.labels]
        if twice := [name for name in dict.fromkeys(used) if used.count(name) > 1 and name != self.item_column]:
            raise ConfigError(f"data: the column {twice[0]} is named in two places; a label is never an input.")

    @property
    def reward_weights(self) -> dict[str, float]:
        """Label -> what one is worth."""
        return dict(self.weights) or dict.fromkeys(self.labels, 1.0)

    def task_types(self) -> dict[str, str]:
        """Label -> binary or real."""
        return dict(self.labels)
