"""Training batches over rows: of plain columns, or of events with the history before each. Batch i is (seed, i)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from recsysml.data.interaction_data import Sequences
from recsysml.errors import DataError


class RowBatches:
    """Map-style batches of rows, without end, each gathered at once rather than row by row.

    An epoch visits all rows in random order; the rows of all epochs form one sequence, and batch i is its i-th run of
    `batch_size`: no row is dropped or seen twice in an epoch, every batch has the same shape, and going on after n
    batches needs no state but n. With `world_size` processes each takes rows `rank::world_size` of the same batch.
    """

    def __init__(
        self, columns: Sequence[np.ndarray], batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        """`columns` (N, ...) of equal length; memory-mapped ones are read as they are asked for. DataError: no rows."""
        assert batch_size % world_size == 0, "a batch must divide among the processes"
        assert len({len(column) for column in columns}) == 1, "columns of different lengths"
        self.columns = list(columns)
        self.n = len(columns[0])
        if not self.n:
            raise DataError("there are no rows to train on: choose another split or more data")
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size

    @property
    def batches_per_epoch(self) -> int:
        """Batches after which every row of the first epoch has been seen (the last may hold some of the next)."""
        return -(-self.n // self.batch_size)

    def rows(self, i: int) -> np.ndarray:
        """(batch_size / world_size,) int64 rows of batch i, for this process."""
        first, last = i * self.batch_size, (i + 1) * self.batch_size
        parts = [
            _epoch(self.seed, epoch, self.n)[max(first - epoch * self.n, 0) : last - epoch * self.n]
            for epoch in range(first // self.n, (last - 1) // self.n + 1)
        ]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return whole[self.rank :: self.world_size]

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        """Each column's rows of batch i."""
        rows = self.rows(i)
        return tuple(torch.from_numpy(np.take(column, rows, axis=0)) for column in self.columns)


class PairBatches:
    """Batches of events: the user, the item, and the user's `length` items at most before it.

    Order, processes and position are those of `RowBatches` over the events.
    """

    def __init__(
        self,
        sequences: Sequences,
        *,
        length: int,
        padding: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """`padding` stands in a history's unused places: the number of items is no item."""
        lengths = np.diff(sequences.offsets)
        users = np.repeat(np.arange(len(lengths)), lengths)  # (N,)
        places = np.arange(len(users)) - sequences.offsets[:-1][users]  # (N,) of each event in its row
        self.batches = RowBatches(
            [users, sequences.items, np.minimum(places, length)], batch_size, seed, rank, world_size
        )
        self.length, self.padding = length, padding
        # every run of `length` items is a row of this view, so that a history is one copy
        self.runs = np.lib.stride_tricks.sliding_window_view(np.pad(sequences.items, (0, length)), length)
        self.columns = np.arange(length)

    @property
    def batches_per_epoch(self) -> int:
        """As of `RowBatches`."""
        return self.batches.batches_per_epoch

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """Users (b,), items (b,), histories (b, length), all int64: oldest first from the left, then padding."""
        events = self.batches.rows(i)
        users, items, known = (np.take(column, events) for column in self.batches.columns)
        histories = self.runs[events - known]  # (b, length)
        np.copyto(histories, self.padding, where=self.columns >= known[:, None])
        return torch.from_numpy(users), torch.from_numpy(items), torch.from_numpy(histories)


@lru_cache(maxsize=4)  # a batch may reach into the next epoch, and two loaders may be alive
def _epoch(seed: int, epoch: int, rows: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(rows)
