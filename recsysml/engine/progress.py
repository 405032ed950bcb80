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
        self.first = done
        self.quiet = mode == "never"
        self.bar: Any = None
        if mode == "always" or (mode == "auto" and sys.stderr.isatty()):
            self.bar = _bar()
            self.task = self.bar.add_task("train", total=total, completed=done, note="")
        self.started = self.said = time.monotonic()

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
        speed = f"{rate:,.0f} {self.unit}" if rate else ""
        if self.bar is not None:
            self.bar.update(self.task, completed=step, note=f"loss {loss:.4f}  {speed}")
            return
        now = time.monotonic()
        if self.quiet or (now - self.said < self.seconds and step < self.total):
            return
        self.said = now
        left = (now - self.started) / max(step - self.first, 1) * (self.total - step)
        logger.info("step %d/%d  loss %.4f  %s  %s left", step, self.total, loss, speed, clock(left))


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
