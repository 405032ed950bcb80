"""Impressions as the tensors a ranker takes. Training batch i depends on (seed, i) and nothing else."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recsysml.data.impression_data import ImpressionTable
from recsysml.data.row_order import RowOrder
from recsysml.errors import DataError


class ImpressionBatches:
    """Map-style batches of `batch_size` rows of a range, without end, in the order of `RowOrder`."""

    def __init__(
        self,
        table: ImpressionTable,
        rows: tuple[int, int],
        *,
        context_length: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        by_request: bool = False,
        rows_per_user: int = 1,
    ) -> None:
        """rows: from and to. by_request: the order is one of requests, whose rows stay side by side. rows_per_user: so
        many rows of a user do.

        Raises DataError where there are no rows.
        """
        if rows[0] == rows[1]:
            raise DataError(f"{table.name}: there is no impression to learn from")
        self.inputs = ImpressionInputs(table, context_length)
        self.start = rows[0]
        whose = None
        if by_request:
            whose = table.requests
        elif rows_per_user > 1:
            whose = table.cohort(str(table.shape.user))
        groups = None if whose is None else np.unique(whose[rows[0] : rows[1]], return_inverse=True)[1]
        run = None if by_request else rows_per_user
        self.order = RowOrder(rows[1] - rows[0], batch_size, seed, rank, world_size, groups, run)

    def rows(self, i: int) -> np.ndarray:
        """(b,) rows of the table in batch i, for this process; b = batch_size / world_size."""
        return self.order(i) + self.start

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        """What `ImpressionInputs.of` gives for the rows of batch i."""
        return self.inputs.of(self.rows(i))


class BesideHeldOut:
    """Batches to learn from, and behind each one's tensors those of a batch of rows that are held out."""

    def __init__(self, learnt: ImpressionBatches, held_out: ImpressionBatches) -> None:
        self.learnt, self.held_out = learnt, held_out

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        return (*self.learnt[i], *self.held_out[i])


class ImpressionInputs:
    """Rows of a table as the tensors that a ranker takes."""

    def __init__(self, table: ImpressionTable, context_length: int) -> None:
        self.table = table
        self.context_length = context_length if table.shape.history else 0
        self.bag_width = max((bag.longest for bag in table.bags), default=0)

    def of(self, rows: np.ndarray) -> tuple[Tensor, ...]:
        """rows (B,) ->

        dense (B, F), vectors (B, E, D), sparse (B, S), bags (B, G, W) and history (B, H, Q) with -1 where there is
        nothing, positions (B,), requests (B,), labels (B, T).
        """
        table = self.table
        bags = [bag.last(rows, self.bag_width)[..., 0] for bag in table.bags]  # (B, W) each
        arrays = (
            table.dense.take(rows, axis=0),
            table.vectors[table.vector_rows[rows]],
            table.sparse.take(rows, axis=0),
            np.stack(bags, axis=1) if bags else np.zeros((len(rows), 0, 0), np.int64),
            table.history.last(rows, self.context_length),
            table.positions[rows],
            table.requests[rows],
            table.labels.take(rows, axis=0),
        )
        return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
