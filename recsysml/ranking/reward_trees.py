"""A reward model of boosted trees (Friedman 2001), and on top of them what each item brings by itself.

Two things make it a better guide for a policy than trees of a candidate's own features:

A policy lives by differences within a slate, and `E[reward | features of the candidate]` has the wrong ones: where
users whose clicks are much alike are others in more than that, what a feature is worth between requests is not what it
is worth within one. So a candidate is also described by how its pair features stand to those it competes with.

What many requests lose by an item's error is not averaged away, as the item is in all of them. Trees cannot tell apart
what has the same features; the mean residual of an item can, shrunk as if it had been shown so many times more and
been no different (James & Stein 1961).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np

from recsysml.data.slate_batches import ShownItems
from recsysml.data.slates import LoggedSlates

# each tree is small and learns slowly
_TREES = {"max_leaf_nodes": 15, "min_samples_leaf": 100, "l2_regularization": 10.0}
_RATE = 0.1
# how often an item has been shown when its mean residual counts for half. Of requests that the trees have not seen the
# residuals vary between items by a 200th to a 500th of what they vary within one, which would ask for as many; of what
# they have seen trees have taken a part, and policies were a little better with 50 and 100 than with 200
_PRIOR = 100

# rows (b,) -> (b, N) expected reward of their candidates on top
Predict = Callable[[np.ndarray], np.ndarray]


class RewardTrees:
    """Fits models of one log to parts of what was shown in it."""

    def __init__(self, shown: ShownItems, rewards: dict[str, float], most: int) -> None:
        """shown: all of the log; rewards: task -> what one is worth; most: trees of a model."""
        self.shown, self.log, self.most = shown, shown.log, most
        self.reward = shown.actions @ np.array(list(rewards.values()))  # (n,)
        self.slate = _slate(shown.log)

    def fit(self, own: np.ndarray, val: np.ndarray, seed: int) -> Predict:
        """Learnt from the shown items `own` (n,), as many trees as those of `val` (v,) are predicted best with."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        model = HistGradientBoostingRegressor(
            learning_rate=_RATE, max_iter=self.most, early_stopping=False, random_state=seed, **_TREES
        )
        features = self._of_shown(own)
        model.fit(features, self.reward[own])
        reward = self.reward[val]
        missed = [float(((found - reward) ** 2).mean()) for found in model.staged_predict(self._of_shown(val))]
        used = int(np.argmin(missed))
        items = self._of_items(own, self.reward[own] - _staged(model, used, features))

        def predict(rows: np.ndarray) -> np.ndarray:
            mask = self.log.mask[rows]
            requests, columns = np.nonzero(mask)
            top = self._features(rows[requests], columns, np.zeros(len(columns)))
            found = np.zeros(mask.shape, np.float32)
            found[mask] = _staged(model, used, top) + items[self.log.candidates[rows][mask]]
            return found

        return predict

    def _of_shown(self, chosen: np.ndarray) -> np.ndarray:
        shown = self.shown
        return self._features(shown.rows[chosen], shown.columns[chosen], shown.places[chosen])

    def _features(self, rows: np.ndarray, columns: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Of the candidates at rows and columns (n,), shown at places (n,), -> (n, F)."""
        log, pairs = self.log, self.log.pairs[rows, columns]
        mean, spread, most = (each[rows] for each in self.slate)
        parts = [log.contexts[rows], log.items[log.candidates[rows, columns]], pairs]
        parts += [pairs - mean, mean, spread, most - pairs, places[:, None]]
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def _of_items(self, own: np.ndarray, missed: np.ndarray) -> np.ndarray:
        """(M,) what to add to the prediction of each item. missed (n,): residuals of the shown items `own` (n,).

        Those of all places alike, though further down, where less is done with what is shown, an item misses less too.
        """
        rows, columns, places = self.shown.rows[own], self.shown.columns[own], self.shown.places[own]
        of_place = np.bincount(places, missed) / np.maximum(np.bincount(places), 1)
        item, items = self.log.candidates[rows, columns], len(self.log.items)
        total = np.bincount(item, missed - of_place[places], minlength=items)
        return np.asarray(total / (np.bincount(item, minlength=items) + _PRIOR))


def _slate(log: LoggedSlates) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard deviation and greatest of each pair feature over a request's candidates, each (R, P)."""
    mask = log.mask[..., None]
    count = mask.sum(axis=1)
    mean = np.where(mask, log.pairs, 0).sum(axis=1) / count
    spread = np.sqrt((np.where(mask, log.pairs - mean[:, None], 0) ** 2).sum(axis=1) / count)
    return mean, spread, np.where(mask, log.pairs, -np.inf).max(axis=1)


def _staged(model: Any, used: int, features: np.ndarray) -> np.ndarray:
    """(n,) what the first used + 1 trees say."""
    return np.asarray(next(islice(model.staged_predict(features), used, None)))
