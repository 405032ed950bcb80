"""How a training begins, whatever is trained: the machine set up as the config asks, the processes joined."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from recsysml.engine import device, distributed
from recsysml.engine.device import Machine
from recsysml.engine.distributed import World
from recsysml.schemas.run import RunConfig


@contextmanager
def training(config: RunConfig) -> Iterator[tuple[Machine, World]]:
    """The machine and the processes of a run whose trainer goes through the loop; left again at the end."""
    settings = config.trainer
    machine = device.prepare(
        device.resolve_device(config.device),
        device.resolve_precision(settings.precision, device.resolve_device(config.device)),
        threads=config.threads,
        deterministic=settings.deterministic,
        keep_memory=settings.keep_memory,
    )
    with distributed.world(machine.device) as world:
        yield machine, world
