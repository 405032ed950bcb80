"""Rows of many lengths through an encoder without the padding that the longest would force on all."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# fewer rows than this join the next longer ones: another pass would cost more than their padding
FEWEST = 16


def by_length(encode: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, users: Tensor, lengths: Tensor) -> Tensor:
    """encode(inputs, users) -> (B, T, C), computed for rows of alike lengths together; 0 at the places behind a group.

    (B, T, H, C) where `encode` gives each place several vectors.
    inputs (B, T) with padding on the right, users (B,), lengths (B,) the places of each row that count, 1 at least. A
    group's longest row is at most twice its shortest, small groups aside, so that no more than half of what is
    computed is padding. `encode` must not look to the right.
    """
    order = lengths.argsort(stable=True)  # (B,)
    states = []
    sorted_lengths = lengths[order].tolist()
    for start, stop in groups(sorted_lengths):
        rows = order[start:stop]
        longest = sorted_lengths[stop - 1]
        part = encode(inputs[rows, :longest], users[rows])  # (b, t, C) or (b, t, H, C)
        # along the second dimension: a place may have several vectors
        states.append(F.pad(part, (*[0] * (2 * part.ndim - 4), 0, inputs.shape[1] - longest)))
    return torch.cat(states)[order.argsort()]


def groups(lengths: list[int]) -> list[tuple[int, int]]:
    """Where to cut rising lengths: (start, stop) of each group."""
    found = []
    start = 0
    for i in range(1, len(lengths) + 1):
        if i == len(lengths) or (lengths[i] > 2 * lengths[start] and i - start >= FEWEST):
            found.append((start, i))
            start = i
    return found
