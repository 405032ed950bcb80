"""Config of every eval kind."""

from __future__ import annotations

from dataclasses import dataclass, field
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


# what a retriever is always compared with; each is a model of its own
BASELINES = ("popularity", "recent_popularity", "seq_knn", "ease")


@dataclass
class RetrievalEvalConfig:
    """Ranks on the full catalogue of what users turned to next, beside simple methods."""

    family: ClassVar[str] = "interactions"
    headline: ClassVar[tuple[str, ...]] = ("val/ndcg@20", "val/recall@20")

    kind: str = "retrieval"
    # val or test
    split: str = "test"
    # lengths of the lists that are judged; the first also by popularity decile and history length
    ks: list[int] = field(default_factory=lambda: [20, 10])
    # the methods run beside the model: popularity is `baseline`, the others are `baselines`
    baselines: list[str] = field(default_factory=lambda: list(BASELINES))
    # users scored at once
    batch_size: int = 256

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        one_of("eval.split", self.split, ("val", "test"))
        at_least("eval.batch_size", self.batch_size, 1)
        if not self.ks or len(set(self.ks)) < len(self.ks):
            raise ConfigError(f"eval.ks={self.ks}: give one or more lengths of a list, each once.")
        for k in self.ks:
            at_least("eval.ks", k, 1)
        for name in self.baselines:
            one_of("eval.baselines", name, BASELINES)
