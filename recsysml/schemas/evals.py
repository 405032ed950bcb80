"""Config of every eval kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from recsysml.errors import ConfigError
from recsysml.schemas.checks import at_least, one_of


@dataclass
class LanguageEvalConfig:
    """Loss and bits per byte over a whole split, in order."""

    family: ClassVar[str] = "text"
    # what a sweep's table shows; the first decides which job is best (bits per byte also compares tokenizers)
    headline: ClassVar[tuple[str, ...]] = ("val/bits_per_byte", "val/loss")

    kind: str = "language"
    # train, val or test
    split: str = "val"
    # sequences scored at once
    batch_size: int = 16

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        one_of("eval.split", self.split, ("train", "val", "test"))
        at_least("eval.batch_size", self.batch_size, 1)


@dataclass
class LMHarnessEvalConfig:
    """Tasks of lm_eval, from local files or its own catalogue, on any language model."""

    family: ClassVar[str] = "text"
    headline: ClassVar[tuple[str, ...]] = ()  # what the tasks give; the table of a sweep shows all of it

    kind: str = "lm_harness"
    # questions scored at once; auto is as many as suit the device
    batch_size: int | str = "auto"
    # fp32, or bf16 (faster; log-likelihoods are off by up to 0.1)
    precision: str = "fp32"
    # answers are kept by model and task; false asks the model anew
    use_cache: bool = True
    # a folder with task YAML of your own, looked at first; null is `task/` in --config-dir, where there is one
    task_folder: str | None = None
    # whether tasks of that folder may run code (the same as --trust)
    trust: bool = False

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        if self.batch_size != "auto" and not (isinstance(self.batch_size, int) and self.batch_size >= 1):
            raise ConfigError(f"eval.batch_size={self.batch_size}: it must be auto or a whole number from 1 on.")
        one_of("eval.precision", self.precision, ("fp32", "bf16"))
