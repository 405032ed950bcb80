"""The learning rate of every step, as a pure function of the step: nothing to save, nothing to resume."""

from __future__ import annotations

import math

from recsysml.errors import ConfigError

SCHEDULES = ("cosine", "linear", "wsd", "constant")


def learning_rate(
    step: int,
    *,
    schedule: str,
    lr: float,
    max_steps: int,
    warmup_steps: int = 0,
    min_lr_ratio: float = 0.0,
    decay_fraction: float = 0.2,
) -> float:
    """The learning rate of update `step`, counted from 0 to `max_steps - 1`.

    Warm-up is linear and reaches `lr` at update `warmup_steps - 1`; every decay reaches `lr * min_lr_ratio` exactly at
    the last update. `cosine`: Loshchilov & Hutter 2017, eq. 5, without restarts. `linear`: a straight line down.
    `wsd`: warm-up, stable, then a line down over the last `decay_fraction` of the steps (Hu et al. 2024, MiniCPM).
    `constant`: no decay. Raises ConfigError for any other name.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f"trainer.schedule={schedule}: choose one of {', '.join(SCHEDULES)}")
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    last = max_steps - 1
    start = max(warmup_steps - 1, 0)  # the update that decay is counted from, itself at the full rate
    if schedule == "constant":
        return lr
    if schedule == "wsd":
        start = max(start, last - round(decay_fraction * max_steps))
    progress = min(max((step - start) / max(last - start, 1), 0.0), 1.0)
    shape = 0.5 * (1.0 + math.cos(math.pi * progress)) if schedule == "cosine" else 1.0 - progress
    return lr * (min_lr_ratio + (1.0 - min_lr_ratio) * shape)
