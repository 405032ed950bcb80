"""How a training begins, whatever is trained: the machine set up as the config asks, the processes joined."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from recsysml.engine import device, distributed
from recsysml.engine.device import Machine
from recsysml.engine.distributed import World
from recsysml.errors import ConfigError
from recsysml.schemas.run import RunConfig


@contextmanager
def training(config: RunConfig) -> Iterator[tuple[Machine, World]]:
    """The machine and the processes of a run whose trainer goes through the loop; left again at the end.

    Raises ConfigError where the batch does not divide among micro-batches and processes.
    """
    settings = config.trainer
    machine = device.prepare(
        device.resolve_device(config.device),
        device.resolve_precision(settings.precision, device.resolve_device(config.device)),
        threads=config.threads,
        deterministic=settings.deterministic,
        keep_memory=settings.keep_memory,
    )
    with distributed.world(machine.device) as world:
        if settings.batch_size % (settings.grad_accum * world.size):
            raise ConfigError(
                f"trainer.batch_size={settings.batch_size}: it must be a multiple of trainer.grad_accum x processes "
                f"({settings.grad_accum} x {world.size})"
            )
        yield machine, world
