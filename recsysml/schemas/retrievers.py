"""Config of every model that finds items for users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from recsysml.errors import ConfigError
from recsysml.schemas.checks import above, at_least, one_of, share


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


@dataclass
class BprConfig(_CountedFields):
    """Factors that rank what a user turned to above what they did not, by `implicit` (Rendle et al. 2009)."""

    kind: str = "bpr"
    name: str = "bpr"
    factors: int = 64
    # passes over the training events
    iterations: int = 100
    lr: float = 0.01
    # weight of the penalty on the squared factors
    l2: float = 0.01
    # of the first factors and the draws; in the YAML it is the run's
    seed: int = 1

    def validate(self) -> None:
        at_least("model.factors", self.factors, 1)
        at_least("model.iterations", self.iterations, 1)
        above("model.lr", self.lr, 0)
        at_least("model.l2", self.l2, 0)


@dataclass
class AlsConfig(_CountedFields):
    """Factors by weighted least squares in turn, by `implicit` (Hu, Koren & Volinsky 2008)."""

    kind: str = "als"
    name: str = "als"
    factors: int = 64
    # times that users and then items are solved for
    iterations: int = 15
    # an event weighs so many times what an unmet pair does
    alpha: float = 10.0
    # weight of the penalty on the squared factors
    l2: float = 1.0
    # of the first factors; in the YAML it is the run's
    seed: int = 1

    def validate(self) -> None:
        at_least("model.factors", self.factors, 1)
        at_least("model.iterations", self.iterations, 1)
        above("model.alpha", self.alpha, 0)
        above("model.l2", self.l2, 0)


@dataclass
class SASRecConfig:
    """A causal transformer over a user's items, with the blocks that GPT is made of (Kang & McAuley 2018)."""

    accepts: ClassVar[str] = "interactions"
    trainers: ClassVar[tuple[str, ...]] = ("retrieval",)
    reads_features: ClassVar[bool] = False

    kind: str = "sasrec"
    name: str = "sasrec"
    n_layers: int = 2
    n_heads: int = 2
    d_model: int = 64
    # the last so many items of a history are read, the start token among them
    context_length: int = 50
    # learned or rope
    position: str = "learned"
    # layernorm or rmsnorm
    norm: str = "layernorm"
    # gelu or swiglu
    mlp: str = "gelu"
    bias: bool = True
    dropout: float = 0.2
    # whether user and item vectors are scaled to length 1 (then trainer.temperature about 0.05)
    normalise: bool = False

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        for name in ("n_layers", "n_heads", "d_model", "context_length"):
            at_least(f"model.{name}", getattr(self, name), 1)
        one_of("model.position", self.position, ("learned", "rope"))
        one_of("model.norm", self.norm, ("layernorm", "rmsnorm"))
        one_of("model.mlp", self.mlp, ("gelu", "swiglu"))
        share("model.dropout", self.dropout)
        if self.d_model % self.n_heads:
            raise ConfigError(f"model.d_model={self.d_model} is not a multiple of model.n_heads={self.n_heads}.")
        if self.position == "rope" and self.d_model // self.n_heads % 2:
            raise ConfigError("model.position=rope needs an even head width, and d_model/n_heads is odd.")


@dataclass
class TwoTowerConfig:
    """A user tower and an item tower over ids, features and history."""

    accepts: ClassVar[str] = "interactions"
    trainers: ClassVar[tuple[str, ...]] = ("retrieval",)
    reads_features: ClassVar[bool] = True

    kind: str = "two_tower"
    name: str = "two_tower"
    d_model: int = 64
    # width inside the towers
    d_hidden: int = 128
    # the last so many items of a history are read, the start token among them
    context_length: int = 50
    # who the user is: none, id_table, deep_hash (no table), cohort (of alike users), mixture (id_table and cohort,
    # gated by how many events of the user are learnt from)
    user: str = "mixture"
    n_cohorts: int = 32
    # share of the users that training hides at each step, so that one never met is nothing new
    user_dropout: float = 0.2
    # what the user did: mean, attention (pooling without a target), transformer (GPT's blocks), or none (not read)
    history: str = "attention"
    n_layers: int = 2
    n_heads: int = 2
    # whom an item's tower also asks: none, or co_interaction (graph attention over the items that stand beside it in
    # the training events)
    item_graph: str = "none"
    # whom a user's tower also asks: none, or friends (graph attention, where the data has friends)
    user_graph: str = "none"
    graph_layers: int = 1
    # the most neighbours a node asks
    graph_degree: int = 16
    dropout: float = 0.4
    # whether user and item vectors are scaled to length 1 (then trainer.temperature about 0.05)
    normalise: bool = True

    def validate(self) -> None:
        """Raise a ConfigError for a value that cannot work."""
        for name in (
            "d_model",
            "d_hidden",
            "context_length",
            "n_cohorts",
            "n_layers",
            "n_heads",
            "graph_layers",
            "graph_degree",
        ):
            at_least(f"model.{name}", getattr(self, name), 1)
        one_of("model.user", self.user, ("none", "id_table", "deep_hash", "cohort", "mixture"))
        one_of("model.history", self.history, ("mean", "attention", "transformer", "none"))
        one_of("model.item_graph", self.item_graph, ("none", "co_interaction"))
        one_of("model.user_graph", self.user_graph, ("none", "friends"))
        share("model.dropout", self.dropout)
        share("model.user_dropout", self.user_dropout)
        attends = self.history == "transformer" or self.item_graph != "none" or self.user_graph != "none"
        if attends and self.d_model % self.n_heads:
            raise ConfigError(f"model.d_model={self.d_model} is not a multiple of model.n_heads={self.n_heads}.")


@dataclass
class MultiHeadConfig(TwoTowerConfig):
    """Two towers, and several vectors a user instead of one."""

    refused_losses: ClassVar[tuple[str, ...]] = ("hierarchical", "cluster")

    kind: str = "multi_head"
    name: str = "multi_head"
    # vectors a user has
    n_vectors: int = 4
    # an item's score from its products with them: max, or logsumexp, which is the smoother the lower its sharpness
    pooling: str = "logsumexp"
    # what products are multiplied by within the logsumexp; the score is divided by it again
    sharpness: float = 10.0

    def validate(self) -> None:
        super().validate()
        at_least("model.n_vectors", self.n_vectors, 1)
        one_of("model.pooling", self.pooling, ("max", "logsumexp"))
        above("model.sharpness", self.sharpness, 0)


@dataclass
class MultiStageConfig(TwoTowerConfig):
    """Two towers that find candidates, and a light ranker that orders them."""

    refused_losses: ClassVar[tuple[str, ...]] = ("hierarchical", "cluster")
    # teachers that are fitted when training begins
    TEACHERS: ClassVar[tuple[str, ...]] = ("none", "ease", "seq_knn", "recent_popularity", "popularity")

    kind: str = "multi_stage"
    name: str = "multi_stage"
    # how many items stage one hands on, those seen before not counted
    n_candidates: int = 100
    # width inside the ranker
    d_ranker: int = 64
    # places of a step's sequences that the ranker learns from
    ranker_rows: int = 128
    # whose exact scores the ranker is to reproduce on the candidates: none, a counted model (ease, seq_knn,
    # recent_popularity, popularity) that is fitted first, or the directory of a run of any retriever
    teacher: str = "ease"
    # how much of the ranker's loss that is; the rest is what was turned to
    distillation: float = 0.5
    # a run of two_tower whose towers are taken as they are; null trains both stages at once
    init_from: str | None = None

    @property
    def teacher_run(self) -> str | None:
        """The run that is the teacher, where it is one."""
        return None if self.teacher in self.TEACHERS else self.teacher

    def validate(self) -> None:
        super().validate()
        for name in ("n_candidates", "d_ranker", "ranker_rows"):
            at_least(f"model.{name}", getattr(self, name), 1)
        share("model.distillation", self.distillation, one=True)
