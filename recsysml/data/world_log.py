"""The log of the simulated world: a population, and slices of its time. What is made of it for models is in `world`.

Same config, same bytes. A slice holds at most about `world_sessions.SLICE` events and depends on no other, so that
millions of events pass through memory a slice at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

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
