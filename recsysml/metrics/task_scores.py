"""Numbers of tasks: accuracies and perplexities with their standard errors, and whether chance would do as well."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recsysml.metrics.language import ratio

# (log-likelihood, bytes or words) a document; the others are numbers
RATIOS = ("bits_per_byte", "byte_perplexity", "word_perplexity")
BY_CHANCE = ("acc", "acc_norm", "acc_bytes")


@dataclass(frozen=True)
class TaskScore:
    """One number of one task. `ids` and `scores` are per example, where the scores' mean is the value."""

    name: str
    value: float
    stderr: float | None
    n: int
    better: str
    baseline: float | None = None
    ids: list[str] = field(default_factory=list)
    scores: np.ndarray | None = None  # (n,)

    @property
    def at_chance(self) -> bool | None:
        """Whether chance lies within two standard errors; None where either is not known.

        Of answers that are all right or all wrong the standard error is 0; then it is that of guessing.
        """
        if self.baseline is None or self.stderr is None:
            return None
        stderr = self.stderr or math.sqrt(self.baseline * (1 - self.baseline) / self.n)
        return abs(self.value - self.baseline) <= 2 * stderr


def of_metric(
    name: str,
    metric: str,
    items: Sequence[Any],
    ids: list[str],
    aggregate: Callable[[Any], Any] | None,
    higher: bool,
    chance: float | None,
) -> TaskScore:
    """Whichever of the three below `metric` is. aggregate: what makes one number of the items; None is their mean.
    chance: the accuracy of a guess, the baseline of accuracies."""
    if metric in RATIOS:
        return of_ratio(name, metric, items, ids)
    if aggregate is None:
        return of_mean(name, items, ids, higher=higher, baseline=chance if metric in BY_CHANCE else None)
    return of_aggregate(name, metric, items, aggregate, higher=higher)


def of_ratio(name: str, metric: str, items: Sequence[tuple[float, int]], ids: list[str]) -> TaskScore:
    """bits_per_byte, byte_perplexity or word_perplexity of (log-likelihood in nats, bytes or words) a document.

    The rate is the ratio of the sums; its error the ratio estimator's, and by the delta method that of its exponential.
    """
    pairs = np.asarray(items, dtype=np.float64)  # (n, 2)
    rate, error = ratio(-pairs[:, 0], pairs[:, 1])
    if metric == "bits_per_byte":
        scores = -pairs[:, 0] / math.log(2) / pairs[:, 1].mean()
        stderr = None if error is None else error / math.log(2)
        return TaskScore(name, rate / math.log(2), stderr, len(pairs), "lower", None, ids, scores)
    value = math.exp(rate)
    return TaskScore(name, value, None if error is None else error * value, len(pairs), "lower")


def of_mean(
    name: str, items: Sequence[float], ids: list[str], *, higher: bool, baseline: float | None = None
) -> TaskScore:
    """A mean over examples and its standard error; of zeros and ones that is sqrt(p (1 - p) / (n - 1))."""
    scores = np.asarray(items, dtype=np.float64)
    stderr = float(scores.std(ddof=1)) / math.sqrt(len(scores)) if len(scores) > 1 else None
    better = "higher" if higher else "lower"
    return TaskScore(name, float(scores.mean()), stderr, len(scores), better, baseline, ids, scores)


def of_aggregate(
    name: str, metric: str, items: Sequence[Any], aggregate: Callable[[Any], Any], *, higher: bool
) -> TaskScore:
    """What is no mean: F1, correlations (no error is given), and perplexity, exp(-mean), by the delta method."""
    value = float(aggregate(items))
    stderr = None
    if metric == "perplexity" and len(items) > 1:
        stderr = value * float(np.std(items, ddof=1)) / math.sqrt(len(items))
    return TaskScore(name, value, stderr, len(items), "higher" if higher else "lower")


def chance(choices: Sequence[int]) -> float:
    """Expected accuracy of a guess among `choices[i]` answers to question i, one of them right."""
    return float(np.mean(1 / np.asarray(choices, dtype=np.float64)))


def of_group(name: str, content: Mapping[str, Any]) -> list[TaskScore]:
    """A group's metrics as lm_eval aggregates them: `{"acc,none": 0.3, "acc_stderr,none": 0.01, "sample_len": 90}`."""
    found = []
    for key, value in content.items():
        metric, comma, filtered = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        stderr = content.get(f"{metric}_stderr,{filtered}")
        label = f"lm/{name}/{metric}" if filtered == "none" else f"lm/{name}/{metric},{filtered}"
        error = float(stderr) if isinstance(stderr, int | float) else None
        found.append(TaskScore(label, float(value), error, int(content.get("sample_len", 0)), "higher"))
    return found
