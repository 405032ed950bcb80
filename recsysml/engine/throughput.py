"""How fast and how near the hardware's limit: honest clocks, peak rates, memory."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from recsysml.engine.device import Machine

# dense bfloat16 with float32 sums, floating-point operations per second, as the makers' data sheets give them;
# the first name found in the device's own name counts
PEAK_BF16 = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 5090": 209.5e12,
    "RTX 5080": 112.6e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
}


class Meter:
    """Counts units of work (tokens) over the seconds spent training them, and nothing else.

    The clock runs between `start` and `pause`, both after the device has finished what was queued. The first `warm_up`
    steps are left out of `total_rate`: a first step pays for allocations and compilation.
    """

    def __init__(self, machine: Machine, warm_up: int = 1) -> None:
        self.machine = machine
        self.steps = 0  # counted ones
        self._warm_up = warm_up
        self._units = self._window_units = 0
        self._seconds = self._window_seconds = 0.0
        self._started: float | None = None

    def start(self) -> None:
        self.machine.synchronize()
        self._started = time.perf_counter()

    def pause(self) -> None:
        """Stop the clock and add what it showed. Does nothing if it stands still."""
        if self._started is None:
            return
        self.machine.synchronize()
        elapsed = time.perf_counter() - self._started
        self._window_seconds += elapsed
        self._started = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside (validation, saving) is not training."""
        self.pause()
        try:
            yield
        finally:
            self.start()

    def step(self, units: int) -> None:
        """A step of `units` was queued. During warm-up the clock is read, and forgotten, after each."""
        if self._warm_up > 0:
            self._warm_up -= 1
            self.machine.synchronize()
            self._window_seconds, self._window_units = 0.0, 0
            self.start()
            return
        self.steps += 1
        self._window_units += units

    def rate(self) -> float | None:
        """Units per second since this was last asked; None where no counted step lies between."""
        self.pause()
        units, seconds = self._window_units, self._window_seconds
        self._units += units
        self._seconds += seconds
        self._window_units, self._window_seconds = 0, 0.0
        self.start()
        return units / seconds if units and seconds > 0 else None

    def total_rate(self) -> float | None:
        """Units per second over every counted step."""
        self.rate()
        return self._units / self._seconds if self._units and self._seconds > 0 else None


def peak_flops(machine: Machine) -> float | None:
    """The hardware's own limit in floating-point operations per second at the run's precision.

    A known GPU's data sheet; on a CPU the rate of a large matrix product measured here and now (under 0.3 s); None
    where neither is known.
    """
    if machine.device.type == "cuda" and machine.precision != "fp32":
        name = torch.cuda.get_device_name(machine.device)
        # the key must end where the name's word ends: an L40 is no L4
        return next((peak for key, peak in PEAK_BF16.items() if re.search(rf"{key}(?!\w)", name)), None)
    return matmul_flops(machine) if machine.device.type == "cpu" else None


def matmul_flops(machine: Machine, size: int = 768, seconds: float = 0.2) -> float:
    """The best rate of a `size` x `size` matrix product within `seconds`, in floating-point operations per second."""
    a = torch.ones(size, size, dtype=machine.dtype, device=machine.device)
    best = float("inf")
    end = time.perf_counter() + seconds
    while True:
        machine.synchronize()
        start = time.perf_counter()
        a @ a
        machine.synchronize()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return 2 * size**3 / best
