"""Config of every eval kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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
