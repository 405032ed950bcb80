"""What the simulated world could have shown: the candidates of requests as a ranker takes them, each at the top."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsysml.data.features import Features
from recsysml.data.impression_data import ImpressionTable, RawImpressions, bounds_by_time, encode, past
from recsysml.data.impression_encoder import ImpressionEncoder
from recsysml.data.world_impressions import history, inputs, whole_log
from recsysml.data.world_log import FORMAT, World
from recsysml.data.world_sessions import Impressions
from recsysml.schemas.data import WorldConfig

# events that the mean taste counts for in a user's
_PRIOR = 1.0


@dataclass(frozen=True)
class Candidates:
    """Of R requests, M items each."""

    table: ImpressionTable  # R x M rows, those of a request side by side; what would come of them is not known: 0
    requests: np.ndarray  # (R,) int64 ids, unique in the world
    items: np.ndarray  # (R, M) int64
    offered: np.ndarray  # (R, M) bool; False: no candidate, as it is there twice or was shown before
    logged: np.ndarray  # (R, L) int64 columns of items: the slate that the logging policy drew
    categories: np.ndarray  # (R, M, G) each item's tags as shares that sum to 1
    taste: np.ndarray  # (R, G) the tags of what the user clicked before the request, as shares that sum to 1
    vectors: np.ndarray  # (R, M, D) content

    def slates(self, values: np.ndarray, length: int) -> np.ndarray:
        """(R, length) columns of the candidates with the largest values (R, M), top first."""
        return np.argsort(-np.where(self.offered, values, -np.inf), axis=1, kind="stable")[:, :length]


def read(
    config: WorldConfig, world: World, encoder: ImpressionEncoder, split: str, limit: int, length: int
) -> Candidates:
    """At most `limit` requests of a split, evenly from its time, whose candidates fill a slate of `length`.

    encoder: of the table that a ranker learnt from.
    """
    shown, moments = whole_log(world, config.events)
    start, stop = bounds_by_time(moments["request"], 0.1, 0.1, config.name)[split]
    ids = np.unique(moments["request"][start:stop])
    users, times, ads, items, offered, logged = _asked(world, ids)
    full = np.flatnonzero(offered.sum(axis=1) >= length)
    chosen = full[np.linspace(0, len(full) - 1, min(limit, len(full))).astype(np.int64)]
    ids, users, times, ads = ids[chosen], users[chosen], times[chosen], ads[chosen]
    items, offered, logged = items[chosen], offered[chosen], logged[chosen]
    n_rows, width = items.shape
    of_row = np.repeat(np.arange(n_rows), width)
    nothing = np.zeros(n_rows * width)
    features = world.population.item_features
    raw = RawImpressions(
        config.name,
        ["world candidates", FORMAT, config.users, config.items, config.events, config.seed, split, limit, length],
        {"train": (0, 0), "val": (0, 0), "test": (0, 0), split: (0, n_rows * width)},
        {"click": nothing},
        {"click": "binary"},
        ids[of_row],
        times[of_row],
        **inputs(world.population, users[of_row], items.ravel(), times[of_row], ads[of_row]),
        **history(shown, users[of_row], times[of_row]),
        positions=nothing.astype(np.int64),
    )
    shares = _tag_shares(features)
    return Candidates(
        encode(raw, encoder),
        ids,
        items,
        offered,
        logged,
        shares[items],
        _taste(shown, shares, users, times),
        features.vectors[items],
    )


def _asked(world: World, ids: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of requests (R,) in order of their ids: users, times, whether an ad stood before, candidates, which of them
    count, and what was shown."""
    parts = []
    for index in np.unique(ids >> 32):
        requests, _ = world.slice(int(index))
        rows = np.isin(requests.ids, ids)
        columns = (requests.users, requests.times, requests.ad_shown, requests.candidates, requests.offered,
                   requests.slate)  # fmt: skip
        parts.append([column[rows] for column in columns])
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _tag_shares(features: Features) -> np.ndarray:
    """(I, G) each item's tags, alike; of an item without any all tags alike."""
    counts = np.diff(features.tag_offsets)
    shares = np.zeros((len(counts), len(features.tag_names)))
    rows = np.repeat(np.arange(len(counts)), counts)
    shares[rows, features.tags] = 1 / counts[rows]
    shares[counts == 0] = 1 / shares.shape[1]
    return shares


def _taste(shown: Impressions, shares: np.ndarray, users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(R, G) mean tags of what each user clicked before a time, with one event of all users' mean among them."""
    clicked = np.flatnonzero(shown.click)
    order, starts, stops = past(users, times, shown.users[clicked], shown.times[clicked])
    tags = shares[shown.items[clicked[order]]]
    sums = np.concatenate([np.zeros((1, tags.shape[1])), np.cumsum(tags, axis=0)])
    before = shown.times[clicked] < times.min()  # of all users, what lies before the first request
    mean = shares[shown.items[clicked[before]]].mean(axis=0) if before.any() else shares.mean(axis=0)
    return np.asarray((sums[stops] - sums[starts] + _PRIOR * mean) / ((stops - starts)[:, None] + _PRIOR))
