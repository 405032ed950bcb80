"""Batches read ahead of the step that needs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

Batch = tuple[Tensor, ...]

# batches each worker is ahead of the step
AHEAD = 4


class Batches(Protocol):
    """Where batches come from: `batches[i]` depends on i alone, so a position is one number and nothing is missed.

    Workers call it from several threads at once.
    """

    def __getitem__(self, i: int) -> Batch: ...


def default_workers(device: torch.device) -> int:
    """2 beside a GPU, whose step leaves the CPU idle; none on a CPU, where they take cores from the step."""
    return 2 if device.type == "cuda" else 0


def iterate(batches: Batches, start: int, stop: int, device: torch.device, workers: int | None) -> Generator[Batch]:
    """Batches `start` .. `stop - 1`, in order, on `device`.

    With workers they are read by background threads, four ahead each; for a GPU they lie in pinned memory, so that the
    copy is queued behind the step before without the host waiting for either. Threads and not processes: a batch is
    cut from arrays outside the interpreter's lock, and handing one over costs nothing, where a process copies it
    through shared memory. Draws nothing from the global generators; an error in a worker is raised at its batch's turn.
    """
    count = default_workers(device) if workers is None else workers
    pin = device.type == "cuda"

    def read(i: int) -> Batch:
        batch = batches[i]
        return tuple(tensor.pin_memory() for tensor in batch) if pin else batch

    def moved(batch: Batch) -> Batch:
        return tuple(tensor.to(device, non_blocking=pin) for tensor in batch)

    if not count:
        for i in range(start, stop):
            yield moved(read(i))
        return
    # the current device is a thread's own: without it pinning would open a context on the first GPU
    start_thread = partial(torch.cuda.set_device, device) if pin else None
    pool = ThreadPoolExecutor(count, thread_name_prefix="batches", initializer=start_thread)
    waiting: deque[Future[Batch]] = deque()
    try:
        for i in range(start, stop):
            while len(waiting) < count * AHEAD and i + len(waiting) < stop:
                waiting.append(pool.submit(read, i + len(waiting)))
            yield moved(waiting.popleft().result())
    finally:  # also when the loop ends early
        pool.shutdown(cancel_futures=True)
