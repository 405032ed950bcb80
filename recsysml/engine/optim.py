"""Which optimiser takes which parameter."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from recsysml.engine.muon import Muon
from recsysml.errors import ConfigError

OPTIMIZERS = ("adamw", "muon")


def build(model: nn.Module, config: Any, *, bf16: bool) -> list[torch.optim.Optimizer]:
    """The optimisers of `model`, each trainable parameter in exactly one group of one of them.

    `adamw`: AdamW (Loshchilov & Hutter 2019), in one kernel where `fused`. Weight decay falls on tensors of two or
    more dimensions, the embeddings among them as in GPT-2's training; never on norms and biases. `muon`:
    `model.hidden_matrices()` by Muon, the rest by AdamW as above, with one learning rate for both. What a model calls
    its `quick_parameters()` has three times that rate and no decay. `bf16`: the hardware multiplies bfloat16 fast.
    `config` has optimizer, lr, beta1, beta2, weight_decay, fused. Raises ConfigError for an
    unknown optimizer.
    """
    if config.optimizer not in OPTIMIZERS:
        raise ConfigError(f"trainer.optimizer={config.optimizer}: choose one of {', '.join(OPTIMIZERS)}")
    matrices: list[nn.Parameter] = []
    if config.optimizer == "muon":
        if not hasattr(model, "hidden_matrices"):
            raise ConfigError(f"trainer.optimizer=muon: {type(model).__name__} does not say which matrices are hidden")
        matrices = [matrix for matrix in model.hidden_matrices() if matrix.requires_grad]  # type: ignore[operator]
    taken = {id(matrix) for matrix in matrices}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    quick = {id(p) for p in getattr(model, "quick_parameters", list)()}
    decays = 2 if config.weight_decay else 0  # without a decay all are one group, and one kernel's work
    groups = [
        {"params": [p for p in rest if p.ndim >= decays and id(p) not in quick], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < decays and id(p) not in quick], "weight_decay": 0.0},
        {"params": [p for p in rest if id(p) in quick], "weight_decay": 0.0, "lr_scale": 3.0},
    ]
    betas = (config.beta1, config.beta2)
    groups = [group for group in groups if group["params"]]
    optimizers: list[torch.optim.Optimizer] = []
    if groups:
        optimizers.append(torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=1e-8, fused=config.fused))
    if matrices:
        optimizers.append(Muon(matrices, bf16=bf16, lr=config.lr, weight_decay=config.weight_decay, momentum=0.95))
    return optimizers


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], lr: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)


def clip(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients so that their global norm is at most `max_norm` (0: leave them). Returns the norm before."""
    return nn.utils.clip_grad_norm_(parameters, max_norm if max_norm > 0 else math.inf)
