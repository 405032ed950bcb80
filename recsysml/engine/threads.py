"""How many CPU threads a ranker's steps are to have: measured once on a machine, then kept."""

from __future__ import annotations

import contextlib
import json
import time

import torch

from recsysml.environment import cpu_name, usable_cores
from recsysml.files import cache_dir, make_cache_dir, write_atomic

# all cores must be so much quicker than one, or one is chosen: it leaves the others free and never waits for them
_WORTH = 1.1


def chosen(rows: int, inputs: int, outputs: int) -> int:
    """1, or all cores where they are quicker at a layer of this size, forward and backward.

    Products of a ranker are small, and threads that wait for one another can make them slower, many times on a busy
    machine. The answer is kept in the cache folder: another answer tomorrow would be other roundings of the same run.
    """
    cores = usable_cores()
    if cores == 1:
        return 1
    file = cache_dir() / "threads.json"
    key = f"{cpu_name()}, {cores} cores, torch {torch.__version__}: {rows} x {inputs} x {outputs}"
    known: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(file.read_text())
    if known.get(key) not in (1, cores):
        known[key] = cores if seconds(1, rows, inputs, outputs) > _WORTH * seconds(cores, rows, inputs, outputs) else 1
        with contextlib.suppress(Exception):  # a cache that cannot be written is asked again
            make_cache_dir()
            write_atomic(file, json.dumps(known, indent=1))
    return known[key]


def seconds(threads: int, rows: int, inputs: int, outputs: int, repeats: int = 5) -> float:
    """The quickest of so many turns of a linear layer and a ReLU by so many threads; torch's own are put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x = torch.ones(rows, inputs, requires_grad=True)
        weight = torch.ones(outputs, inputs, requires_grad=True)
        best = float("inf")
        for _ in range(repeats + 1):
            started = time.perf_counter()
            torch.nn.functional.linear(x, weight).relu().sum().backward()
            best = min(best, time.perf_counter() - started)
        return best
    finally:
        torch.set_num_threads(before)
