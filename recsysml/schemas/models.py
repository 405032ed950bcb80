"""Config of every model kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass
class GPTConfig:
    """A decoder-only transformer: GPT-2, and each of its later improvements as a switch of its own."""

    accepts: ClassVar[str] = "text"  # the data family it learns from
    trainers: ClassVar[tuple[str, ...]] = ("language",)

    kind: str = "gpt"
    # a label of the YAML: the model's name in results.json
    name: str = "gpt2"
    # nano, micro, small (124M), medium, large, xl, or auto (small on a GPU, nano on a CPU)
    size: str = "auto"
    # null takes the size's own number; a number here overrides it
    n_layers: int | None = None
    n_heads: int | None = None
    d_model: int | None = None
    context_length: int | None = None
    # key/value heads: null is one per query head (MHA); fewer is grouped-query attention (Ainslie et al. 2023)
    n_kv_heads: int | None = None
    # learned (GPT-2) or rope (Su et al. 2021)
    position: str = "learned"
    rope_theta: float = 10000.0
    # layernorm or rmsnorm (Zhang & Sennrich 2019)
    norm: str = "layernorm"
    # gelu (tanh approximation, hidden 4d) or swiglu (Shazeer 2020, hidden 8/3 d: the same number of parameters)
    mlp: str = "gelu"
    # normalise queries and keys per head before their product (Henry et al. 2020)
    qk_norm: bool = False
    bias: bool = True
    dropout: float = 0.0
    tie_embeddings: bool = True
    # mixture of experts: 0 is a dense MLP
    n_experts: int = 0
    n_experts_per_token: int = 2
    load_balance_weight: float = 0.01
    router_z_weight: float = 0.001
    # the vocabulary is padded to a multiple of this; padded rows are never sampled and never counted
    pad_vocab_to: int = 64
    # auto, sdpa or matmul (explicit blocks: faster on a CPU for short contexts)
    attention: str = "auto"
    # a Hugging Face GPT-2 folder, a run directory or a checkpoint to start from
    init_from: str | None = None
