"""Layers that turn a ranker's logits into logits of the right probabilities, one map a task.

Each takes logits (B, K) of K tasks and gives (B, K) and begins as the identity, so that a layer that was not fitted
changes nothing. They are monotone, so that the order within a cohort stays as it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsysml.schemas.rankers import CALIBRATIONS

# of an isotonic table: its size is known before it is fitted
N_KNOTS = 512
SHAPES = CALIBRATIONS
# how far the isotonic table reaches before it is fitted, where it is the identity but for what lies between knots
_FURTHEST = 15.0
# what the table rises by beside its fit, as a share of 1 + |logit|, from its middle to an end, and beyond its ends in
# all: less than 0.001 of any probability, and so that rows which the fit takes for alike keep their order in float32
_RISE, _RISE_BEYOND = 0.002, 0.001
# softplus of it is 1
_ONE = math.log(math.e - 1)


class Temperature(nn.Module):
    """z / t, t > 0 (Guo et al. 2017)."""

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.zeros(n_tasks))

    def forward(self, logits: Tensor) -> Tensor:
        return logits * torch.exp(-self.log_temperature)


class Platt(nn.Module):
    """softplus(a) z + b (Platt 1999): logistic regression of one variable whose slope is never negative."""

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((n_tasks,), _ONE))
        self.bias = nn.Parameter(torch.zeros(n_tasks))

    def forward(self, logits: Tensor) -> Tensor:
        return logits * F.softplus(self.slope) + self.bias


class Beta(nn.Module):
    """a log p - b log(1 - p) + c with a, b > 0 (Kull et al. 2017, eq. 1): each tail has a slope of its own."""

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        self.slopes = nn.Parameter(torch.full((2, n_tasks), _ONE))
        self.bias = nn.Parameter(torch.zeros(n_tasks))

    def forward(self, logits: Tensor) -> Tensor:
        up, down = F.softplus(self.slopes)
        return up * F.logsigmoid(logits) - down * F.logsigmoid(-logits) + self.bias


class IsotonicLayer(nn.Module):
    """A rising line of `n_pieces` straight pieces, which gradients can fit; beyond its ends the last slopes go on.

    A row costs two look-ups, however many pieces there are.
    """

    low: Tensor  # (K,) where the first piece begins
    width: Tensor  # (K,) of a piece

    def __init__(self, n_tasks: int, n_pieces: int = 20, low: float = -8.0, high: float = 8.0) -> None:
        super().__init__()
        self.slopes = nn.Parameter(torch.full((n_pieces, n_tasks), _ONE))
        self.bias = nn.Parameter(torch.zeros(n_tasks))
        self.register_buffer("low", torch.full((n_tasks,), low))
        self.register_buffer("width", torch.full((n_tasks,), (high - low) / n_pieces))

    def cover(self, low: Tensor, high: Tensor) -> None:
        """Put the pieces between low and high (K,), where the logits are."""
        self.low.copy_(low)
        self.width.copy_((high - low).clamp(min=1e-3) / len(self.slopes))

    def forward(self, logits: Tensor) -> Tensor:
        slopes = F.softplus(self.slopes)  # (n_pieces, K)
        rises = slopes * self.width
        begins = torch.cumsum(rises, dim=0) - rises  # (n_pieces, K) height at which each piece begins
        piece = ((logits.detach() - self.low) / self.width).floor().clamp(0, len(slopes) - 1).long()  # (B, K)
        along = logits - self.low - piece * self.width
        return self.bias + self.low + begins.gather(0, piece) + slopes.gather(0, piece) * along


class IsotonicTable(nn.Module):
    """The fit of an isotonic regression as a table: probabilities at logits, straight between, flat beyond the ends.

    Flat stretches would tie the rows in them and so move every measure of order: hence a slight rise along the knots.
    """

    at: Tensor  # (K, n_knots) logits, rising; a task with fewer knots repeats its last
    probability: Tensor  # (K, n_knots), strictly between 0 and 1

    def __init__(self, n_tasks: int, n_knots: int) -> None:
        super().__init__()
        begin = torch.linspace(-_FURTHEST, _FURTHEST, n_knots).repeat(n_tasks, 1)
        self.register_buffer("at", begin)
        self.register_buffer("probability", torch.sigmoid(begin))

    def forward(self, logits: Tensor) -> Tensor:
        z = logits.t().contiguous()  # (K, B)
        last = self.at.shape[1] - 1
        right = torch.searchsorted(self.at, z, right=True).clamp(1, last)
        left = right - 1
        begin, end = self.at.gather(1, left), self.at.gather(1, right)
        share = torch.where(end > begin, (z - begin) / (end - begin).clamp(min=1e-30), 1.0).clamp(0, 1)
        p = torch.lerp(self.probability.gather(1, left), self.probability.gather(1, right), share)
        along = 2 * (left + share) / last - 1  # from -1 to 1, as quick as there are knots
        beyond = z - z.clamp(self.at[:, :1], self.at[:, -1:])
        fit = torch.logit(p)
        return (fit + _RISE * along * (1 + fit.abs()) + _RISE_BEYOND * beyond / (1 + beyond.abs())).t()


class CohortBias(nn.Module):
    """A shift of the logit for each value of each of C cohort features, added up; 0 until it is fitted."""

    starts: Tensor  # (C,) where each feature's values begin in the table

    def __init__(self, sizes: Sequence[int], n_tasks: int) -> None:
        """sizes: of each feature the number of its values."""
        super().__init__()
        edges = torch.cumsum(torch.tensor([0, *sizes]), dim=0)
        self.register_buffer("starts", edges[:-1], persistent=False)
        self.shifts = nn.Parameter(torch.zeros(int(edges[-1]), n_tasks))

    def forward(self, cohorts: Tensor) -> Tensor:
        """cohorts (B, C) ids -> (B, K)."""
        return self.shifts[cohorts + self.starts].sum(dim=1)


class Calibration(nn.Module):
    """A map of the logit, then the shifts of cohorts. `settings` rebuild it, its state dict fills it."""

    def __init__(self, kind: str, n_tasks: int, cohort_sizes: Sequence[int] = (), n_knots: int = N_KNOTS) -> None:
        """kind: one of SHAPES. n_knots: of the isotonic table, however many its fit finds."""
        super().__init__()
        if kind not in SHAPES:
            raise ValueError(f"calibration {kind!r} does not exist: use {', '.join(SHAPES)}")
        self.settings = {
            "kind": kind,
            "n_tasks": n_tasks,
            "cohort_sizes": [int(size) for size in cohort_sizes],
            "n_knots": n_knots,
        }
        made = {"temperature": Temperature, "platt": Platt, "beta": Beta, "isotonic_layer": IsotonicLayer}
        if kind == "isotonic":
            self.shape: nn.Module = IsotonicTable(n_tasks, n_knots)
        else:
            self.shape = made[kind](n_tasks) if kind in made else nn.Identity()
        self.cohort = CohortBias(cohort_sizes, n_tasks) if cohort_sizes else None

    def forward(self, logits: Tensor, cohorts: Tensor | None = None) -> Tensor:
        """logits (B, K) and, where it was made for cohorts, their ids (B, C) -> (B, K)."""
        shaped = self.shape(logits)
        if self.cohort is None:
            return shaped
        if cohorts is None:
            raise ValueError("this calibration was fitted with cohorts: give their ids (B, C)")
        return shaped + self.cohort(cohorts)
