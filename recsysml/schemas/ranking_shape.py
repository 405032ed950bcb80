"""What a ranker reads and predicts, by name and size: enough to build one, and kept with its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class RankingShape:
    """Features of one impression. A kind that the data lacks is empty, so that a model never asks whether it is there.

    In every vocabulary id 0 is a value that training never met or that is missing; ids below 0 are padding.
    """

    dense: list[str] = field(default_factory=list)  # F numbers, standardised
    vectors: list[str] = field(default_factory=list)  # E vectors
    vector_width: int = 0
    sparse: dict[str, int] = field(default_factory=dict)  # S ids: name -> ids of its vocabulary
    bags: dict[str, int] = field(default_factory=dict)  # G bags of ids: name -> ids of its vocabulary
    # Q ids of each event of the user's past: the first has the vocabulary of `target`, the others their own
    history: dict[str, int] = field(default_factory=dict)
    target: str | None = None  # the sparse feature that the past is compared with
    user: str | None = None  # the sparse feature that says who it is
    of_user: int = 0  # the first so many sparse features are of the user alone: rows of one user share them
    cohorts: list[str] = field(default_factory=list)  # sparse features that calibration is looked at by
    positions: int = 0  # places of a slate; 0 where none are logged
    tasks: dict[str, str] = field(default_factory=dict)  # T labels: name -> binary or real

    @property
    def vocabularies(self) -> dict[str, int]:
        """Name -> ids of everything that an embedding table must hold, each once."""
        own = {name: size for name, size in self.history.items() if name not in self.sparse}
        return {**self.sparse, **self.bags, **own}
