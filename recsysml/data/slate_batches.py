"""Logged slates as the tensors a policy takes. Training batch i depends on (seed, i) and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recsysml.data.row_order import RowOrder
from recsysml.data.slates import LoggedSlates


class SlateBatches:
    """Map-style batches of whole slates out of a range of requests, without end."""

    def __init__(
        self,
        log: LoggedSlates,
        rows: tuple[int, int],
        *,
        batch_size: int,
        seed: int,
        tasks: Sequence[str],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """rows: from and to."""
        self.log, self.start = log, rows[0]
        self.order = RowOrder(rows[1] - rows[0], batch_size, seed, rank, world_size)
        self.columns = [list(log.tasks).index(task) for task in tasks]

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        """contexts (B, C), items (B, N, D), pairs (B, N, P), mask (B, N), shown (B,), actions (B, T), rows (B,), and
        the number of the batch (B,)."""
        rows = self.order(i) + self.start
        log = self.log
        more = (log.mask[rows], log.shown[rows], log.actions[rows][:, self.columns], rows, np.full(len(rows), i))
        return (*slates(log, rows), *(torch.from_numpy(array) for array in more))


def slates(log: LoggedSlates, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """rows (B,) -> contexts (B, C), items (B, N, D), pairs (B, N, P)."""
    items = log.items[log.candidates[rows]]
    return torch.from_numpy(log.contexts[rows]), torch.from_numpy(items), torch.from_numpy(log.pairs[rows])


class ShownItems:
    """Every item of a log that was shown and seen, with its place and what was done with it: n in order of time."""

    def __init__(self, log: LoggedSlates, tasks: Sequence[str], places: str = "all") -> None:
        """places: `all` of the slate, where the log has them, or the `top`."""
        columns = [list(log.tasks).index(task) for task in tasks]
        self.log = log
        if places == "all" and log.slate is not None and log.slate_actions is not None:
            seen = ~np.isnan(log.slate_actions).any(axis=2) & (log.slate >= 0)
            self.rows, self.places = np.nonzero(seen)  # (n,) requests and places
            self.columns = log.slate[seen]
            self.actions = log.slate_actions[seen][:, columns]  # (n, T)
            self.n_places = log.slate.shape[1]
        else:
            self.rows, self.places = np.arange(len(log)), np.zeros(len(log), np.int64)
            self.columns, self.actions, self.n_places = log.shown, log.actions[:, columns], 1

    def within(self, rows: tuple[int, int]) -> np.ndarray:
        """(m,) which of them belong to the requests from and to."""
        return np.flatnonzero((self.rows >= rows[0]) & (self.rows < rows[1]))

    def of(self, chosen: np.ndarray) -> tuple[Tensor, ...]:
        """chosen (B,) -> contexts (B, C), items (B, 1, D), pairs (B, 1, P), places (B,), actions (B, T)."""
        rows, columns = self.rows[chosen], self.columns[chosen]
        items = self.log.items[self.log.candidates[rows, columns]][:, None]
        arrays = (self.log.contexts[rows], items, self.log.pairs[rows, columns][:, None], self.places[chosen])
        return tuple(torch.from_numpy(array) for array in (*arrays, self.actions[chosen]))


class ShownBatches:
    """Map-style batches of `ShownItems` out of the chosen ones, without end."""

    def __init__(
        self, shown: ShownItems, chosen: np.ndarray, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.shown, self.chosen = shown, chosen
        self.order = RowOrder(len(chosen), batch_size, seed, rank, world_size)

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        """What `ShownItems.of` gives of batch i."""
        return self.shown.of(self.chosen[self.order(i)])
