"""What an item is worth by the probabilities of what may come of it, and weights from what each task is to matter.

Nobody knows what a weight of 3 does to a ranking. So importance is asked for instead, as shares, and it is measured on
rankings, in one of two ways:

    loo      what the order loses when a task is left out: the mean of 1 - NDCG of the order without it, judged by the
             full value; the share is the part of the sum over tasks
    regret   what a task loses by not being ranked for alone: the mean of 1 - NDCG of the order, judged by the task; the
             share is the part of the sum of 1 / regret, so that twice as important is half the regret
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsysml.errors import ConfigError
from recsysml.metrics.page import slate_ndcg
from recsysml.models.value_expression import ValueExpression, split_order

# a regret below it counts as it: a task that is served perfectly has no finite share
_LEAST_REGRET = 1e-6
# log weights are kept so near each other
_WIDEST = 25.0


class ValueModel:
    """value = sum of weight x probability, or a checked expression; tasks as the probabilities' columns are.

    With `top`, another expression, the first `top_places` of a slate are those of its largest values, and the items
    left stand below them by value.
    """

    def __init__(
        self,
        tasks: list[str],
        weights: Mapping[str, float],
        expression: str | None = None,
        top: str | None = None,
        top_places: int = 1,
    ) -> None:
        self.tasks = tasks
        self.weights = np.array([weights.get(task, 0.0) for task in tasks])  # (T,)
        self.expression = ValueExpression(expression, tasks) if expression else None
        self.top = ValueExpression(top, tasks, "model.top_expression") if top else None
        self.top_places = top_places

    @property
    def has_shares(self) -> bool:
        """Whether tasks have shares of importance: of a sum over what is wanted, and of no other order."""
        return self.expression is None and self.top is None and bool((self.weights >= 0).all())

    def values(self, probabilities: np.ndarray) -> np.ndarray:
        """(..., T) -> (...). Raises ValueError where an expression has no finite value."""
        if self.expression is None:
            return np.asarray(probabilities @ self.weights)
        return self._by(self.expression, probabilities)

    def slate_values(self, probabilities: np.ndarray, real: np.ndarray) -> np.ndarray:
        """(R, M) what slates are ordered by, largest first, of probabilities (R, M, T); 0 where no item is real (R, M).

        With `top` it is the place, counted from the last.
        """
        found = np.zeros(real.shape)
        found[real] = self.values(probabilities[real])
        if self.top is None:
            return found
        above = np.full(real.shape, -np.inf)
        above[real] = self._by(self.top, probabilities[real])
        rest = torch.from_numpy(np.where(real, found, -np.inf))
        order = split_order(torch.from_numpy(above), rest, self.top_places).numpy()
        places = np.broadcast_to(np.arange(real.shape[1], 0, -1.0), real.shape)
        np.put_along_axis(found, order, places, axis=1)
        return np.where(real, found, 0.0)

    def _by(self, expression: ValueExpression, probabilities: np.ndarray) -> np.ndarray:
        named = {task: torch.from_numpy(probabilities[..., place]) for place, task in enumerate(self.tasks)}
        return expression(named).numpy()


def from_checkpoint(described: Mapping[str, Any], weights: torch.Tensor) -> ValueModel:
    """described: the `model` entry of checkpoint.json; weights (T,)."""
    by_task = dict(zip(described["tasks"], weights.tolist(), strict=True))
    top = described.get("top_expression")
    return ValueModel(described["tasks"], by_task, described["expression"], top, described.get("top_places", 1))


def checkpoint_folder(path: str | Path) -> Path | None:
    """The checkpoint folder that a run directory, or a checkpoint, stands for; None where there is none."""
    folder = Path(path).expanduser()
    for place in (folder / "checkpoints" / "best", folder / "checkpoints" / "last", folder):
        if (place / "checkpoint.json").is_file():
            return place
    return None


def check_initial(config: Any) -> None:
    """Raises ConfigError where model.init_from is no run or checkpoint."""
    if checkpoint_folder(config.init_from) is None:
        raise ConfigError(
            f"model.init_from={config.init_from}: there is no checkpoint; give the directory of a run of a ranker, such"
            " as recsysml train model=mtml makes."
        )


@dataclass(frozen=True)
class Slates:
    """R requests with two or more items each, padded to M."""

    probabilities: np.ndarray  # (R, M, T), 0 where there is no item
    real: np.ndarray  # (R, M) bool
    rows: np.ndarray  # (R, M) which row each item was, 0 where there is no item
    requests: np.ndarray  # (R,) ids

    def of(self, column: np.ndarray) -> np.ndarray:
        """(R, M) of a column (n,) of the rows, 0 where there is no item."""
        return np.where(self.real, column[self.rows], 0.0)


def make_slates(probabilities: np.ndarray, requests: np.ndarray) -> Slates:
    """Of probabilities (n, T) and requests (n,), rows in any order. A request of one row ranks nothing: left out."""
    order = np.argsort(requests, kind="stable")
    begins = np.flatnonzero(np.diff(requests[order], prepend=requests[order][:1] - 1)) if len(order) else order
    sizes = np.diff(np.append(begins, len(order)))
    begins, sizes = begins[sizes > 1], sizes[sizes > 1]
    places = np.arange(max(sizes, default=0))
    real = places < sizes[:, None]
    rows = np.where(real, order[np.where(real, begins[:, None] + places, 0)] if len(order) else 0, 0)
    padded = np.where(real[..., None], probabilities[rows], 0.0)
    return Slates(padded, real, rows, requests[rows[:, 0]] if len(rows) else requests[:0])


def losses(measure: str, slates: Slates, weights: np.ndarray) -> np.ndarray:
    """(R, T) of each request what the order loses without each task (loo), or each task by the order (regret)."""
    p = slates.probabilities
    value = p @ weights  # (R, M)
    found = np.empty((len(p), len(weights)))
    for task, weight in enumerate(weights):
        if measure == "loo":
            ndcg = slate_ndcg(value, value - weight * p[..., task], slates.real)
        else:
            ndcg = slate_ndcg(p[..., task], value, slates.real)
        found[:, task] = 1 - np.nan_to_num(ndcg, nan=1.0)  # where nothing is to be had, nothing is lost
    return found


def shares(measure: str, mean_losses: np.ndarray) -> np.ndarray:
    """(..., T) mean losses over requests -> the tasks' shares of importance, which sum to 1."""
    part = mean_losses if measure == "loo" else 1 / np.maximum(mean_losses, _LEAST_REGRET)
    total = part.sum(axis=-1, keepdims=True)
    return np.asarray(np.where(total > 0, part / np.where(total > 0, total, 1), 1 / part.shape[-1]))


@dataclass(frozen=True)
class Solution:
    """Weights, summing to 1, whose shares are as near the target as was found."""

    weights: np.ndarray  # (T,)
    shares: np.ndarray  # (T,)
    error: float  # the sum of the shares' absolute gaps to the target
    reached: bool
    steps: int  # times the shares were measured


def solve(measure: str, slates: Slates, target: np.ndarray, tolerance: float = 0.01, max_steps: int = 200) -> Solution:
    """Weights that give the tasks the target shares (T,), all above 0 and summing to 1.

    Log weights move by the log of target over reached, a step that is halved where it does not help. What that cannot
    reach is searched by Nelder-Mead from the best point; where the target cannot be had at all (of tasks that always
    agree, for one) the nearest point found is what is returned.
    """
    # units aside: a rare task's probability is small, not unimportant
    scale = np.maximum(slates.probabilities[slates.real].std(axis=0), 1e-9)
    count = 0

    def measured(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
        nonlocal count
        count += 1
        found = shares(measure, losses(measure, slates, _weights(log_weights, scale)).mean(axis=0))
        return found, float(np.abs(found - target).sum())

    best = np.log(target)
    reached, error = measured(best)
    step = 1.0
    while error >= tolerance and count < max_steps and step > 1e-3:
        there = best + step * (np.log(target) - np.log(np.maximum(reached, 1e-9)))
        found, missed = measured(there)
        if missed < error:
            best, reached, error = there, found, missed
            step = min(1.0, 1.5 * step)
        else:
            step /= 2
    if error >= tolerance and len(target) > 1:
        best, reached, error = _polish(measured, best, tolerance)
    weights = _weights(best, scale)
    return Solution(weights / weights.sum(), reached, error, error < tolerance, count)


def _weights(log_weights: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.exp(np.clip(log_weights - log_weights.max(), -_WIDEST, 0)) / scale


def _polish(
    measured: Callable[[np.ndarray], tuple[np.ndarray, float]], start: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """The best of a search by Nelder-Mead over all log weights but the first, which fixes their unit."""
    from scipy.optimize import minimize

    def error(free: np.ndarray) -> float:
        missed = measured(np.append(0.0, free))[1]
        if missed < tolerance:
            raise _Enough(np.append(0.0, free))
        return missed

    try:
        free = minimize(error, (start - start[0])[1:], method="Nelder-Mead", options={"maxfev": 80 * len(start)}).x
        best = np.append(0.0, free)
    except _Enough as enough:
        best = enough.log_weights
    return best, *measured(best)


class _Enough(Exception):
    """The search is near enough."""

    def __init__(self, log_weights: np.ndarray) -> None:
        super().__init__()
        self.log_weights = log_weights
