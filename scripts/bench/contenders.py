"""One contender of the training-step benchmark, in a process of its own: builds its model and serves steps.

    python contenders.py plain|tuned|transformers|ours [VOCAB] [THREADS] [key=value ...]

All do the same: 6 layers, 384 wide, 6 heads, 12 x 256 tokens, loss, backward, clipping at norm 1, AdamW, and the
loss read back. Batches are made before the clock starts. `ours` starts from the plain model's weights, so that the
losses must agree step by step. key=value sets a trainer or model field of ours (compile=false, attention=sdpa, ...).
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from duel import serve
from plain_gpt import PlainGPT, plain_optimizer
from torch import Tensor, nn

LAYERS, WIDTH, HEADS, CONTEXT, ROWS = 6, 384, 6, 256, 12
Loss = Callable[[Tensor, Tensor], Tensor]


def batches(vocab_size: int, count: int = 8) -> list[tuple[Tensor, Tensor]]:
    tokens = torch.randint(vocab_size, (count, ROWS, CONTEXT + 1), generator=torch.Generator().manual_seed(0))
    return [(rows[:, :-1].contiguous(), rows[:, 1:].contiguous()) for rows in tokens]


def step_of(
    loss: Loss, model: nn.Module, optimizers: list[torch.optim.Optimizer], vocab_size: int
) -> Callable[[int], float]:
    data = batches(vocab_size)

    def step(i: int) -> float:
        value = loss(*data[i % len(data)])
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return value.item()

    return step


def plain_model(vocab_size: int) -> PlainGPT:
    torch.manual_seed(1)
    return PlainGPT(vocab_size, LAYERS, HEADS, WIDTH, CONTEXT)


def plain(vocab_size: int) -> Callable[[int], float]:
    model = plain_model(vocab_size)
    return step_of(model, model, [plain_optimizer(model)], vocab_size)


def tuned(vocab_size: int) -> Callable[[int], float]:
    """The plain model with the two switches everybody knows: fused AdamW and torch.compile."""
    model = plain_model(vocab_size)
    return step_of(torch.compile(model), model, [plain_optimizer(model, fused=True)], vocab_size)


def transformers(vocab_size: int) -> Callable[[int], float]:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    sizes = {"n_layer": LAYERS, "n_embd": WIDTH, "n_head": HEADS, "n_positions": CONTEXT, "vocab_size": vocab_size}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(**sizes, **off)).train()

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model(tokens, use_cache=False).logits.flatten(0, 1), targets.flatten())

    return step_of(loss, model, [plain_optimizer(model)], vocab_size)


def ours(vocab_size: int, settings: dict[str, str]) -> Callable[[int], float]:
    """The project's model, optimiser, precision, determinism and compilation, with the trainer's defaults."""
    from recsysml.engine import device, optim
    from recsysml.engine.compiling import compile_loss
    from recsysml.engine.distributed import World
    from recsysml.models.gpt import GPT
    from recsysml.schemas.models import GPTConfig
    from recsysml.schemas.trainers import LanguageTrainerConfig

    config = GPTConfig(size="micro", n_layers=LAYERS, n_heads=HEADS, d_model=WIDTH, context_length=CONTEXT)
    trainer = LanguageTrainerConfig(lr=6e-4, deterministic=True)
    for key, text in settings.items():
        owner = trainer if hasattr(trainer, key) else config
        kind = type(getattr(owner, key))
        setattr(owner, key, text == "true" if kind is bool else kind(text))
    precision = device.resolve_precision(trainer.precision, "cpu")
    machine = device.prepare(
        "cpu",
        precision,
        threads=torch.get_num_threads(),
        deterministic=trainer.deterministic,
        keep_memory=trainer.keep_memory,
    )
    model = GPT(config, vocab_size)
    if config.position == "learned":
        copy_weights(plain_model(vocab_size), model)

    def loss(tokens: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return model(tokens, targets, loss_chunk=trainer.loss_chunk).loss, {}

    compute = compile_loss(loss, model, batches(vocab_size)[0], machine, World()) if trainer.compile else loss

    def cast(tokens: Tensor, targets: Tensor) -> Tensor:
        with machine.autocast():
            return compute(tokens, targets)[0]

    optimizers = optim.build(model, trainer, bf16=device.bf16_is_fast("cpu"))
    return step_of(cast, model, optimizers, vocab_size)


@torch.no_grad()
def copy_weights(source: PlainGPT, target: nn.Module) -> None:
    """Our GPT with the plain model's weights: the same function up to the GELU's tanh approximation (below 1e-3)."""
    tensors = dict(target.named_parameters())
    tensors["token_embedding.weight"][: source.token.num_embeddings] = source.token.weight
    tensors["position_embedding.weight"].copy_(source.position.weight)
    pairs = {
        "attention_norm": "norm_1",
        "attention.out": "attention_out",
        "mlp_norm": "norm_2",
        "mlp.up": "up",
        "mlp.out": "down",
    }
    own = dict(source.named_parameters())
    for part in ("weight", "bias"):
        tensors[f"norm.{part}"].copy_(own[f"norm.{part}"])
        for layer in range(LAYERS):
            for ours_name, plain_name in pairs.items():
                tensors[f"blocks.{layer}.{ours_name}.{part}"].copy_(own[f"blocks.{layer}.{plain_name}.{part}"])
            thirds = own[f"blocks.{layer}.qkv.{part}"].chunk(3)
            for name, third in zip(("query", "key", "value"), thirds, strict=True):
                tensors[f"blocks.{layer}.attention.{name}.{part}"].copy_(third)


def main() -> None:
    name, vocab_size, threads, *settings = sys.argv[1:]
    torch.set_num_threads(int(threads))
    if name == "ours":
        serve(ours(int(vocab_size), dict(text.split("=", 1) for text in settings)))
    else:
        serve({"plain": plain, "tuned": tuned, "transformers": transformers}[name](int(vocab_size)))


if __name__ == "__main__":
    main()
