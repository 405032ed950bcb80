"""Training batches over users' sequences of items. Batch i depends on (seed, i) and nothing else."""

from __future__ import annotations

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from recsysml.data.epochs import Epochs
from recsysml.errors import DataError

IGNORE = -100


class SequenceBatches:
    """Map-style batches of windows over sequences, without end; every item is to be told from those before it.

    A sequence is the start token and then the user's items. An epoch cuts each into as few windows of `length` targets
    as hold it, from a random offset on, so that each event is a target exactly once, and visits all windows in random
    order. The windows of all epochs form one sequence of their own, and batch i is its i-th run of `batch_size`.

    With `world_size` processes each takes rows `rank::world_size` of the same global batch.
    """

    def __init__(
        self,
        offsets: np.ndarray,
        items: np.ndarray,
        users: np.ndarray,
        *,
        times: np.ndarray | None = None,
        n_items: int,
        length: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Row r is user users[r] (R,) with `items` (N,) from offsets[r] to offsets[r + 1] (R + 1,), oldest first.

        times (N,): when each item was turned to; with them a batch says when its targets were. n_items is the start
        token and the padding. DataError where there is no event at all.
        """
        assert batch_size % world_size == 0, "a batch must divide among the processes"
        if not len(items):
            raise DataError("the training split has no events: choose another split or more data")
        self.offsets, self.items, self.users = offsets, items, users
        # every row behind a start token, and enough of those at the end for the last window: a window is one copy
        tokens = np.concatenate([np.insert(items, offsets[:-1], n_items), np.full(length, n_items)]).astype(np.int64)
        self.tokens = sliding_window_view(tokens, length)  # (N + R + 1, T) without a copy
        self.times = None
        if times is not None:
            self.times = sliding_window_view(np.pad(times.astype(np.float32), (0, length)), length)  # (N + 1, T)
        self.n_items, self.length = n_items, length
        # row n: which places are behind n targets; looked up, since comparing takes ten times as long
        self.padded = np.arange(length) >= np.arange(length + 1)[:, None]  # (T + 1, T)
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.events = np.diff(offsets)  # (R,) of each row
        self.windows = -(-self.events // length)  # (R,)
        self.window_rows = np.repeat(np.arange(len(users)), self.windows)  # (W,)
        firsts = np.cumsum(self.windows) - self.windows
        self.window_numbers = np.arange(len(self.window_rows)) - firsts[self.window_rows]  # (W,) within the row
        self.slack = self.windows * length - self.events  # (R,) places of a row's windows that hold no target
        self._epochs = Epochs(self._epoch)

    @property
    def batches_per_epoch(self) -> int:
        """Batches after which every event of the first epoch was a target (the last may hold some of the next)."""
        return -(-len(self.window_rows) // self.batch_size)

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        """Inputs (b, T) and targets (b, T) int64, users (b,), and with times those of the targets (b, T) float32;
        b = batch_size / world_size.

        A window's places behind its last target hold the padding as input and -100 as target; their time says nothing.
        """
        samples = np.arange(i * self.batch_size, (i + 1) * self.batch_size)[self.rank :: self.world_size]
        epochs, positions = np.divmod(samples, len(self.window_rows))
        rows, begins = np.empty(len(samples), np.int64), np.empty(len(samples), np.int64)
        for epoch in range(epochs[0], epochs[-1] + 1):
            order, shift = self._epochs[int(epoch)]
            own = epochs == epoch
            windows = order[positions[own]]
            rows[own] = self.window_rows[windows]
            begins[own] = self.window_numbers[windows] * self.length - shift[rows[own]]
        ends = np.minimum(begins + self.length, self.events[rows])
        begins = np.maximum(begins, 0)  # a row's first window is the shorter for the offset
        at = self.offsets[rows] + begins
        padded = self.padded.take(ends - begins, axis=0)  # (b, T)
        # the start tokens of the rows before stand in between; two copies, each masked where it lies
        inputs, targets = self.tokens[at + rows], self.tokens[at + rows + 1]  # (b, T)
        np.copyto(inputs, self.n_items, where=padded)
        np.copyto(targets, IGNORE, where=padded)
        found = [inputs, targets, self.users[rows]] + ([] if self.times is None else [self.times[at]])
        return tuple(torch.from_numpy(array) for array in found)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """An epoch's order of windows (W,), and how far each row's windows are moved back (R,)."""
        random = np.random.default_rng([self.seed, epoch])
        return random.permutation(len(self.window_rows)), random.integers(self.slack + 1)
