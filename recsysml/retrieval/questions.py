"""Interactions turned into what a retriever learns from and what it is asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsysml.data.interaction_data import Interactions, InteractionSplit
from recsysml.errors import DataError
from recsysml.models.histories import Histories

# which splits lie before one, and may be known when it is asked about
BEFORE = {"train": (), "val": ("train",), "test": ("train", "val")}


@dataclass(frozen=True)
class Questions:
    """Who is asked about, what was known of them by then, and what they turned to."""

    histories: Histories  # R rows: all their events in the splits before
    offsets: np.ndarray  # (R + 1,) where each row's targets begin
    targets: np.ndarray  # (N,) distinct items of the split, row by row; at least one a row
    left_out: int  # targets that were dropped because the user had turned to them before

    @property
    def rows(self) -> np.ndarray:
        """(N,) the row of each target."""
        return np.repeat(np.arange(len(self.histories)), np.diff(self.offsets))


def training(data: Interactions) -> Histories:
    """The events to learn from (`data.fitted`), a row for every user of the data, also for those without any."""
    split = data.fitted
    return Histories.of_events(split.users, split.items, split.times, np.arange(len(data.user_ids)))


def before(data: Interactions, split: str, users: np.ndarray) -> Histories:
    """What was known of `users` (R,) when `split` begins: their events in the splits before it."""
    parts = [data.splits[name] for name in BEFORE[split]]
    # the splits follow one another in time for each user
    return Histories.of_events(
        np.concatenate([part.users for part in parts]),
        np.concatenate([part.items for part in parts]),
        np.concatenate([part.times for part in parts]),
        users,
    )


def questions(data: Interactions, split: str, *, mask_seen: bool) -> Questions:
    """What `split` (val or test) asks: each of its users once, with all they turned to in it as targets.

    With `mask_seen` what a user has turned to before is no candidate, so it cannot be a target either: such targets
    are left out and counted, and users who have no other. Raises DataError where nothing is left to ask.
    """
    asked: InteractionSplit = data.splits[split]
    n_items = len(data.item_ids)
    pairs = np.unique(asked.users * n_items + asked.items)
    left_out = 0
    if mask_seen:
        known = [data.splits[name] for name in BEFORE[split]]
        seen = np.unique(np.concatenate([part.users * n_items + part.items for part in known]))
        fresh = ~np.isin(pairs, seen, assume_unique=True)
        left_out = int((~fresh).sum())
        pairs = pairs[fresh]
    if not len(pairs):
        raise DataError(
            f"{data.name}: the {split} split has nothing to ask: no user turns to an item that is new to it"
        )
    users, counts = np.unique(pairs // n_items, return_counts=True)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return Questions(before(data, split, users), offsets, pairs % n_items, left_out)
