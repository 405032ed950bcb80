"""Config of every eval kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass
class LanguageEvalConfig:
    """Loss and bits per byte over a whole split, in order."""

    family: ClassVar[str] = "text"

    kind: str = "language"
    # train, val or test
    split: str = "val"
    # sequences scored at once
    batch_size: int = 16
