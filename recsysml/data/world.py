"""The simulated world as data: a population, and logged slices of its time. Its truth is in `world_truth`.

Same config, same bytes. A slice holds at most about `world_sessions.SLICE` events and depends on no other, so that
millions of events pass through memory a slice at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recsysml.data import world_candidates, world_impressions, world_slates
from recsysml.data.impression_data import ImpressionTable, encode
from recsysml.data.impression_encoder import ImpressionEncoder
from recsysml.data.interaction_data import Interactions, divide
from recsysml.data.progress import progress
from recsysml.data.slates import LoggedSlates
from recsysml.data.world_candidates import Candidates
from recsysml.data.world_population import Latent, Population, make
from recsysml.data.world_sessions import Impressions, Requests, n_slices, simulate
from recsysml.schemas.data import WorldConfig

# goes up when the same config would give other events
FORMAT = 1


@dataclass(frozen=True)
class World:
    """What a log of the world shows."""

    population: Population
    seed: int
    events: int
    _latent: Latent

    def __len__(self) -> int:
        """Slices."""
        return n_slices(self.events)

    def slice(self, index: int) -> tuple[Requests, Impressions]:
        """The requests that begin in a slice of time, and their impressions; each in order of time.

        A session that begins late in a slice ends in the time of the next.
        """
        return simulate(self.population, self._latent, self.seed, self.events, index)[:2]

    def logged_slice(self, index: int) -> tuple[Requests, Impressions, np.ndarray]:
        """`slice`, and of each request the logging policy's probabilities of the top place (R, CANDIDATES)."""
        requests, impressions, behind = simulate(self.population, self._latent, self.seed, self.events, index)
        return requests, impressions, behind.logging

    def __iter__(self) -> Iterator[tuple[Requests, Impressions]]:
        return (self.slice(index) for index in range(len(self)))


def open_world(config: WorldConfig) -> World:
    """The population is made at once, the events as they are asked for."""
    config.validate()
    population, latent = make(config.users, config.items, config.seed)
    return World(population, config.seed, config.events, latent)


def check(config: WorldConfig) -> None:
    """Raises ConfigError for a value that cannot work. There is nothing to look for: the world is made, not read."""
    config.validate()


def load(config: WorldConfig) -> Interactions:
    """Every event of the chosen action as an interaction, with features, titles and friends."""
    world = open_world(config)
    users, items, times = [], [], []
    with progress("simulating the world", config.events) as advance:
        for _, impressions in world:
            chosen = np.flatnonzero(getattr(impressions, config.action))
            users.append(impressions.users[chosen])
            items.append(impressions.items[chosen])
            times.append(impressions.times[chosen])
            advance(len(impressions.items))
    events = [np.concatenate(parts) for parts in (users, items, times)]
    population = world.population
    made_from = [FORMAT, config.users, config.items, config.events, config.seed, config.action, config.split]
    digest = hashlib.sha256(json.dumps(made_from).encode())
    for array in events:
        digest.update(array.tobytes())
    return Interactions(
        config.name,
        digest.hexdigest(),
        [str(user) for user in range(config.users)],
        [str(item) for item in range(config.items)],
        divide(config, *events),
        population.user_features,
        population.item_features,
        population.item_titles,
        population.friends,
        split=config.split,
        fit_range=config.fit_range,
    )


def load_impressions(config: WorldConfig, encoder: ImpressionEncoder | None = None) -> ImpressionTable:
    """Every item that was shown, with what was known then and what came of it, for rankers."""
    return encode(world_impressions.read(config, open_world(config), FORMAT), encoder)


def load_candidates(
    config: WorldConfig, encoder: ImpressionEncoder, *, split: str, limit: int, length: int
) -> Candidates:
    """What could have been shown at requests of a split, for rankers whose rows `encoder` encodes."""
    return world_candidates.read(config, open_world(config), FORMAT, encoder, split, limit, length)


def load_slates(config: WorldConfig) -> LoggedSlates:
    """Every request with its candidates, what stood on top, its propensity and what came of it, for policies."""
    return world_slates.read(config, open_world(config), FORMAT)


def prepare(config: WorldConfig) -> None:
    """Nothing to fetch: the world is made anew each time, in seconds."""
    check(config)


def status(config: WorldConfig) -> str:
    """One line for `recsysml data list`."""
    check(config)
    return f"ready: {config.users:,} users, {config.items:,} items and {config.events:,} events are made at first use"
