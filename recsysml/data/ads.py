"""A log of ad decisions as learners see it: what was known, which ad was shown where, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class AdLog:
    """R sessions in order of time, F features, A actions, of which the first is to show no ad.

    Revenue and engagement are logged apart, so that what one is worth in the other is decided when a policy is learnt.
    """

    name: str
    fingerprint: str  # sha256 of all that is below
    ids: np.ndarray  # (R,) int64
    features: np.ndarray  # (R, F) float32
    feature_names: list[str]
    actions: np.ndarray  # (R,) int64 what was done
    action_names: list[str]
    propensity: np.ndarray  # (R,) float64 the probability with which it was done
    revenue: np.ndarray  # (R,) float64
    engagement: np.ndarray  # (R,) float64 minutes
    revenue_estimate: np.ndarray  # (R, A) float32 what the ad system expects of each action; 0 of no ad
    bounds: dict[str, tuple[int, int]]  # split -> rows from and to

    @property
    def sizes(self) -> dict[str, int]:
        return {split: stop - start for split, (start, stop) in self.bounds.items()}

    def rows(self, split: str) -> slice:
        return slice(*self.bounds[split])
