"""What a person sees while it runs: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any

from recsysml.errors import ConfigError

logger = logging.getLogger("recsysml")


class Progress:
    """Shows step, loss, speed and the time left.

    `mode`: auto (a bar on a terminal, else a line about every `seconds`), always (a bar), never (nothing).
    """

    def __init__(self, total: int, done: int = 0, *, unit: str = "tokens/s", mode: str = "auto", seconds: float = 10.0):
        if mode not in ("auto", "always", "never"):
            raise ConfigError(f"progress={mode}: choose auto, always or never")
        self.total, self.unit, self.seconds = total, unit, seconds
        self.rate: float | None = None  # smoothed: a single step's speed jumps
        self.origin: tuple[int, float] | None = None  # the first step seen and when: what came before it is no measure
        self.quiet = mode == "never"
        self.bar: Any = None
        if mode == "always" or (mode == "auto" and sys.stderr.isatty()):
            self.bar = _bar()
            self.task = self.bar.add_task("train", total=total, completed=done, note="")
        self.said = time.monotonic()

    def __enter__(self) -> Progress:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(self, step: int, loss: float, rate: float | None) -> None:
        """Step `step` is done; `loss` and `rate` (units per second) are the newest known."""
        if rate:
            self.rate = rate if self.rate is None else 0.9 * self.rate + 0.1 * rate
        speed = f"{self.rate:,.0f} {self.unit}" if self.rate else ""
        if self.bar is not None:
            self.bar.update(self.task, completed=step, note=f"loss {loss:.4f}  {speed}")
            return
        now = time.monotonic()
        self.origin = self.origin or (step, now)
        if self.quiet or (now - self.said < self.seconds and step < self.total):
            return
        self.said = now
        first, started = self.origin
        left = f"{clock((now - started) / (step - first) * (self.total - step))} left" if step > first else ""
        parts = [f"step {step}/{self.total}", f"loss {loss:.4f}", speed, left]
        logger.info("%s", "  ".join(part for part in parts if part))


def clock(seconds: float) -> str:
    """3725 -> "1:02:05"."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        refresh_per_second=4,
    )
