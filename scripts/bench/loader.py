"""How long a training step waits for its batch: no reading ahead against two threads.

    python scripts/bench/loader.py [--steps 200] [--step-ms 20]

The tokens lie in a memory-mapped file, as prepared text does. The step itself is a sleep, as a device that works by
itself looks to the loader: what is left over is waiting.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time

import numpy as np
import torch

from recsysml.data.batches import TokenBatches
from recsysml.engine.loader import iterate


def waiting(workers: int, steps: int, step_seconds: float, rows: int = 64, context: int = 1024) -> float:
    """Milliseconds that one step waits for its batch: the median, after the first ten."""
    waits = []
    with tempfile.NamedTemporaryFile() as file:
        (np.arange(50_000_000) % 50_257).astype(np.uint16).tofile(file.name)
        batches = TokenBatches(np.memmap(file.name, dtype=np.uint16, mode="r"), context, rows, seed=1)
        with contextlib.closing(iterate(batches, 0, steps, torch.device("cpu"), workers)) as source:
            for _ in range(steps):
                asked = time.perf_counter()
                next(source)
                waits.append(time.perf_counter() - asked)
                time.sleep(step_seconds)
    return statistics.median(waits[10:]) * 1e3


def measure(steps: int = 100, step_ms: float = 20.0) -> dict[str, float]:
    return {f"{workers} workers": waiting(workers, steps, step_ms / 1e3) for workers in (0, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--step-ms", type=float, default=20.0)
    arguments = parser.parse_args()
    for name, milliseconds in measure(arguments.steps, arguments.step_ms).items():
        print(f"{name}: a step of {arguments.step_ms:g} ms waits {milliseconds:.2f} ms for 64 x 1024 tokens")


if __name__ == "__main__":
    main()
