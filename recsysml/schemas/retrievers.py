"""Config of every model that finds items for users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from recsysml.schemas.checks import above, at_least, share


@dataclass
class _CountedFields:
    """What all retrievers share that are computed from counts in one go."""

    accepts: ClassVar[str] = "interactions"
    trainers: ClassVar[tuple[str, ...]] = ("fit",)

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""


@dataclass
class PopularityConfig(_CountedFields):
    """Every user is shown what most training events were about."""

    kind: str = "popularity"
    # a label of the YAML: the model's name in results.json
    name: str = "popularity"


@dataclass
class RecentPopularityConfig(_CountedFields):
    """Popularity in which events count the less the longer they lie back."""

    kind: str = "recent_popularity"
    name: str = "recent_popularity"
    # after how long an event counts half, as a share of the time that the training events span
    half_life: float = 0.02

    def validate(self) -> None:
        above("model.half_life", self.half_life, 0)


@dataclass
class SeqKnnConfig(_CountedFields):
    """Which items followed which, counted with decay."""

    kind: str = "seq_knn"
    name: str = "seq_knn"
    # how many places apart two items of a history may stand to count
    window: int = 10
    # what each further place between them multiplies their count by
    decay: float = 0.8
    # what each step back in a user's history multiplies an item's say by
    age_decay: float = 0.8
    # counts are divided by the item's number of events to this power
    popularity_power: float = 0.5

    def validate(self) -> None:
        at_least("model.window", self.window, 1)
        at_least("model.popularity_power", self.popularity_power, 0)
        share("model.decay", self.decay, one=True)
        share("model.age_decay", self.age_decay, one=True)


@dataclass
class EaseConfig(_CountedFields):
    """The linear item-item model with a closed form (Steck 2019)."""

    kind: str = "ease"
    name: str = "ease"
    # weight of the penalty on the squared weights
    l2: float = 200.0
    # largest catalogue it is tried on: it inverts a matrix of items x items
    max_items: int = 20000

    def validate(self) -> None:
        above("model.l2", self.l2, 0)
        at_least("model.max_items", self.max_items, 1)
