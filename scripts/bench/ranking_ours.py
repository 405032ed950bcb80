"""`recsysml train` on KuaiRand, served block by block; after each matrix products alone, in the same process.

    python ranking_ours.py BLOCK PRECISION [key=value ...]

PRECISION: fp32 or bf16, of the run and of the products. What is timed is the training loop as it is: batches, schedule,
clipping, optimiser, log. It stands still where a batch is asked for until the next block is wanted. Beside its times it
returns the processor time of two roofs in turn: the products that a step forms, with what is known of a user once for
each user of a batch, and those of all rows written out, as every peer forms them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsysml.cli import main as recsysml
from recsysml.data.impression_batches import ImpressionBatches
from recsysml.engine.device import Machine
from recsysml.trainers import ranking

# what all are compared on
MMOE = ["model=mtml", "data=kuairand", "model.history=none", "model.interaction=concat"]
N_EXPERTS, FIRST, SECOND, TOWER, WIDTH = 4, 256, 128, 64, 16


Product = tuple[Tensor, Tensor, Tensor]  # left, right, out


def products(batch: int, inputs: int, n_tasks: int, dtype: torch.dtype) -> list[Product]:
    """Every matrix product of a step of MMoE: forward and both gradients of each layer."""
    return [*_first(batch, inputs, inputs, n_tasks, dtype), *_after(batch, n_tasks, dtype)]


def products_formed(batch: int, users: int, table: Any, n_tasks: int, dtype: torch.dtype) -> list[Product]:
    """The same with the columns of users once for each of `users`, and without gradients of what is given."""
    shape = table.shape
    learnt = WIDTH * (len(shape.sparse) - shape.of_user + 1)
    found = _first(users, WIDTH * shape.of_user, WIDTH * shape.of_user, n_tasks, dtype)
    return [*found, *_first(batch, learnt + len(shape.dense), learnt, n_tasks, dtype), *_after(batch, n_tasks, dtype)]


def _first(rows: int, inputs: int, learnt: int, n_tasks: int, dtype: torch.dtype) -> list[Product]:
    """Of the experts' first layer and the gates, which read the same; learnt: how many inputs have a gradient."""
    sizes = (N_EXPERTS * FIRST, n_tasks * N_EXPERTS)
    return [product for after in sizes for product in _layer(rows, inputs, after, dtype, learnt)]


def _after(batch: int, n_tasks: int, dtype: torch.dtype) -> list[Product]:
    layers = [*[(FIRST, SECOND)] * N_EXPERTS, *[(SECOND, TOWER), (TOWER, 1)] * n_tasks]
    return [product for layer in layers for product in _layer(batch, *layer, dtype)]


def _layer(rows: int, before: int, after: int, dtype: torch.dtype, learnt: int | None = None) -> list[Product]:
    sizes = ((rows, before), (after, before), (rows, after))
    x, weight, gradient = (torch.randn(size).to(dtype) for size in sizes)
    pairs = [(x, weight.t()), (gradient, weight[:, :learnt]), (gradient.t(), x)]
    return [(left, right, left @ right) for left, right in pairs]


class Paced(ImpressionBatches):
    """Batches that are given out in blocks, as `duel.py` asks for them."""

    block, dtype = 10, torch.float32
    answers: Any = None

    def __init__(self, table: Any, *more: Any, **settings: Any) -> None:
        super().__init__(table, *more, **settings)
        shape, size = table.shape, settings["batch_size"]
        inputs = WIDTH * (len(shape.sparse) + 1) + len(shape.dense)
        self.roofs_of = [products(size, inputs, 3, self.dtype)] * 2
        if settings["rows_per_user"] > 1:
            users = round(np.mean([len(np.unique(table.cohort(shape.user)[self.rows(i)])) for i in range(20)]))
            self.roofs_of[0] = products_formed(size, users, table, 3, self.dtype)
        self.wanted, self.seconds, self.cpu_seconds, self.roofs = 0, [], [], []
        self.started: tuple[float, float] | None = None

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        if i % self.block == 0:
            self._turn()
        return super().__getitem__(i)

    def _turn(self) -> None:
        if self.started is not None:
            self.seconds.append(time.perf_counter() - self.started[0])
            self.cpu_seconds.append(time.process_time() - self.started[1])
            for work in self.roofs_of:
                began = time.process_time()
                for _ in range(self.block):
                    for left, right, out in work:
                        torch.mm(left, right, out=out)
                self.roofs.append(time.process_time() - began)
        if self.started is None or len(self.seconds) == self.wanted:
            if self.started is not None:
                self.answers.write(json.dumps([self.seconds, self.cpu_seconds, self.roofs]) + "\n")
                self.answers.flush()
            self.seconds, self.cpu_seconds, self.roofs = [], [], []
            line = sys.stdin.readline()
            if not line:
                os._exit(0)  # the run was only to be timed
            self.wanted = int(line)
        self.started = time.perf_counter(), time.process_time()


def main() -> None:
    Paced.block, precision, Paced.answers = int(sys.argv[1]), sys.argv[2], sys.stdout
    Paced.dtype = Machine(torch.device("cpu"), precision).dtype
    sys.stdout = sys.stderr
    ranking.ImpressionBatches = Paced  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        recsysml(
            ["train", *MMOE, f"outputs={folder}", "trainer.max_steps=1000000", "trainer.eval_every=0",
             "trainer.checkpoint_every=0", "tracker.mode=disabled", "progress=never",
             f"trainer.precision={precision}", *sys.argv[3:]]
        )  # fmt: skip


if __name__ == "__main__":
    main()
