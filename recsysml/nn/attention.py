"""Causal self-attention, with grouped keys and values, rotary positions, query-key norm and a cache as options."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsysml.nn.norm import EPSILON
from recsysml.nn.rope import apply_rope


class KVCache:
    """Keys and values of the positions already seen: per layer (B, Hkv, capacity, D) each, filled up to `length`."""

    def __init__(self, n_layers: int, batch: int, n_kv_heads: int, capacity: int, head_width: int) -> None:
        self.shape = (batch, n_kv_heads, capacity, head_width)
        self.capacity = capacity
        self.length = 0
        self._layers: list[tuple[Tensor, Tensor] | None] = [None] * n_layers

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k, v (B, Hkv, T, D) behind what is there; returns all of them, (B, Hkv, length + T, D) each.

        `length` itself is moved by the model, once, after the last layer.
        """
        held = self._layers[layer]
        if held is None:  # made here, where the dtype and device are known
            held = self._layers[layer] = (k.new_empty(self.shape), v.new_empty(self.shape))
        end = self.length + k.shape[2]
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} positions, and {end} were asked for: start a new one")
        held[0][:, :, self.length : end] = k
        held[1][:, :, self.length : end] = v
        return held[0][:, :, :end], held[1][:, :, :end]


class Packing(NamedTuple):
    """Rows (B, T) of different lengths without their padding: a layer is given (1, N, C), its N tokens in order.

    Only attention needs to know rows; everything else then computes nothing that is thrown away.
    """

    shape: tuple[int, int]  # (B, T)
    cells: Tensor  # (N,) int64: which of the B * T places hold tokens
    wanted: Tensor | None = None  # (U,) int64: which of the N tokens the layer is asked for; None is all of them

    def spread(self, x: Tensor) -> Tensor:
        """(1, N, C) -> (B, T, C), zero where no token is."""
        padded = x.new_zeros(self.shape[0] * self.shape[1], x.shape[2])
        return padded.index_copy(0, self.cells, x[0]).view(*self.shape, x.shape[2])

    def gather(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (1, U, C), of the tokens that are asked for."""
        cells = self.cells if self.wanted is None else self.cells[self.wanted]
        return x.flatten(0, 1)[cells].unsqueeze(0)

    def keep(self, x: Tensor) -> Tensor:
        """(1, N, C) -> (1, U, C)."""
        return x if self.wanted is None else x[:, self.wanted]


class CausalSelfAttention(nn.Module):
    """softmax(q k^T / sqrt(D)) v over earlier positions and the own one (Vaswani et al. 2017, eq. 1).

    `n_kv_heads` < `n_heads` lets groups of query heads share keys and values (Ainslie et al. 2023). `qk_norm` puts an
    RMSNorm over each head's query and key before rotation and product (Henry et al. 2020). Queries, keys and values
    have a matrix each, so that an optimiser that works on whole matrices sees them apart.
    Padding belongs on the right: causality then keeps it from every real position, and no mask is needed.
    """

    def __init__(
        self,
        width: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        *,
        bias: bool = True,
        qk_norm: bool = False,
        dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.n_kv_heads = n_kv_heads or n_heads
        if width % n_heads or n_heads % self.n_kv_heads:
            raise ValueError(
                f"width {width}, heads {n_heads}, kv heads {self.n_kv_heads}: each must divide the one before"
            )
        self.head_width = width // n_heads
        self.dropout = dropout
        self.backend = backend
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(width, self.n_kv_heads * self.head_width, bias=bias)
        self.value = nn.Linear(width, self.n_kv_heads * self.head_width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.query_norm = nn.RMSNorm(self.head_width, eps=EPSILON) if qk_norm else None
        self.key_norm = nn.RMSNorm(self.head_width, eps=EPSILON) if qk_norm else None

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor] | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
        mask: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """x (B, T, C) -> (B, T, C). `rope` holds the tables' T rows of these positions; `cache` those before them.

        `mask` (B, 1, T, T), 0 where a query may look and -inf elsewhere, stands in for the causal one. With `packing`,
        x is (1, N, C) and the result (1, U, C).
        """
        q, k, v = self.query(x), self.key(x), self.value(x)
        if packing is not None:
            q, k, v = packing.spread(q), packing.spread(k), packing.spread(v)
        batch, length, width = q.shape
        q = q.view(batch, length, self.n_heads, self.head_width).transpose(1, 2)  # (B, H, T, D)
        k = k.view(batch, length, self.n_kv_heads, self.head_width).transpose(1, 2)  # (B, Hkv, T, D)
        v = v.view(batch, length, self.n_kv_heads, self.head_width).transpose(1, 2)
        if self.query_norm is not None and self.key_norm is not None:
            # in the weights' precision: under autocast q is bf16 and RMSNorm has no fused form for the mixture
            q = self.query_norm(q.to(self.query_norm.weight.dtype))
            k = self.key_norm(k.to(self.key_norm.weight.dtype))
        if rope is not None:
            q, k = apply_rope(q, *rope), apply_rope(k, *rope)
        q, k = q.to(v.dtype), k.to(v.dtype)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        y = attend(q, k, v, self.backend, self.dropout if self.training else 0.0, mask)
        y = y.transpose(1, 2).reshape(batch, length, width)
        return self.out(y if packing is None else packing.gather(y))


def attend(
    q: Tensor, k: Tensor, v: Tensor, backend: str = "auto", dropout: float = 0.0, mask: Tensor | None = None
) -> Tensor:
    """Causal attention of q (B, H, T, D) on k, v (B, Hkv, S, D), S >= T, -> (B, H, T, D).

    The last T keys are the queries' own positions. A `mask` (B, 1, T, S) to be added replaces the causal one.
    auto is SDPA (flash attention) on accelerators and from 2,048 positions on, and explicit matrix products on a CPU
    below that, where they are faster: the queries are cut in up to four blocks of 128 or more, so that most of the
    products above the diagonal are never formed.
    """
    length, keys = q.shape[2], k.shape[2]
    if backend == "auto":
        backend = "matmul" if q.device.type == "cpu" and keys < 2048 else "sdpa"
    grouped = k.shape[1] != q.shape[1]
    if backend == "sdpa" and mask is not None:
        return F.scaled_dot_product_attention(q, k, v, mask.to(q.dtype), dropout, enable_gqa=grouped)
    if backend == "sdpa":
        # is_causal lines queries up with the FIRST keys, which is wrong behind a cache: one query needs no mask at
        # all, several need theirs spelt out
        mask = None if length in (1, keys) else _mask(length, keys, keys - length, q)
        causal = mask is None and length > 1
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=causal, enable_gqa=grouped)
    if backend != "matmul":
        raise ValueError(f"attention {backend!r} does not exist: use auto, sdpa or matmul")
    if grouped:
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    q = q * (1 / math.sqrt(q.shape[-1]))
    if mask is not None:
        weights = F.dropout((q @ k.transpose(2, 3) + mask).softmax(dim=-1), dropout, training=dropout > 0)
        return weights.to(v.dtype) @ v
    n_blocks = max(1, min(4, length // 128))
    bounds = [length * i // n_blocks for i in range(n_blocks + 1)]
    blocks = []
    for start, end in pairwise(bounds):
        seen = keys - length + end  # no key beyond the block's last query can matter
        scores = q[:, :, start:end] @ k[:, :, :seen].transpose(2, 3)  # (B, H, end-start, seen)
        if end - start > 1:
            scores = scores + _mask(end - start, seen, seen - (end - start), scores)
        weights = F.dropout(scores.softmax(dim=-1), dropout, training=dropout > 0)
        blocks.append(weights.to(v.dtype) @ v[:, :, :seen])
    return blocks[0] if n_blocks == 1 else torch.cat(blocks, dim=2)


def _mask(rows: int, columns: int, offset: int, like: Tensor) -> Tensor:
    """(rows, columns): 0 where column <= row + offset, else -inf."""
    return like.new_full((rows, columns), -math.inf).triu(offset + 1)
