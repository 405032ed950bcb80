"""What a retriever is told of its users: what each has turned to so far, in time order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class Histories:
    """Rows of events, one after the other: row r owns `offsets[r]` to `offsets[r + 1]` of `items` and `times`."""

    users: np.ndarray  # (R,) int64 user indices; -1 is a user the model has never met
    offsets: np.ndarray  # (R + 1,) int64, from 0
    items: np.ndarray  # (N,) int64 item indices, oldest first within a row
    times: np.ndarray  # (N,) float64 seconds

    @staticmethod
    def of_events(users: np.ndarray, items: np.ndarray, times: np.ndarray, rows: np.ndarray) -> Histories:
        """The events (N,) of `rows` (R,) distinct user indices, in the order they come in; a user may have none."""
        n_users = int(max(users.max(initial=-1), rows.max(initial=-1))) + 1
        place = np.full(n_users, -1)
        place[rows] = np.arange(len(rows))
        owner = place[users]  # (N,) the row of each event
        kept = np.flatnonzero(owner >= 0)
        order = kept[np.argsort(owner[kept], kind="stable")]
        counts = np.bincount(owner[kept], minlength=len(rows))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Histories(np.asarray(rows, np.int64), offsets, items[order], times[order])

    def __len__(self) -> int:
        return len(self.users)

    @property
    def lengths(self) -> np.ndarray:
        """(R,) events of each row."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> np.ndarray:
        """(N,) the row of each event."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def part(self, start: int, stop: int) -> Histories:
        """Rows start .. stop - 1."""
        offsets = self.offsets[start : stop + 1]
        events = slice(offsets[0], offsets[-1])
        return Histories(self.users[start:stop], offsets - offsets[0], self.items[events], self.times[events])

    def last(self, n: int, padding: int) -> np.ndarray:
        """(R, n) int64: each row's last n items at most, oldest first from the left, then `padding`."""
        kept = np.minimum(self.lengths, n)[:, None]  # (R, 1)
        columns = np.arange(n)
        places = np.minimum(self.offsets[1:, None] - kept + columns, max(0, len(self.items) - 1))
        if not len(self.items):
            return np.full((len(self), n), padding, np.int64)
        return np.where(columns < kept, self.items[places], padding).astype(np.int64)

    def matrix(self, n_items: int, weights: np.ndarray | None = None) -> sparse.csr_array:
        """(R, n_items) float32 sums of the events' weights (N,), 1 each unless given."""
        values = np.ones(len(self.items), np.float32) if weights is None else weights.astype(np.float32)
        parts = (values, self.items, self.offsets)
        found = sparse.csr_array(parts, shape=(len(self), n_items), copy=True)  # summing changes them in place
        found.sum_duplicates()
        return found
