"""The root of a config: what every run has, whatever its model."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from recsysml.errors import ConfigError
from recsysml.schemas.checks import at_least, choices_hint, one_of

# far above it the thread pool cannot be made, and the process dies without a word
MAX_THREADS = 1024


@dataclass
class TrackerConfig:
    """Weights & Biases, a copy of the record; results.json and metrics.jsonl are the truth."""

    # auto (online with a key, else offline), online, offline, disabled
    mode: str = "auto"
    project: str = "recsysml"
    group: str | None = None
    tags: list[str] = field(default_factory=list)

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        one_of("tracker.mode", self.mode, ("auto", "online", "offline", "disabled"))


@dataclass
class SweepConfig:
    # the sweep's folder under outputs/sweep/; null is a hash of the command
    name: str | None = None

    def validate(self) -> None:
        """Raise a ConfigError for a name that is not one folder's."""
        if self.name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ConfigError(f"sweep.name={self.name}: it names a folder: letters, digits, '.', '_' and '-'.")


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
    # CPU threads; null is as many as there are cores, or for a ranker one where that is as quick
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

    def validate(self) -> None:
        """Raise a ConfigError for a value of the root that cannot work."""
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", self.device):
            choices = ("auto", "cpu", "cuda", "cuda:N", "mps")
            asked = "cuda" if "gpu" in self.device else self.device
            raise ConfigError(f"device={self.device}: {choices_hint(asked, choices)}")
        one_of("progress", self.progress, ("auto", "always", "never"))
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed={self.seed}: it must be between 0 and 2**32 - 1.")
        at_least("threads", self.threads, 1)
        if self.threads is not None and self.threads > MAX_THREADS:
            raise ConfigError(f"threads={self.threads}: it must be at most {MAX_THREADS}.")
        at_least("limit", self.limit, 1)
        at_least("num_fewshot", self.num_fewshot, 0)
