"""The roof of the training step: its matrix products and nothing else, served as a contender like any other.

    python roof.py VOCAB THREADS fp32|bf16 highest|medium

Forward, input gradient and weight gradient of every linear layer, and the half of the attention products that
causality leaves, into buffers that are there already. No step that computes the same can be faster on this machine
with this library; how near one comes is its share of the roof.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from contenders import CONTEXT, HEADS, LAYERS, ROWS, WIDTH
from duel import serve

TOKENS = ROWS * CONTEXT


def products(vocab_size: int) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """(how often, shape, shape) of every matrix product of a step."""
    found: list[tuple[int, tuple[int, ...], tuple[int, ...]]] = []
    linear = [
        (LAYERS, WIDTH, 3 * WIDTH),
        (LAYERS, WIDTH, WIDTH),
        (LAYERS, WIDTH, 4 * WIDTH),
        (LAYERS, 4 * WIDTH, WIDTH),
    ]
    for count, inputs, outputs in (*linear, (1, WIDTH, vocab_size)):
        found.append((count, (TOKENS, inputs), (inputs, outputs)))
        found.append((count, (TOKENS, outputs), (outputs, inputs)))
        found.append((count, (outputs, TOKENS), (TOKENS, inputs)))
    head, half = WIDTH // HEADS, CONTEXT // 2
    # scores, values, and the two gradients of each, over half the keys
    found.append((2 * LAYERS, (ROWS * HEADS, CONTEXT, head), (ROWS * HEADS, head, half)))
    found.append((4 * LAYERS, (ROWS * HEADS, CONTEXT, half), (ROWS * HEADS, half, head)))
    return found


def flops(vocab_size: int) -> int:
    """Floating-point operations of all `products`."""
    total = 0
    for count, left, right in products(vocab_size):
        total += 2 * count * right[-1] * torch.Size(left).numel()
    return total


def roof(vocab_size: int, dtype: torch.dtype) -> Callable[[int], float]:
    work = []
    for count, left, right in products(vocab_size):
        a, b = torch.randn(left, dtype=dtype), torch.randn(right, dtype=dtype)
        work.append((count, a, b, a @ b))

    def step(_: int) -> float:
        for count, a, b, out in work:
            for _ in range(count):
                torch.matmul(a, b, out=out)
        return 0.0

    return step


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    torch.set_float32_matmul_precision(sys.argv[4])
    serve(roof(int(sys.argv[1]), torch.bfloat16 if sys.argv[3] == "bf16" else torch.float32))
