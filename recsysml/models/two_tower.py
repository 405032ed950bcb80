"""Two towers: what is known of a user at each moment as one vector, of an item as another, their product as the score.

The user's side reads the items so far (a mean, attention pooling, the causal transformer of GPT, or nothing), who the
user is (four representations to choose from) and the user's features; the item's side its id and its features. Either
side may also ask its neighbours in a graph: items those they are turned to together with, users their friends.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsysml.errors import ConfigError
from recsysml.nn.attention import CausalSelfAttention
from recsysml.nn.block import Block
from recsysml.nn.embeddings import CohortEmbedding, DeepHashEmbedding, GatedMixture, TableEmbedding
from recsysml.nn.graph_attention import Graph, GraphAttention, around
from recsysml.nn.mlp import make_mlp
from recsysml.nn.norm import make_norm
from recsysml.nn.pooling import CausalAttentionPooling, causal_mean
from recsysml.schemas.retrievers import TwoTowerConfig


class TwoTower(nn.Module):
    """Index `n_items` is the start token that every sequence begins with, and the padding behind a short one.

    A user that training never met (index -1, or one without events in `user_events`) is one without a memory: its
    history, features and cohort still speak.
    """

    item_features: Tensor  # (n_items + 1, Fi), a row of zeros for the start token
    user_features: Tensor  # (n_users + 1, Fu), a row of zeros for a user never met
    user_events: Tensor  # (n_users + 1,) int64: how many events each user's memory is learnt from; 1 until it is told
    # of each graph, `item_graph` and `user_graph`: (N + 1,) and (E,), as in Graph; a user never met is the last node
    item_graph_offsets: Tensor
    item_graph_sources: Tensor
    user_graph_offsets: Tensor
    user_graph_sources: Tensor

    def __init__(
        self,
        config: TwoTowerConfig,
        n_items: int,
        n_users: int,
        item_features: Tensor | None = None,
        user_features: Tensor | None = None,
        item_graph: Graph | None = None,
        user_graph: Graph | None = None,
    ) -> None:
        """item_features (n_items, Fi) and user_features (n_users, Fu): numbers, kept with the weights, as are graphs.

        Each graph is given where the config asks for it.
        """
        super().__init__()
        config.validate()
        self.config = config
        self.n_items, self.n_users = n_items, n_users
        self.context_length = config.context_length
        width = config.d_model
        self.register_buffer("item_features", _with_unknown(item_features, n_items))
        self.register_buffer("user_features", _with_unknown(user_features, n_users))
        self.register_buffer("user_events", F.pad(torch.ones(n_users, dtype=torch.int64), (0, 1)))
        n_item, n_user = self.item_features.shape[1], self.user_features.shape[1]

        self.item_embedding = nn.Embedding(n_items + 1, width)
        nn.init.normal_(self.item_embedding.weight, std=0.02)
        self.item_projection = nn.Linear(n_item, width, bias=False) if n_item else None
        self.item_tower = _tower(width, config.d_hidden, width, config.dropout)

        self.pooling = CausalAttentionPooling(width) if config.history == "attention" else None
        self.blocks = nn.ModuleList(
            self._block() for _ in range(config.n_layers if config.history == "transformer" else 0)
        )
        self.history_norm = make_norm("layernorm", width) if config.history == "transformer" else None

        kind = config.user
        n_known = n_user + (width if config.history != "none" else 0)  # what is known of a user beside the id
        if not n_known and kind in ("none", "cohort", "mixture"):
            raise ConfigError(
                f"model.history=none and model.user={kind}: this data has no features of its users, so nothing would "
                "be known of one that is new. Choose another model.history, or model.user=id_table or deep_hash."
            )
        self.memory: nn.Module | None = None
        if kind in ("id_table", "mixture"):
            self.memory = TableEmbedding(n_users, width)
            nn.init.normal_(self.memory.table.weight, std=0.02)
        elif kind == "deep_hash":
            self.memory = DeepHashEmbedding(width)
        self.cohort = CohortEmbedding(n_known, config.n_cohorts, width) if kind in ("cohort", "mixture") else None
        self.mixture = GatedMixture() if kind == "mixture" else None
        has_friends = config.user_graph != "none"
        extra = width * ((kind != "none") + has_friends)
        self.user_tower = _tower(n_known + extra, config.d_hidden, width, config.dropout)

        self.item_layers = self._graph_layers("item_graph", config.item_graph, item_graph)
        self.user_layers = self._graph_layers("user_graph", config.user_graph, user_graph)
        self.node_embedding = nn.Embedding(n_users + 1, width) if has_friends else None
        if self.node_embedding is not None:
            nn.init.normal_(self.node_embedding.weight, std=0.02)
        self.node_projection = nn.Linear(n_user, width, bias=False) if has_friends and n_user else None

    def _graph_layers(self, name: str, kind: str, graph: Graph | None) -> nn.ModuleList:
        """The layers over a graph, which is kept with the weights under `name`; none where the config asks for none."""
        if kind == "none":
            return nn.ModuleList()
        assert graph is not None, f"model.{name}={kind} needs a graph"
        self.register_buffer(f"{name}_offsets", torch.cat([graph.offsets, graph.offsets[-1:]]))
        self.register_buffer(f"{name}_sources", graph.sources)
        return nn.ModuleList(
            GraphAttention(self.config.d_model, self.config.n_heads) for _ in range(self.config.graph_layers)
        )

    def _block(self) -> Block:
        width, dropout = self.config.d_model, self.config.dropout
        attention = CausalSelfAttention(width, self.config.n_heads, dropout=dropout)
        return Block(width, attention, make_mlp("gelu", width, True), norm="layernorm", bias=True, dropout=dropout)

    def forward(self, inputs: Tensor, users: Tensor) -> Tensor:
        """inputs (B, T) item indices, users (B,) indices or -1 -> (B, T, C): position t has seen inputs 0 .. t."""
        if inputs.shape[1] > self.context_length:
            raise ValueError(f"{inputs.shape[1]} items, and the context is {self.context_length}: give the last ones")
        real = inputs != self.n_items  # (B, T)
        places = torch.where(users < 0, self.n_users, users)  # (B,)
        met = torch.where(self.user_events[places] > 0, users, -1)  # (B,)
        if self.training and self.config.user_dropout and (self.memory is not None or len(self.user_layers)):
            # so that a user without a memory is nothing new
            met = torch.where(torch.rand(users.shape, device=users.device) < self.config.user_dropout, -1, met)
        features = self.user_features[places]  # (B, Fu)
        features = features[:, None].expand(-1, inputs.shape[1], -1)  # (B, T, Fu)
        parts, history = [features], None
        if self.config.history != "none":
            history = self._history(F.dropout(self._item_inputs(inputs), self.config.dropout, self.training), real)
            parts = [history, features]  # (B, T, C), (B, T, Fu)
        if self.config.user != "none":
            parts.append(self._user(met, torch.cat(parts, dim=-1)))
        if len(self.user_layers):
            parts.append(self._friends(users, met)[:, None].expand(-1, inputs.shape[1], -1))
        vectors = self.user_tower(torch.cat(parts, dim=-1))  # (B, T, C)
        if history is not None:
            vectors = vectors + history  # its way round the tower
        return F.normalize(vectors, dim=-1) if self.config.normalise else vectors

    def item_matrix(self) -> Tensor:
        """(n_items, C): the vectors of all items."""
        items = self._item_inputs(torch.arange(self.n_items, device=self.item_embedding.weight.device))
        for layer in self.item_layers:
            items = layer(items, Graph(self.item_graph_offsets[:-1], self.item_graph_sources))
        vectors = self.item_tower(items) + items
        return F.normalize(vectors, dim=-1) if self.config.normalise else vectors

    def item_side(self) -> list[nn.Parameter]:
        """The parameters that `item_matrix` alone reads."""
        return [*self.item_tower.parameters(), *self.item_layers.parameters()]

    def _item_inputs(self, items: Tensor) -> Tensor:
        """(...) indices -> (..., C): id and features of each item, before any tower."""
        x = self.item_embedding(items)
        return x if self.item_projection is None else x + self.item_projection(self.item_features[items])

    def _history(self, x: Tensor, real: Tensor) -> Tensor:
        """(B, T, C), (B, T) -> (B, T, C)."""
        if self.pooling is not None:
            return self.pooling(x, real)
        if self.history_norm is None:
            return causal_mean(x, real)
        for block in self.blocks:
            x, _ = block(x)
        return self.history_norm(x)

    def _user(self, met: Tensor, known: Tensor) -> Tensor:
        """met (B,) users, -1 without a memory, known (B, T, F) -> (B, T, C)."""
        memory, cohort = None, None
        if self.memory is not None:
            memory = self.memory(met)[:, None].expand(-1, known.shape[1], -1)
        if self.cohort is not None:
            cohort = self.cohort(known)
        if self.mixture is not None and memory is not None and cohort is not None:
            return self.mixture(memory, cohort, self.user_events[torch.where(met < 0, self.n_users, met)][:, None])
        found = memory if memory is not None else cohort
        assert found is not None
        return found

    def _friends(self, users: Tensor, met: Tensor) -> Tensor:
        """users (B,), and the same with -1 for those whose own value is hidden -> (B, C): what their friends say.

        Only the neighbourhood of these users is looked at: serving one does not cost a pass over all.
        """
        assert self.node_embedding is not None
        nodes = torch.where(users < 0, self.n_users, users)
        graph = Graph(self.user_graph_offsets, self.user_graph_sources)
        part, found, place = around(graph, nodes, len(self.user_layers))
        hidden = torch.zeros_like(found, dtype=torch.bool)
        hidden[place[met < 0]] = True
        x = self.node_embedding(torch.where(hidden, self.n_users, found))  # (K, C)
        if self.node_projection is not None:
            x = x + self.node_projection(self.user_features[found])
        for layer in self.user_layers:
            x = layer(x, part)
        return x[place]

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The 2-D weights inside towers, blocks and layers, for Muon; no embeddings and not what reads raw features."""
        parts = (self.blocks, self.user_tower, self.item_tower, self.item_layers, self.user_layers)
        return [p for part in parts for p in part.parameters() if p.ndim == 2]


def _tower(inputs: int, hidden: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width))


def _with_unknown(features: Tensor | None, n: int) -> Tensor:
    if features is None:
        return torch.zeros(n + 1, 0)
    assert len(features) == n, f"{len(features)} rows of features for {n}"
    return F.pad(features.float(), (0, 0, 0, 1))
