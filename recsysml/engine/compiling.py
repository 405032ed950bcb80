"""torch.compile, tried once before the clock starts, given up with its reason where it cannot work."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from recsysml.engine import seeds
from recsysml.engine.device import Machine
from recsysml.engine.distributed import World
from recsysml.engine.loader import Batch

logger = logging.getLogger("recsysml")


def compile_loss(
    function: Callable[..., Any], forward: nn.Module, example: Batch, machine: Machine, world: World
) -> Callable[..., Any]:
    """`function(*batch) -> (loss, values)` compiled for batches shaped like `example`; itself if that fails.

    forward: the model inside, as `world` wrapped it. Every process calls this, and where it fails in one of them all go
    on without: gradients are not averaged here, so that none waits for a process that has given up.

    One forward and backward pass on `example` pays for the compilation here, outside every measurement; random states
    and gradients are left as they were. `dynamic=False`: with dynamic shapes a second batch shape compiles the first
    one anew, with other roundings, and a resumed run would no longer repeat an uninterrupted one.
    """
    torch.compiler.reset()  # the jobs of a sweep share a process: after eight of them torch would stop compiling
    compiled = torch.compile(function, dynamic=False)
    before = seeds.state()
    started = time.perf_counter()
    failure = None
    try:
        with machine.autocast(), world.no_sync(forward):
            loss, _ = compiled(*example)
        loss.backward()
        machine.synchronize()
    except Exception as error:  # any stage of the compiler may fail: no C++ compiler, an unsupported operation, ...
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        failure = f"{type(error).__name__}: {reason}"
    finally:
        forward.zero_grad(set_to_none=True)
        seeds.restore(before)
    failures = [each for each in world.gather(failure) if each is not None]
    if failures:
        logger.warning("torch.compile does not work here, going on without: %s", failures[0])
        return function
    logger.info("compiled in %.1f s", time.perf_counter() - started)
    return compiled
