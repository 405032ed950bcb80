"""`recsysml train` on KuaiRand, served block by block; after each its matrix products alone, in the same process.

    python ranking_ours.py BLOCK PRECISION [key=value ...]

PRECISION: fp32 or bf16, of the run and of the products. What is timed is the training loop as it is: batches, schedule,
clipping, optimiser, log. It stands still where a batch is asked for until the next block is wanted. The roof's
processor time is what it returns beside its own times.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from typing import Any

import torch
from torch import Tensor

from recsysml.cli import main as recsysml
from recsysml.data.impression_batches import ImpressionBatches
from recsysml.engine.device import Machine
from recsysml.trainers import ranking

# what all are compared on
MMOE = ["model=mtml", "data=kuairand", "model.history=none", "model.interaction=concat"]
N_EXPERTS, FIRST, SECOND, TOWER, WIDTH = 4, 256, 128, 64, 16


def products(batch: int, inputs: int, n_tasks: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(left, right, out) of every matrix product of a step of MMoE: forward and both gradients of each layer."""
    layers = [(1, inputs, N_EXPERTS * FIRST), (N_EXPERTS, FIRST, SECOND), (1, inputs, n_tasks * N_EXPERTS)]
    layers += [(n_tasks, SECOND, TOWER), (n_tasks, TOWER, 1)]
    found = []
    for count, before, after in layers:
        sizes = ((batch, before), (after, before), (batch, after))
        x, weight, gradient = (torch.randn(size).to(dtype) for size in sizes)
        pairs = [(x, weight.t()), (gradient, weight), (gradient.t(), x)]
        found += count * [(left, right, left @ right) for left, right in pairs]
    return found


class Paced(ImpressionBatches):
    """Batches that are given out in blocks, as `duel.py` asks for them."""

    block, dtype = 10, torch.float32
    answers: Any = None

    def __init__(self, table: Any, *more: Any, **settings: Any) -> None:
        super().__init__(table, *more, **settings)
        shape = table.shape
        inputs = WIDTH * (len(shape.sparse) + 1) + len(shape.dense)
        self.work = products(settings["batch_size"], inputs, 3, self.dtype)
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
            began = time.process_time()
            for _ in range(self.block):
                for left, right, out in self.work:
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
