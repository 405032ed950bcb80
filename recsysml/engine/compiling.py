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
from recsysml.engine.loader import Batch

logger = logging.getLogger("recsysml")


def compile_loss(
    function: Callable[..., Any], model: nn.Module, example: Batch, machine: Machine
) -> Callable[..., Any]:
    """`function(*batch) -> (loss, values)` compiled for batches shaped like `example`; itself if that fails.

    One forward and backward pass on `example` pays for the compilation here, outside every measurement; random states
    and gradients are left as they were. `dynamic=False`: with dynamic shapes a second batch shape compiles the first
    one anew, with other roundings, and a resumed run would no longer repeat an uninterrupted one.
    """
    torch.compiler.reset()  # the jobs of a sweep share a process: after eight of them torch would stop compiling
    compiled = torch.compile(function, dynamic=False)
    before = seeds.state()
    started = time.perf_counter()
    try:
        with machine.autocast():
            loss, _ = compiled(*example)
        loss.backward()
        machine.synchronize()
    except Exception as error:  # any stage of the compiler may fail: no C++ compiler, an unsupported operation, ...
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        logger.warning("torch.compile does not work here, going on without: %s: %s", type(error).__name__, reason)
        return function
    finally:
        model.zero_grad(set_to_none=True)
        seeds.restore(before)
    logger.info("compiled in %.1f s", time.perf_counter() - started)
    return compiled
