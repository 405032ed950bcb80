"""Two stages: the towers of two_tower find some candidates, and a light ranker, which sees user and item together,
orders them. So an index still answers, and what products of two vectors cannot say is said for a hundred items only.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from recsysml.errors import ConfigError
from recsysml.models.two_tower import TwoTower
from recsysml.models.value_model import checkpoint_folder
from recsysml.nn.graph_attention import Graph
from recsysml.schemas.retrievers import MultiStageConfig


class MultiStage(nn.Module):
    """score(candidate) = a product(user, item) + MLP(user, item, user * item, item * what of the past the item asks).

    The past is attended to by the candidate (one head of softmax attention over item vectors). At first the MLP says 0,
    so that training begins at stage one's order.
    """

    def __init__(
        self,
        config: MultiStageConfig,
        n_items: int,
        n_users: int,
        item_features: Tensor | None = None,
        user_features: Tensor | None = None,
        item_graph: Graph | None = None,
        user_graph: Graph | None = None,
    ) -> None:
        """As TwoTower's."""
        super().__init__()
        self.config = config
        self.towers = TwoTower(config, n_items, n_users, item_features, user_features, item_graph, user_graph)
        self.n_items, self.context_length = n_items, config.context_length
        self.ranker = Ranker(config.d_model, config.d_ranker)
        if config.init_from is not None:
            self.towers.requires_grad_(False)

    def train(self, mode: bool = True) -> MultiStage:
        """Towers that are taken from a run stay as they serve: without dropout."""
        super().train(mode)
        if self.config.init_from is not None:
            self.towers.eval()
        return self

    def forward(self, inputs: Tensor, users: Tensor) -> Tensor:
        """inputs (B, T) item indices, users (B,) indices or -1 -> (B, T, C): position t has seen inputs 0 .. t."""
        return self.towers(inputs, users)

    def item_matrix(self) -> Tensor:
        """(n_items, C): the vectors of all items."""
        return self.towers.item_matrix()

    def item_side(self) -> list[nn.Parameter]:
        """The parameters that `item_matrix` alone reads."""
        return self.towers.item_side()

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The 2-D weights inside towers and ranker that learn, for Muon."""
        found = [*self.towers.hidden_matrices(), *(p for p in self.ranker.parameters() if p.ndim == 2 and len(p) > 1)]
        return [p for p in found if p.requires_grad]


class Ranker(nn.Module):
    """Scores of few items for each row. The first layer is a sum: what hangs on the row alone is computed once."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.user = nn.Linear(width, hidden)
        self.item = nn.Linear(width, hidden, bias=False)
        self.match = nn.Linear(width, hidden, bias=False)
        self.past = nn.Linear(width, hidden, bias=False)
        self.out = nn.Linear(hidden, 1)
        self.scale = nn.Parameter(torch.tensor(10.0))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, users: Tensor, candidates: Tensor, events: Tensor, real: Tensor) -> Tensor:
        """users (N, C), candidates (N, K, C), the vectors of the items so far (N, L, C) and which of them there are,
        real (N, L) -> (N, K)."""
        match = users[:, None] * candidates  # (N, K, C)
        fit = self.query(candidates) @ events.transpose(1, 2) / math.sqrt(users.shape[1])  # (N, K, L)
        some = real.any(dim=1)[:, None, None]  # (N, 1, 1)
        # a softmax of nothing but -inf would be 0 / 0
        weights = fit.masked_fill(~real[:, None] & some, -math.inf).softmax(dim=2) * some
        past = candidates * (weights @ events)  # (N, K, C)
        hidden = self.user(users)[:, None] + self.item(candidates) + self.match(match) + self.past(past)  # (N, K, H)
        return self.scale * match.sum(dim=2) + self.out(nn.functional.gelu(hidden)).squeeze(-1)


def check_initial(config: Any) -> None:
    """Raises ConfigError where model.init_from or model.teacher names a run and there is none."""
    asked = {"init_from": config.init_from, "teacher": config.teacher_run}
    for field, path in asked.items():
        if path is not None and checkpoint_folder(path) is None:
            other = f"one of {', '.join(config.TEACHERS)}, or " if field == "teacher" else ""
            raise ConfigError(
                f"model.{field}={path}: there is no checkpoint; give {other}the directory of a run of a retriever."
            )
