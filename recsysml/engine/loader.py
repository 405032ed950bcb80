"""Batches read ahead of the step that needs them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

Batch = tuple[Tensor, ...]


class Batches(Protocol):
    """Where batches come from: `batches[i]` depends on i alone, so a position is one number and nothing is missed."""

    def __getitem__(self, i: int) -> Batch: ...


def default_workers(device: torch.device) -> int:
    """2 beside a GPU, whose step leaves the CPU idle; none on a CPU, where they take cores from the step."""
    return 2 if device.type == "cuda" else 0


def iterate(batches: Batches, start: int, stop: int, device: torch.device, workers: int | None) -> Iterator[Batch]:
    """Batches `start` .. `stop - 1`, in order, on `device`.

    With workers they are read by background processes, four ahead each; for a GPU they pass through pinned memory and
    are copied while the device still works on the step before. Draws nothing from the global generators.
    """
    count = default_workers(device) if workers is None else workers
    pin = device.type == "cuda"
    loader: DataLoader[Any] = DataLoader(
        batches,  # type: ignore[arg-type]
        batch_size=None,  # a batch comes whole from the source
        sampler=range(start, stop),
        num_workers=count,
        pin_memory=pin,
        prefetch_factor=4 if count else None,
        worker_init_fn=_ignore_interrupts if count else None,
        generator=torch.Generator(),  # else the loader takes its workers' seed from the global generator
    )
    for batch in loader:
        yield tuple(tensor.to(device, non_blocking=pin) for tensor in batch)


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C, and a scheduler's SIGTERM, reach every process of the group; only the loop decides what they mean."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
