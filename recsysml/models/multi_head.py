"""Several vectors a user, so that someone of two tastes is not served their middle; all of them score an item."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from recsysml.models.two_tower import TwoTower
from recsysml.nn.graph_attention import Graph
from recsysml.schemas.retrievers import MultiHeadConfig


class MultiHead(nn.Module):
    """The towers of two_tower, and a network that makes `n_vectors` of the user's one.

    score(item) = max over vectors of their products with it, or its smooth form 1/b log sum exp(b product), b the
    sharpness.
    """

    def __init__(
        self,
        config: MultiHeadConfig,
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
        self.fan = nn.Sequential(
            nn.Linear(config.d_model, config.d_hidden),
            nn.GELU(),
            nn.Linear(config.d_hidden, config.n_vectors * config.d_model),
        )

    def forward(self, inputs: Tensor, users: Tensor) -> Tensor:
        """inputs (B, T) item indices, users (B,) indices or -1 -> (B, T, H, C): position t has seen inputs 0 .. t."""
        states = self.towers(inputs, users)  # (B, T, C)
        vectors = self.fan(states).unflatten(-1, (self.config.n_vectors, -1)) + states[..., None, :]
        return F.normalize(vectors, dim=-1) if self.config.normalise else vectors

    def pool(self, products: Tensor) -> Tensor:
        """(..., H, I) products of a user's vectors with items -> (..., I) scores."""
        if self.config.pooling == "max":
            return products.amax(dim=-2)
        return (products * self.config.sharpness).logsumexp(dim=-2) / self.config.sharpness

    def item_matrix(self) -> Tensor:
        """(n_items, C): the vectors of all items."""
        return self.towers.item_matrix()

    def item_side(self) -> list[nn.Parameter]:
        """The parameters that `item_matrix` alone reads."""
        return self.towers.item_side()

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The 2-D weights inside towers, blocks and the fan, for Muon."""
        return [*self.towers.hidden_matrices(), *(p for p in self.fan.parameters() if p.ndim == 2)]
