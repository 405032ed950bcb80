"""User-item events as a retriever's trainer, its evals and its baselines take them, and how they are split."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from recsysml.data.features import Features
from recsysml.data.ties import warn_of_ties
from recsysml.errors import DataError

log = logging.getLogger("recsysml")

SPLITS = ("time", "last_out")
FIT_RANGES = ("train", "train_val")
# fewer than this, and `last_out` leaves a user's events to training
ENOUGH = 3


class SplitSettings(Protocol):
    """The fields of a config that say how events are divided."""

    name: str
    split: str
    fit_range: str


@dataclass(frozen=True)
class InteractionSplit:
    """Events in time order, those of equal time in the order of their source."""

    users: np.ndarray  # (N,) int64, indices into user_ids
    items: np.ndarray  # (N,) int64, indices into item_ids
    times: np.ndarray  # (N,) float64, seconds, ascending

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class Sequences:
    """Events user by user: row u owns `offsets[u]` to `offsets[u + 1]` of `items` and `times`, oldest first."""

    offsets: np.ndarray  # (U + 1,) int64, from 0; every user of the data has a row, if an empty one
    items: np.ndarray  # (N,) int64
    times: np.ndarray  # (N,) float64


@dataclass(frozen=True)
class Interactions:
    """A data set of events. Users and items are contiguous integers; `user_ids` and `item_ids` are their names."""

    name: str
    fingerprint: str  # sha256 of the source and of how it was read and split
    user_ids: list[str]  # U
    item_ids: list[str]  # I, the catalogue: every one is a candidate
    splits: dict[str, InteractionSplit]  # train, val, test
    user_features: Features  # U rows
    item_features: Features  # I rows
    item_titles: list[str] | None = None  # I
    friends: np.ndarray | None = None  # (E, 2) int64 undirected edges between users, each once, the smaller first
    split: str = "time"  # which of SPLITS
    fit_range: str = "train"  # which of FIT_RANGES: what a model may learn from
    timed: bool = True  # False: the source has only an order, and `times` are places within a user's sequence

    @property
    def sizes(self) -> dict[str, int]:
        """Events of each split."""
        return {name: len(split.users) for name, split in self.splits.items()}

    @cached_property
    def fitted(self) -> InteractionSplit:
        """The events a model may learn from: train, or with fit_range=train_val train and then val.

        With train_val what is measured on val was learnt from: choose settings on a run with fit_range=train.
        """
        return self.splits["train"] if self.fit_range == "train" else self.joined("train", "val")

    def joined(self, *names: str) -> InteractionSplit:
        """The events of several splits in time order; of each user they stay in the order of the source."""
        parts = [self.splits[name] for name in names]
        users, items, times = (
            np.concatenate([getattr(part, field) for part in parts]) for field in ("users", "items", "times")
        )
        order = np.argsort(times, kind="stable")
        return InteractionSplit(users[order], items[order], times[order])

    def sequences(self, *names: str) -> Sequences:
        """The events of these splits, one or more, user by user."""
        return by_user(self.joined(*names), len(self.user_ids))


def warn_of_split(data: Interactions) -> None:
    """Say what learning from a split by each user's last event means, or where one by time cuts through one moment; who
    only serves need not be told."""
    if data.split == "time":
        times = np.concatenate([part.times for part in data.splits.values()])
        train, val, test = (len(part) for part in data.splits.values())
        splits = {"val": (train, train + val), "test": (train + val, train + val + test)}
        warn_of_ties(data.name, times, splits, "events")
    else:
        log.warning(
            "%s: data.split=last_out leaks across users: what others do after a user's last event is trained on. "
            "Use it to compare with published numbers%s",
            data.name,
            "; data.split=time is the honest one" if data.timed else " (without times there is no other)",
        )


def by_user(split: InteractionSplit, n_users: int) -> Sequences:
    """Events in time order, grouped."""
    order = np.argsort(split.users, kind="stable")
    offsets = np.zeros(n_users + 1, np.int64)
    np.cumsum(np.bincount(split.users, minlength=n_users), out=offsets[1:])
    return Sequences(offsets, split.items[order], split.times[order])


def divide(
    config: SplitSettings, users: np.ndarray, items: np.ndarray, times: np.ndarray
) -> dict[str, InteractionSplit]:
    """Events (N,), in any order, as train, val and test. Raises DataError naming a split that would be empty.

    `time`: the first 80% of all events train, the next 10% val, the last 10% test. `last_out`: each user's last event
    test, the one before val, the rest train; users with fewer than three events only train. Sorting is stable: events
    of equal time keep the order of the source.
    """
    order = np.argsort(times, kind="stable")
    users, items, times = users[order].astype(np.int64), items[order].astype(np.int64), times[order].astype(np.float64)
    part = _by_time(len(users)) if config.split == "time" else _last_out(users)
    splits = {
        name: InteractionSplit(users[part == i], items[part == i], times[part == i])
        for i, name in enumerate(("train", "val", "test"))
    }
    for name, split in splits.items():
        if not len(split):
            why = f"{len(users)} events are too few" if config.split == "time" else f"no user has {ENOUGH} events"
            raise DataError(f"{config.name}: data.split={config.split} leaves {name} empty: {why}")
    return splits


def _by_time(n: int) -> np.ndarray:
    """(n,) 0 train, 1 val, 2 test."""
    part = np.zeros(n, dtype=np.int64)
    part[n * 8 // 10 :] = 1
    part[n * 9 // 10 :] = 2
    return part


def _last_out(users: np.ndarray) -> np.ndarray:
    """(N,) 0 train, 1 val, 2 test, for users in time order."""
    order = np.argsort(users, kind="stable")
    counts = np.bincount(users)
    ends = np.cumsum(counts)[counts >= ENOUGH]  # one past each user's last event
    part = np.zeros(len(users), dtype=np.int64)
    part[order[ends - 1]] = 2
    part[order[ends - 2]] = 1
    return part
