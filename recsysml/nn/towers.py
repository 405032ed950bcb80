"""What each task has for itself behind what all share: (B, T, K) -> (B, T), a logit a task."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsysml.nn.dropout import dropout


class Towers(nn.Module):
    """A tower a task, of the same form, computed together: layers with ReLU and dropout, then a linear one.

    Weights are kept 2-D, (T x out, in), as the optimisers expect of matrices. norm=batch: as `Experts` have it.
    """

    def __init__(self, n: int, inputs: int, widths: Sequence[int], dropout: float = 0.0, norm: str = "none") -> None:
        super().__init__()
        self.n, self.dropout = n, dropout
        sizes = list(pairwise([inputs, *widths, 1]))
        drawn = [[nn.Linear(*size) for size in sizes] for _ in range(n)]
        layers = [[tower[place] for tower in drawn] for place in range(len(sizes))]
        weights = [nn.Parameter(torch.cat([each.weight.detach() for each in layer])) for layer in layers]
        biases = [nn.Parameter(torch.cat([each.bias.detach() for each in layer])) for layer in layers]
        self.last, self.last_bias = weights.pop(), biases.pop()  # (T, K), (T,)
        self.weights = nn.ParameterList(weights)
        # a norm takes away whatever is added before it, and has an addition of its own
        self.biases = nn.ParameterList(biases if norm == "none" else [])
        self.norms = nn.ModuleList(nn.BatchNorm1d(n * width) for width in widths if norm == "batch")

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)  # (T, B, K)
        for layer, weight in enumerate(self.weights):
            each = weight.unflatten(0, (self.n, -1)).transpose(1, 2)  # (T, K, H)
            if self.norms:
                flat = torch.bmm(x, each).transpose(0, 1).flatten(1)  # (B, T x H)
                x = self.norms[layer](flat).unflatten(1, (self.n, -1)).transpose(0, 1)
            else:
                x = torch.baddbmm(self.biases[layer].view(self.n, 1, -1), x, each)
            x = dropout(F.relu_(x), self.dropout, self.training)
        return torch.bmm(x, self.last[..., None])[..., 0].t() + self.last_bias
