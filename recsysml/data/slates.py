"""Logged slates: what a policy could have shown, what it did show, how likely that was, and what came of it.

A source reads its own files or world into one `LoggedSlates`; trainers and evals of policies know nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recsysml.data.impression_data import bounds_by_time
from recsysml.data.ties import warn_of_ties
from recsysml.errors import DataError

# where the propensities come from: the log itself, or a model of the policy that made it
LOGGED, ESTIMATED = "logged", "estimated"


@dataclass(frozen=True)
class LoggedSlates:
    """R requests in order of time, each with up to N candidates, of which one was shown on top.

    What is known of a candidate are three parts: of the request, of the item, and of the two together. They are held
    apart, as R x N x F numbers would be many times the log; `features` puts them side by side.
    """

    name: str
    source: list[Any]  # what the fingerprint is taken over besides the arrays: files' checksums, settings
    bounds: dict[str, tuple[int, int]]  # split -> its rows, from and to
    users: np.ndarray  # (R,) int64
    times: np.ndarray  # (R,) float64 seconds
    contexts: np.ndarray  # (R, C) float32
    items: np.ndarray  # (M, D) float32, a row an item
    item_ids: list[str]  # M
    candidates: np.ndarray  # (R, N) int64 rows of items; any where there is no candidate
    mask: np.ndarray  # (R, N) bool: False where there is no candidate
    pairs: np.ndarray  # (R, N, P) float32
    context_names: list[str]  # C
    item_names: list[str]  # D
    pair_names: list[str]  # P
    shown: np.ndarray  # (R,) int64 column of candidates: the item on top
    propensity: np.ndarray  # (R,) float64 of showing it there, never 0
    propensity_source: str  # logged or estimated
    actions: np.ndarray  # (R, T) float32: what was done with it
    tasks: dict[str, str]  # T names -> binary or real
    weights: dict[str, float]  # task -> what one of it is worth, where the model's config does not say otherwise
    logging: np.ndarray | None = None  # (R, N) float64 the whole policy that logged, 0 where there is no candidate
    slate: np.ndarray | None = None  # (R, K) int64 columns in the order shown, -1 where it ends
    slate_propensity: np.ndarray | None = None  # (R, K) of each place given those above it
    slate_actions: np.ndarray | None = None  # (R, K, T) float32 of each place, NaN where the user did not come
    fit_range: str = "train"
    fingerprint: str = field(init=False, default="")

    def __post_init__(self) -> None:
        _check(self)
        object.__setattr__(self, "fingerprint", _fingerprint(self))

    def __len__(self) -> int:
        """Requests."""
        return len(self.shown)

    @property
    def sizes(self) -> dict[str, int]:
        """Requests of each split."""
        return {split: stop - start for split, (start, stop) in self.bounds.items()}

    @property
    def fitted(self) -> tuple[int, int]:
        """The rows that are learnt from."""
        return self.bounds["train"][0], self.bounds["train" if self.fit_range == "train" else "val"][1]

    @property
    def feature_names(self) -> list[str]:
        """F names, as `features` has them."""
        return [*self.context_names, *self.item_names, *self.pair_names]

    def features(self, rows: np.ndarray) -> np.ndarray:
        """rows (B,) -> (B, N, F) float32: context, item and pair of every candidate."""
        context = np.broadcast_to(self.contexts[rows, None], (*self.candidates[rows].shape, self.contexts.shape[1]))
        return np.concatenate([context, self.items[self.candidates[rows]], self.pairs[rows]], axis=2)

    def rewards(self, weights: Mapping[str, float] | None = None) -> np.ndarray:
        """(R,) float64 of what was shown: the sum over tasks of weight x action. Raises ValueError for no task."""
        weights = self.weights if weights is None else weights
        if unknown := [task for task in weights if task not in self.tasks]:
            raise ValueError(f"{unknown[0]} is no task of {self.name}: it is one of {', '.join(self.tasks)}")
        return np.asarray(self.actions.astype(np.float64) @ [weights.get(task, 0.0) for task in self.tasks])


def split_by_time(n: int, val: float, test: float, name: str) -> dict[str, tuple[int, int]]:
    """The newest shares of n requests in order of time. Raises DataError naming a split that would be empty."""
    return bounds_by_time(np.arange(n), val, test, name, "requests")


def warn_of_split(log: LoggedSlates) -> None:
    """Say where the split cuts through requests of one time, to who learns from it or judges by it."""
    warn_of_ties(log.name, log.times, log.bounds, "requests")


def _check(log: LoggedSlates) -> None:
    """Raises DataError naming the first request that no policy could have logged."""
    rows = np.arange(len(log))
    columns = log.candidates.shape[1]
    inside = (log.shown >= 0) & (log.shown < columns)
    checks = {
        "shows what is no candidate": ~inside | ~log.mask[rows, np.where(inside, log.shown, 0)],
        "has a propensity outside of 0 (excluded) to 1": ~((log.propensity > 0) & (log.propensity <= 1 + 1e-9)),
        "has an action that is no number": ~np.isfinite(log.actions).all(axis=1),
        "has a feature that is no number": ~np.isfinite(log.contexts).all(axis=1)
        | ~np.isfinite(log.pairs).all(axis=(1, 2)),
    }
    if log.logging is not None:
        given = np.where(log.mask, log.logging, 0.0)
        checks["was shown by probabilities that are negative, or do not sum to 1"] = ~(
            (given >= 0).all(axis=1) & (np.abs(given.sum(axis=1) - 1) < 1e-4)
        )
    for what, wrong in checks.items():
        if wrong.any():
            raise DataError(f"{log.name} request {int(wrong.argmax()) + 1} in order of time {what}")


def _fingerprint(log: LoggedSlates) -> str:
    made_from = [log.source, log.bounds, log.fit_range, log.propensity_source, log.feature_names, list(log.tasks)]
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode())
    for array in (log.contexts, log.items, log.candidates, log.mask, log.pairs, log.shown, log.propensity, log.actions):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
