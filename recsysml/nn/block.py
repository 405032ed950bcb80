"""The transformer block that all sequence models here are stacked from."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from recsysml.nn.attention import CausalSelfAttention, KVCache, Packing
from recsysml.nn.moe import MoE
from recsysml.nn.norm import make_norm


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): normalised before, not after (Xiong et al. 2020)."""

    def __init__(
        self, width: int, attention: CausalSelfAttention, mlp: nn.Module, *, norm: str, bias: bool, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.attention_norm = make_norm(norm, width, bias)
        self.attention = attention
        self.mlp_norm = make_norm(norm, width, bias)
        self.mlp = mlp
        self.dropout = dropout

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor] | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
        mask: Tensor | None = None,
        packing: Packing | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """x (B, T, C) -> (B, T, C), and the router's auxiliary loss (a scalar; None without a mixture of experts).

        With `packing`, (1, N, C) -> (1, U, C).
        """
        attended = self.attention(self.attention_norm(x), rope, cache, layer, mask, packing)
        x = (x if packing is None else packing.keep(x)) + F.dropout(attended, self.dropout, self.training)
        if isinstance(self.mlp, MoE):
            y, auxiliary = self.mlp(self.mlp_norm(x))
        else:
            y, auxiliary = self.mlp(self.mlp_norm(x)), None
        return x + F.dropout(y, self.dropout, self.training), auxiliary
