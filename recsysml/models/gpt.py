"""GPT-2 (Radford et al. 2019) and its later improvements, each a switch of the config."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recsysml.errors import ConfigError
from recsysml.losses import softmax
from recsysml.models.init_from import stored_dimensions
from recsysml.nn.attention import CausalSelfAttention, KVCache, Packing
from recsysml.nn.block import Block
from recsysml.nn.mlp import make_mlp
from recsysml.nn.moe import MoE
from recsysml.nn.norm import make_norm
from recsysml.nn.rope import rope_tables
from recsysml.schemas.models import DIMENSIONS, GPTConfig


class Output(NamedTuple):
    loss: Tensor | None  # what training minimises: cross_entropy + the routers' losses
    cross_entropy: Tensor | None  # mean over the targets that count, nats a token
    logits: Tensor | None  # (B, T, vocab_size) fp32; only when no targets were given


def resolve_size(config: GPTConfig, on_gpu: bool) -> GPTConfig:
    """A copy with every null dimension filled. auto is what `init_from` holds, else small on a GPU and nano without.

    Raises ConfigError when the numbers together cannot be a model.
    """
    config.validate()
    stored = stored_dimensions(config.init_from) if config.init_from and config.size == "auto" else None
    size = config.size if config.size != "auto" else "small" if on_gpu else "nano"
    numbers: dict[str, Any] = config.dimensions(size)
    if stored is not None:
        numbers |= {name: stored[name] for name in DIMENSIONS if getattr(config, name) is None}
    resolved = dataclasses.replace(config, size=size, **numbers)
    resolved.validate()
    return resolved


def check_initial(config: GPTConfig) -> None:
    """Raise ConfigError when the weights that a new training (`config` resolved) starts from cannot be its own."""
    stored = stored_dimensions(config.init_from) if config.init_from else None
    if stored is not None and stored["d_model"] != config.d_model:
        made_with = " ".join(f"model.{name}={number}" for name, number in stored.items())
        raise ConfigError(
            f"model.init_from={config.init_from} does not fit model.d_model={config.d_model}: made with {made_with}"
        )


class GPT(nn.Module):
    """A decoder-only transformer. `config.size` must be resolved (`resolve_size`).

    The embedding has rows for a vocabulary padded to a multiple of `pad_vocab_to`, because matrix products like round
    numbers. The extra rows take part in no softmax, are no output and are not counted as parameters.
    """

    rope_cos: Tensor | None  # (context_length, D/2), as rope_sin
    rope_sin: Tensor | None

    def __init__(self, config: GPTConfig, vocab_size: int) -> None:
        super().__init__()
        config.validate()
        if config.size == "auto":
            raise ConfigError("model.size=auto is not a size yet: resolve it first")
        numbers: dict[str, Any] = config.dimensions(config.size)
        self.config = dataclasses.replace(config, **numbers)
        self.n_layers, self.n_heads = numbers["n_layers"], numbers["n_heads"]
        self.width, self.context_length = numbers["d_model"], numbers["context_length"]
        self.n_kv_heads = config.n_kv_heads or self.n_heads
        self.vocab_size = vocab_size
        self.padded_vocab_size = -(-vocab_size // config.pad_vocab_to) * config.pad_vocab_to
        self.gradient_checkpointing = False

        self.token_embedding = nn.Embedding(self.padded_vocab_size, self.width)
        self.position_embedding = (
            nn.Embedding(self.context_length, self.width) if config.position == "learned" else None
        )
        self.blocks = nn.ModuleList(self._block() for _ in range(self.n_layers))
        self.norm = make_norm(config.norm, self.width, config.bias)
        self.head = None if config.tie_embeddings else nn.Linear(self.width, self.padded_vocab_size, bias=False)
        cos, sin = None, None
        if config.position == "rope":
            cos, sin = rope_tables(self.context_length, self.width // self.n_heads, config.rope_theta)
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)
        self._initialise()

    def _block(self) -> Block:
        config = self.config
        attention = CausalSelfAttention(
            self.width,
            self.n_heads,
            self.n_kv_heads,
            bias=config.bias,
            qk_norm=config.qk_norm,
            dropout=config.dropout,
            backend=config.attention,
        )
        if config.n_experts:
            mlp: nn.Module = MoE(
                self.width,
                config.mlp,
                config.n_experts,
                config.n_experts_per_token,
                balance_weight=config.load_balance_weight,
                z_weight=config.router_z_weight,
            )
        else:
            mlp = make_mlp(config.mlp, self.width, config.bias)
        return Block(self.width, attention, mlp, norm=config.norm, bias=config.bias, dropout=config.dropout)

    def _initialise(self) -> None:
        """Normal(0, 0.02), and 1/sqrt(2L) of it for the two projections that end on the residual stream (GPT-2)."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                residual = name.startswith("blocks.") and name.endswith(".out")
                nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * self.n_layers) if residual else 0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, targets: Tensor | None = None, *, loss_chunk: int = 0) -> Output:
        """tokens, targets (B, T) int64; a target of -100 does not count.

        With targets the loss alone is returned (the logits need not outlive it), computed for `loss_chunk` rows of
        the logits at a time (0: all at once). Raises ValueError when T is above `context_length`.
        """
        hidden, auxiliary = self._hidden(tokens)
        if targets is None:
            return Output(None, None, self.unembed(hidden))
        if loss_chunk:
            entropy = softmax.chunked_cross_entropy(hidden, self._head_weight(), targets, self.vocab_size, loss_chunk)
        else:
            entropy = softmax.cross_entropy(self.unembed(hidden), targets)
        return Output(entropy if auxiliary is None else entropy + auxiliary, entropy, None)

    def logits(self, tokens: Tensor, cache: KVCache | None = None, *, last_only: bool = False) -> Tensor:
        """tokens (B, T) -> (B, T, vocab_size) fp32; (B, 1, vocab_size) of the last position with `last_only`.

        With a cache, `tokens` follow what it holds, and it grows by them.
        """
        hidden, _ = self._hidden(tokens, cache)
        return self.unembed(hidden[:, -1:] if last_only else hidden)

    def token_losses(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """(B, T), (B, T) -> (B, T) fp32: nats each target costs, 0 where it is -100."""
        return softmax.token_losses(self.logits(tokens), targets)

    def packed(
        self,
        tokens: Tensor,
        real: Tensor,
        wanted: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (U, C) after the last norm, from rows (B, T) in which several sequences may share a beginning.

        real: (N,), which of the B * T places hold tokens; nothing is computed at the others. wanted: (U,), which of
        the N the result is asked for. positions: (B, T), where each token stands in its own sequence, below
        `context_length` (T may be more). mask: (B, 1, T, T), 0 where a token may look and -inf elsewhere. Without
        both, ordinary rows with padding on the right.
        """
        packing = Packing((tokens.shape[0], tokens.shape[1]), real)
        return self._hidden(tokens, positions=positions, mask=mask, packing=packing, wanted=wanted)[0][0]

    def new_cache(self, batch: int = 1) -> KVCache:
        """An empty cache for `batch` sequences of up to `context_length` tokens."""
        return KVCache(self.n_layers, batch, self.n_kv_heads, self.context_length, self.width // self.n_heads)

    def _hidden(
        self,
        tokens: Tensor,
        cache: KVCache | None = None,
        *,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        packing: Packing | None = None,
        wanted: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T) -> (B, T, C) after the last norm, and the sum of the routers' losses.

        With `packing`, (1, U, C) of the `wanted` tokens: the last layer computes no others.
        """
        start = cache.length if cache is not None else 0
        end = start + tokens.shape[1]
        if positions is None and end > self.context_length:
            raise ValueError(
                f"{end} tokens, and the context is {self.context_length}: cut them or use a longer context"
            )
        x = self.token_embedding(tokens)  # (B, T, C)
        if self.position_embedding is not None:
            table = self.position_embedding.weight
            x = x + (table[start:end] if positions is None else F.embedding(positions, table))
        rope = None
        if self.rope_cos is not None and self.rope_sin is not None:
            rope = (self.rope_cos[start:end], self.rope_sin[start:end])  # (T, D/2) each
            if positions is not None:
                rope = (self.rope_cos[positions].unsqueeze(1), self.rope_sin[positions].unsqueeze(1))  # (B, 1, T, D/2)
        if packing is not None:
            x = packing.gather(x)
        x = F.dropout(x, self.config.dropout, self.training)
        auxiliary = None
        for layer, block in enumerate(self.blocks):
            if packing is not None and layer == self.n_layers - 1:
                packing = packing._replace(wanted=wanted)
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                x, extra = checkpoint(block, x, rope, use_reentrant=False)
            else:
                x, extra = block(x, rope, cache, layer, mask, packing)
            if extra is not None:
                auxiliary = extra if auxiliary is None else auxiliary + extra
        if cache is not None:
            cache.length = end
        return self.norm(x), auxiliary

    def _head_weight(self) -> Tensor:
        return self.token_embedding.weight if self.head is None else self.head.weight

    def unembed(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., C) -> logits (..., vocab_size) fp32.

        The product is padded, its result cut: exact, and quick.
        """
        return F.linear(hidden, self._head_weight())[..., : self.vocab_size].float()

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The 2-D weights inside the blocks, for Muon. Not the routers: like the head, they give scores of choices."""
        return [p for name, p in self.blocks.named_parameters() if p.ndim == 2 and ".router." not in name]

    def counted_parameters(self) -> dict[str, int]:
        """total, without padded rows; non_embedding, also without token and position embeddings and the head."""
        everything = sum(p.numel() for p in self.parameters())
        tables = 1 if self.head is None else 2
        positions = 0 if self.position_embedding is None else self.position_embedding.weight.numel()
        total = everything - tables * (self.padded_vocab_size - self.vocab_size) * self.width
        return {"total": total, "non_embedding": total - tables * self.vocab_size * self.width - positions}

    def flops_per_token(self) -> int:
        """Forward and backward of one token in a full context: 6N + 12 L C T (PaLM, Chowdhery et al. 2022, appendix B).

        N is the weights that multiply a token: the head, not the embeddings, and only the experts a token goes to.
        """
        active = self.counted_parameters()["non_embedding"]
        if self.config.n_experts:
            experts = sum(p.numel() for name, p in self.blocks.named_parameters() if ".experts." in name)
            active -= experts - experts * self.config.n_experts_per_token // self.config.n_experts
        active += self.vocab_size * self.width
        return 6 * active + 12 * self.n_layers * self.width * self.context_length
