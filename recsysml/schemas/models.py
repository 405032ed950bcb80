"""Config of every model kind."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from recsysml.errors import ConfigError

# size: layers, heads, d_model, context. small to xl are GPT-2's four (Radford et al. 2019, table 2).
SIZES: dict[str, tuple[int, int, int, int]] = {
    "nano": (4, 4, 256, 256),
    "micro": (6, 6, 384, 256),
    "small": (12, 12, 768, 1024),
    "medium": (24, 16, 1024, 1024),
    "large": (36, 20, 1280, 1024),
    "xl": (48, 25, 1600, 1024),
}
DIMENSIONS = ("n_layers", "n_heads", "d_model", "context_length")
CHOICES = {
    "size": (*SIZES, "auto"),
    "position": ("learned", "rope"),
    "norm": ("layernorm", "rmsnorm"),
    "mlp": ("gelu", "swiglu"),
    "attention": ("auto", "sdpa", "matmul"),
}


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

    def dimensions(self, size: str) -> dict[str, int]:
        """Layers, heads, width and context of `size`, with what the config itself sets in their place."""
        own = {name: getattr(self, name) for name in DIMENSIONS}
        return {k: n if own[k] is None else own[k] for k, n in zip(DIMENSIONS, SIZES[size], strict=True)}

    @property
    def size_decides(self) -> bool:
        """Whether `size` sets a dimension; numbers of their own, or the weights to start from, may set them all."""
        return self.init_from is None and None in (getattr(self, name) for name in DIMENSIONS)

    def validate(self) -> None:
        """Raises ConfigError, saying the mend, for what no model can be. Needs no torch."""
        for field, choices in CHOICES.items():
            if getattr(self, field) not in choices:
                raise ConfigError(f"model.{field}={getattr(self, field)}: choose one of {', '.join(choices)}")
        for field in (*DIMENSIONS, "n_kv_heads", "pad_vocab_to", "n_experts_per_token"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ConfigError(f"model.{field}={value} must be at least 1")
        for field in ("n_experts", "load_balance_weight", "router_z_weight"):
            if not 0 <= getattr(self, field) < math.inf:  # also false of nan
                raise ConfigError(f"model.{field}={getattr(self, field)} must be 0 or more")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.dropout={self.dropout} must be at least 0 and below 1")
        if not 0 < self.rope_theta < math.inf:
            raise ConfigError(f"model.rope_theta={self.rope_theta} must be above 0")
        if self.n_experts == 1:
            raise ConfigError("model.n_experts=1 is a dense MLP with a router: use 0, or at least 2")
        if self.n_experts and self.n_experts_per_token > self.n_experts:
            raise ConfigError(
                f"model.n_experts_per_token={self.n_experts_per_token} is more than model.n_experts={self.n_experts}: "
                f"use at most {self.n_experts}"
            )
        # auto is one of two sizes: a mistake in both is found here, in one of them when the size is known
        sizes = ("nano", "small") if self.size == "auto" else (self.size,)
        faults = [self._heads_fault(self.dimensions(size)) for size in sizes]
        if all(faults):
            raise ConfigError(str(faults[0]))

    def _heads_fault(self, numbers: dict[str, int]) -> str | None:
        heads, width = numbers["n_heads"], numbers["d_model"]
        if width % heads:
            nearest = width // heads * heads or heads
            return f"model.d_model={width} is not a multiple of model.n_heads={heads}: use {nearest}"
        if self.position == "rope" and width // heads % 2:
            return f"model.position=rope needs an even head width, and d_model/n_heads is {width // heads}"
        if self.n_kv_heads is not None and heads % self.n_kv_heads:
            fits = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
            return f"model.n_kv_heads={self.n_kv_heads} does not divide model.n_heads={heads}: use one of {fits}"
        return None


@dataclass
class HFConfig:
    """A causal language model of `transformers`, to be judged by tasks; it is not trained here."""

    accepts: ClassVar[str] = "text"
    trainers: ClassVar[tuple[str, ...]] = ("language",)
    trained_elsewhere: ClassVar[bool] = True

    kind: str = "hf"
    # a label of the YAML; hf stands for the last part of `path`
    name: str = "hf"
    # a local folder, or a name on the Hugging Face hub
    path: str | None = None

    def validate(self) -> None:
        """Nothing can be wrong before `path` is looked for, which `eval` does."""
