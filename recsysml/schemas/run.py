"""The root of a config: what every run has, whatever its model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class TrackerConfig:
    """Weights & Biases, a copy of the record; results.json and metrics.jsonl are the truth."""

    # auto (online with a key, else offline), online, offline, disabled
    mode: str = "auto"
    project: str = "recsysml"
    group: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass
class SweepConfig:
    # the sweep's folder under outputs/sweep/; null is a hash of the command
    name: str | None = None


@dataclass
class RunConfig:
    """One run. `model`, `data`, `trainer` and `eval` hold the dataclass of their chosen kind."""

    model: Any = None
    data: Any = None
    trainer: Any = None
    eval: Any = None
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    seed: int = 1
    # auto, cpu, cuda, cuda:N, mps
    device: str = "auto"
    # CPU threads; null is as many as there are cores
    threads: int | None = None
    # where run directories go; null is $RECSYSML_OUTPUTS, else outputs/
    outputs: str | None = None
    # show progress bars: auto (only in a terminal), always, never
    progress: str = "auto"
    # for `eval`: task names; empty is the model's own metrics
    tasks: list[str] = field(default_factory=list)
    # for `eval`: a run directory, a checkpoint folder, or last
    checkpoint: str = "last"
    # for `eval`: examples per task (null: all) and solved examples shown before each question
    limit: int | None = None
    num_fewshot: int | None = None
