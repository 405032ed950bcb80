"""The ad world as data: sessions, a logging policy with known propensities, and what came of what it did.

Same config, same bytes. Its laws are in `ad_laws`, its truth in `ad_truth`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from recsysml.data import ad_laws
from recsysml.data.ads import AdLog
from recsysml.schemas.data import AdWorldConfig

# goes up when the same config would give other sessions
FORMAT = 1
# shares of the sessions, by time: what is not val or test is learnt from
_VAL, _TEST = 0.1, 0.2
# the ad system's estimate is off by about this share
_ESTIMATE_ERROR = 0.1


@dataclass(frozen=True)
class Behind:
    """The truth of the sessions of a log."""

    laws: ad_laws.Laws
    places: int
    logging: np.ndarray  # (R, A)


def simulate(config: AdWorldConfig) -> tuple[AdLog, Behind]:
    """All sessions, and what is behind them."""
    config.validate()
    random = np.random.default_rng([config.seed, config.ads])
    tastes = ad_laws.tastes(random, config.ads)
    # what is learnt from is what is seen: 32 bits of it
    features = ad_laws.sessions(random, config.sessions, config.ads).astype(np.float32)
    laws = ad_laws.laws(features.astype(np.float64), tastes)
    logging = ad_laws.logging_policy(features.astype(np.float64), config.ads, config.places)
    drawn = random.random((config.sessions, 1)) >= np.cumsum(logging, axis=1)[:, :-1]
    actions = drawn.sum(axis=1)
    revenue, minutes = ad_laws.act(random, laws, actions, config.places)
    expected = ad_laws.revenue(laws, config.places)
    off = random.normal(-(_ESTIMATE_ERROR**2) / 2, _ESTIMATE_ERROR, expected.shape)
    n, val, test = (int(config.sessions * share) for share in (1, _VAL, _TEST))
    arrays = {
        "features": features,
        "actions": actions,
        "propensity": logging[np.arange(n), actions],
        "revenue": revenue,
        "engagement": minutes,
        "revenue_estimate": (expected * np.exp(off)).astype(np.float32),
    }
    digest = hashlib.sha256(json.dumps([FORMAT, config.ads, config.places, config.seed]).encode())
    for array in arrays.values():
        digest.update(np.ascontiguousarray(array).tobytes())
    log = AdLog(
        name=config.name,
        fingerprint=digest.hexdigest(),
        ids=np.arange(n),
        feature_names=ad_laws.feature_names(config.ads),
        action_names=ad_laws.action_names(config.ads, config.places),
        bounds={"train": (0, n - val - test), "val": (n - val - test, n - test), "test": (n - test, n)},
        **arrays,
    )
    return log, Behind(laws, config.places, logging)


def load_ads(config: AdWorldConfig) -> AdLog:
    """The log alone."""
    return simulate(config)[0]


def check(config: AdWorldConfig) -> None:
    """Raises ConfigError for a value that cannot work. There is nothing to look for: the world is made, not read."""
    config.validate()


def prepare(config: AdWorldConfig) -> None:
    """Nothing to fetch: the world is made anew each time, in seconds."""
    check(config)


def status(config: AdWorldConfig) -> str:
    """One line for `recsysml data list`."""
    check(config)
    return f"ready: {config.sessions:,} sessions with {config.ads} ads at {config.places} places are made at first use"
