"""Config of every trainer kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass
class LanguageTrainerConfig:
    """Next-token training of a language model."""

    family: ClassVar[str] = "text"

    kind: str = "language"
    # optimiser steps
    max_steps: int = 300
    # sequences in one optimiser step, over all accumulation steps and processes
    batch_size: int = 16
    # micro-batches one step is cut into: less memory, same mathematics
    grad_accum: int = 1
    # adamw or muon (hidden matrices by Muon, the rest by AdamW)
    optimizer: str = "adamw"
    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    # largest global gradient norm; 0 is no clipping
    grad_clip: float = 1.0
    # cosine, linear, wsd (warm-up, stable, decay) or constant
    schedule: str = "cosine"
    warmup_steps: int = 30
    # the last learning rate as a share of the first
    min_lr_ratio: float = 0.1
    # share of the steps that wsd spends decaying
    decay_fraction: float = 0.2
    # fp32, bf16, fp16 (with a gradient scaler) or auto (bf16 where the hardware multiplies it, else fp32)
    precision: str = "auto"
    compile: bool = True
    # same config, same seed, same bits (on a CPU, or on one kind of GPU)
    deterministic: bool = True
    # recompute activations in the backward pass: less memory, a third more time
    gradient_checkpointing: bool = False
    # rows of the logits computed at once in the loss; 0 is all at once (faster; more memory)
    loss_chunk: int = 0
    # decay of an exponential moving average of the weights used for validation and best/; 0 is none
    ema_decay: float = 0.0
    # background processes that read batches; null is 2 on a GPU and none on a CPU
    loader_workers: int | None = None
    # in steps; 0 is only at the end (validation is also done at step 0)
    eval_every: int = 50
    checkpoint_every: int = 100
    log_every: int = 1
    # how many step-* checkpoints are kept beside the best
    keep_checkpoints: int = 2
    # tokens sampled from `sample_prompt` at each validation; 0 is none
    sample_tokens: int = 64
    sample_prompt: str = ""
