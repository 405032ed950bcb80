"""A multi-task ranker: what is known of an impression -> a logit for each thing that may come of it.

dense numbers, vectors, ids, bags -> one vector each    (B, E, D)
the user's past against the item -> one more            target-aware attention
crosses of the vectors -> mixer of experts              (B, T, K), one vector a task
a tower a task -> logits                                (B, T)
a monotone map a task -> calibrated logits              (B, T), fitted on rows that the ranker does not learn from
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsysml.errors import ConfigError
from recsysml.nn.calibration import Calibration
from recsysml.nn.crosses import make_interaction
from recsysml.nn.deduplicated import Deduplicated, alike, deduplicated
from recsysml.nn.embeddings import CohortEmbedding, DeepHashEmbedding, GatedMixture
from recsysml.nn.field_embedding import FieldEmbedding
from recsysml.nn.mixers import make_mixer
from recsysml.nn.probabilities import PositionBias, joint_logit
from recsysml.nn.target_attention import make_target_attention
from recsysml.nn.task_weights import TaskWeights
from recsysml.nn.towers import Towers
from recsysml.schemas.rankers import MTMLConfig
from recsysml.schemas.ranking_shape import RankingShape


class MTML(nn.Module):
    """`forward` gives logits at the logged positions, or without them as if everything stood at the top.

    With `factorised` tasks (p(like) = p(click) p(like | click)) it gives the logit of the condition, which is what is
    trained on rows where the parent happened; `joint` makes of all of them the logits of what happens.
    """

    def __init__(self, config: MTMLConfig, shape: RankingShape) -> None:
        super().__init__()
        config.validate()
        self.config, self.shape = config, shape
        self.tasks = config.tasks or list(shape.tasks)
        self.parents = {self.tasks.index(a): self.tasks.index(b) for a, b in config.factorised.items()}
        width = config.d_embedding
        self.sparse, self.bags, self.events = list(shape.sparse), list(shape.bags), list(shape.history)
        # an event's first column has the words of what is shown
        self.event_fields = [str(shape.target) if place == 0 else name for place, name in enumerate(self.events)]
        vocabularies = {**shape.sparse, **shape.bags}
        vocabularies |= {name: shape.history[name] for name in self.events[1:]}
        self.embedding = FieldEmbedding(vocabularies, width, config.embedding_std)
        self.dense = nn.Linear(len(shape.dense), width) if shape.dense else None
        self.vectors = nn.ModuleList(nn.Linear(shape.vector_width, width) for _ in shape.vectors)
        reads_past = bool(self.events) and config.history != "none"
        self.attention = make_target_attention(config.history, width, config.n_heads) if reads_past else None
        n_vectors = len(self.sparse) + len(self.bags) + len(shape.vectors)
        n_vectors += (self.dense is not None) + (self.attention is not None)

        self.user = self.sparse.index(shape.user) if shape.user else None
        kind = config.user if self.user is not None else "id_table"
        # a history that nothing reads is not cut into batches
        self.context_length = config.context_length if reads_past or kind == "mixture" else 0
        self.memory = DeepHashEmbedding(width) if kind == "deep_hash" else None
        cohorts = kind in ("cohort", "mixture")
        self.cohort = CohortEmbedding((n_vectors - 1) * width, config.n_cohorts, width) if cohorts else None
        self.mixture = GatedMixture() if kind == "mixture" else None

        # a layer reads the vectors as they are: what the rows of a user share it can multiply once for all of them
        as_they_are = config.interaction == "concat" and kind == "id_table"
        self.n_shared = shape.of_user if as_they_are else 0

        self.interaction = make_interaction(config.interaction, n_vectors, width, config.n_cross_layers)
        inputs = int(self.interaction.width) + len(shape.dense)  # type: ignore[arg-type]
        self.mixer = make_mixer(
            config.mixer,
            inputs,
            len(self.tasks),
            config.expert_widths,
            n_experts=config.n_experts,
            n_task_experts=config.n_task_experts,
            dropout=config.dropout,
            norm=config.norm,
        )
        self.towers = Towers(len(self.tasks), self.mixer.width, config.tower_widths, config.dropout, config.norm)
        placed = config.position != "none" and shape.positions > 1
        if placed and config.position == "examination" and "real" in (shape.tasks[task] for task in self.tasks):
            raise ConfigError("model.position=examination is a factor of probabilities: real labels need additive.")
        self.position = PositionBias(config.position, shape.positions, len(self.tasks)) if placed else None
        self.cohort_places = [self.sparse.index(name) for name in shape.cohorts]
        self.cohort_sizes = [shape.sparse[name] for name in shape.cohorts]
        shifted = self.cohort_sizes if config.calibrate_cohorts else []
        self.calibration = None
        if config.calibration != "none" or shifted:
            self.calibration = Calibration(config.calibration, len(self.tasks), shifted)
            self.calibration.requires_grad_(config.calibration_fit == "in_model")
        self.binary = [shape.tasks[task] == "binary" for task in self.tasks]
        fixed = [config.task_weights.get(task, 1.0) for task in self.tasks]
        self.task_weights = TaskWeights(config.weighting, len(self.tasks), fixed, config.gradnorm_alpha)

    def forward(
        self,
        dense: Tensor,
        vectors: Tensor,
        sparse: Tensor,
        bags: Tensor,
        history: Tensor,
        positions: Tensor | None = None,
    ) -> Tensor:
        """dense (B, F), vectors (B, E, D), sparse (B, S), bags (B, G, W), history (B, H, Q), positions (B,) or None ->
        logits (B, T). Ids below 0 in bags and history are padding."""
        x = self.mixer(self.features(dense, vectors, sparse, bags, history))  # (B, T, K)
        logits = self.towers(x).float()  # (B, T)
        if self.position is None or positions is None:
            return logits
        placed = self.position(logits, positions)
        if self.config.position == "examination" and self.parents:  # who clicked has looked: only the parent is hidden
            conditional = [task in self.parents for task in range(len(self.tasks))]
            placed = torch.where(torch.tensor(conditional, device=logits.device), logits, placed)
        return placed

    def features(
        self, dense: Tensor, vectors: Tensor, sparse: Tensor, bags: Tensor, history: Tensor
    ) -> Tensor | Deduplicated:
        """(B, C): everything that is known of an impression, before any task."""
        hidden = None
        if self.user is not None and self.training and self.config.user_dropout:
            hidden = torch.rand(len(sparse), device=sparse.device) < self.config.user_dropout
            sparse = sparse.clone()
            sparse[:, self.user] = sparse[:, self.user].masked_fill(hidden, 0)
        groups = alike(sparse[:, : self.n_shared]) if self.n_shared else None
        rest = 0 if groups is None else self.n_shared
        found = [self.embedding(sparse[:, rest:], self.sparse[rest:])]  # (B, S, D)
        if self.bags:
            found.append(self.embedding.pooled(bags, self.bags))
        if self.dense is not None:
            found.append(self.dense(dense)[:, None])
        for place, project in enumerate(self.vectors):
            found.append(project(vectors[:, place])[:, None])
        if self.attention is not None:
            events = self.embedding.summed(history, self.event_fields)  # (B, H, D)
            target = found[0][:, self.sparse.index(str(self.shape.target)) - rest]
            found.append(self.attention(target, events, history[..., 0] >= 0)[:, None])
        together = torch.cat([part.to(found[0].dtype) for part in found], dim=1)  # (B, E, D)
        if self.user is not None and (self.memory is not None or self.cohort is not None):
            together = self._with_user(together, sparse[:, self.user], (history[..., :1] >= 0).sum(dim=(1, 2)))
        own = self.interaction(together)
        if groups is None:
            return torch.cat([own, dense], dim=1)
        common = self.embedding(sparse[groups.first, :rest], self.sparse[:rest])  # (U, A, D)
        return deduplicated(common.flatten(1), groups, own, dense)

    def _with_user(self, together: Tensor, users: Tensor, events: Tensor) -> Tensor:
        """together (B, E, D) with the user's vector replaced; users (B,) ids, 0 unmet; events (B,) of its past."""
        place = self.user
        assert place is not None
        rest = torch.cat([together[:, :place], together[:, place + 1 :]], dim=1)
        found = together[:, place]
        if self.memory is not None:
            found = self.memory(users)
        if self.cohort is not None:
            alike = self.cohort(rest.flatten(1))
            known = torch.where(users == 0, 0, events)
            found = alike if self.mixture is None else self.mixture(found, alike, known)
        vector = found.to(together.dtype)[:, None]
        return torch.cat([together[:, :place], vector, together[:, place + 1 :]], dim=1)

    def joint(self, logits: Tensor) -> Tensor:
        """(B, T) -> (B, T): with p(task) in place of p(task | its parent), parents as they are."""
        if not self.parents:
            return logits
        columns = [
            joint_logit(logits[:, self.parents[task]], logits[:, task]) if task in self.parents else logits[:, task]
            for task in range(len(self.tasks))
        ]
        return torch.stack(columns, dim=1)

    def calibrated(self, logits: Tensor, sparse: Tensor) -> Tensor:
        """Logits of `joint` (B, T) and the rows' ids (B, S) -> logits (B, T) of the probabilities to be relied on."""
        if self.calibration is None:
            return logits
        cohorts = sparse[:, self.cohort_places] if self.config.calibrate_cohorts else None
        binary = torch.tensor(self.binary, device=logits.device)
        return torch.where(binary, self.calibration(logits, cohorts), logits)

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The 2-D weights between features and logits, for Muon; not embeddings and not what reads raw features."""
        parts = (self.interaction, self.mixer, self.towers)
        return [p for part in parts for p in part.parameters() if p.ndim == 2 and p is not self.towers.last]

    def quick_parameters(self) -> list[nn.Parameter]:
        """Of a calibration that is trained along: a few numbers a task, which must keep up with what they map."""
        return [] if self.calibration is None else list(self.calibration.parameters())
