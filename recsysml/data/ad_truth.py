"""The truth of the ad world. For evals and tests: a model, or what feeds one, never imports this."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsysml.data import ad_laws
from recsysml.data.ad_world import simulate
from recsysml.schemas.data import AdWorldConfig


@dataclass(frozen=True)
class AdTruth:
    """Of all sessions of a config's log, in its order."""

    revenue: np.ndarray  # (R, A) expected
    engagement: np.ndarray  # (R, A) expected minutes
    logging: np.ndarray  # (R, A) the logging policy


def open_truth(config: AdWorldConfig) -> AdTruth:
    """The truth behind the log of a config."""
    behind = simulate(config)[1]
    return AdTruth(
        ad_laws.revenue(behind.laws, behind.places), ad_laws.engagement(behind.laws, behind.places), behind.logging
    )
