"""SASRec (Kang & McAuley 2018): what a language model does with tokens, done with items, by the same blocks."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from recsysml.nn.attention import CausalSelfAttention
from recsysml.nn.block import Block
from recsysml.nn.mlp import make_mlp
from recsysml.nn.norm import make_norm
from recsysml.nn.rope import rope_tables
from recsysml.schemas.retrievers import SASRecConfig


class SASRec(nn.Module):
    """The item embedding is also the head: a score is the product of a position's last state and an item's vector.

    Index `n_items` is the start token that every sequence begins with, and the padding behind a short one.
    """

    rope_cos: Tensor | None  # (context_length, D/2), as rope_sin
    rope_sin: Tensor | None

    def __init__(self, config: SASRecConfig, n_items: int, n_users: int = 0) -> None:
        """Who a user is does not matter here, only what they did: n_users is not used."""
        super().__init__()
        config.validate()
        self.config = config
        self.n_items = n_items
        self.context_length = config.context_length
        self.item_embedding = nn.Embedding(n_items + 1, config.d_model)
        self.position_embedding = (
            nn.Embedding(config.context_length, config.d_model) if config.position == "learned" else None
        )
        self.blocks = nn.ModuleList(self._block() for _ in range(config.n_layers))
        self.norm = make_norm(config.norm, config.d_model, config.bias)
        cos, sin = None, None
        if config.position == "rope":
            cos, sin = rope_tables(config.context_length, config.d_model // config.n_heads)
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                residual = name.startswith("blocks.") and name.endswith(".out")
                nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * config.n_layers) if residual else 0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def _block(self) -> Block:
        config = self.config
        attention = CausalSelfAttention(config.d_model, config.n_heads, bias=config.bias, dropout=config.dropout)
        mlp = make_mlp(config.mlp, config.d_model, config.bias)
        return Block(config.d_model, attention, mlp, norm=config.norm, bias=config.bias, dropout=config.dropout)

    def forward(self, inputs: Tensor, users: Tensor | None = None) -> Tensor:
        """inputs (B, T) item indices, T up to the context length -> (B, T, C): position t has seen inputs 0 .. t."""
        length = inputs.shape[1]
        if length > self.context_length:
            raise ValueError(f"{length} items, and the context is {self.context_length}: give the last ones only")
        x = self.item_embedding(inputs)  # (B, T, C)
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[:length]
        rope = None
        if self.rope_cos is not None and self.rope_sin is not None:
            rope = (self.rope_cos[:length], self.rope_sin[:length])  # (T, D/2) each
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            x, _ = block(x, rope)
        x = self.norm(x)
        return F.normalize(x, dim=-1) if self.config.normalise else x

    def item_matrix(self) -> Tensor:
        """(n_items, C): the vectors a state is multiplied with."""
        items = self.item_embedding.weight[: self.n_items]
        return F.normalize(items, dim=-1) if self.config.normalise else items

    def item_side(self) -> list[nn.Parameter]:
        """None: the item embedding is read by the history as well."""
        return []

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The 2-D weights inside the blocks, for Muon."""
        return [p for p in self.blocks.parameters() if p.ndim == 2]
