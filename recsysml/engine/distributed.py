"""Several processes as one: started by torchrun, a plain single process otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class World:
    """The processes of this run. Only the main one writes files."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        return self.rank == 0

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """`model` with its gradients averaged over the processes as backward goes; itself when alone."""
        if self.size == 1:
            return model
        ids = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids)

    def no_sync(self, model: nn.Module) -> AbstractContextManager:
        """Leave gradients un-averaged: for every micro-batch of a step but the last."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    def sum(self, value: Tensor) -> Tensor:
        """The sum over the processes, on each of them."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def total(self, count: int) -> int:
        """The sum of a plain number over the processes, between their CPUs: no wait for the device."""
        return count if self.size == 1 else int(self.sum(torch.tensor(count)).item())

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process, so that all of them stop at the same step. No wait for the device."""
        return flag if self.size == 1 else self.total(int(flag)) > 0

    def share(self, value: Any) -> Any:
        """The main process's value, on each process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Each process's value, in the order of their ranks."""
        if self.size == 1:
            return [value]
        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, value)
        return box

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process does what is inside first, then all the others do it."""
        if self.size > 1 and not self.main:
            dist.barrier()
        yield
        if self.size > 1 and self.main:
            dist.barrier()


@contextmanager
def world(device: torch.device) -> Iterator[World]:
    """Join the processes torchrun started: tensors of GPUs by nccl, those of the CPU by gloo; alone without torchrun.

    Left again at the end.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        if ours:
            dist.destroy_process_group()
