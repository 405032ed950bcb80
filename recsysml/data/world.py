"""The simulated world as data: its log as interactions, impressions, slates or candidates; `world_truth` knows more."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from recsysml.data import world_candidates, world_impressions, world_slates
from recsysml.data.impression_data import ImpressionTable, encode
from recsysml.data.impression_encoder import ImpressionEncoder
from recsysml.data.interaction_data import Interactions, divide
from recsysml.data.progress import progress
from recsysml.data.slates import LoggedSlates
from recsysml.data.world_candidates import Candidates
from recsysml.data.world_log import FORMAT, open_world
from recsysml.schemas.data import WorldConfig


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
    return encode(world_impressions.read(config, open_world(config)), encoder)


def load_candidates(
    config: WorldConfig, encoder: ImpressionEncoder, *, split: str, limit: int, length: int
) -> Candidates:
    """What could have been shown at requests of a split, for rankers whose rows `encoder` encodes."""
    return world_candidates.read(config, open_world(config), encoder, split, limit, length)


def load_slates(config: WorldConfig) -> LoggedSlates:
    """Every request with its candidates, what stood on top, its propensity and what came of it, for policies."""
    return world_slates.read(config, open_world(config))


def prepare(config: WorldConfig) -> None:
    """Nothing to fetch: the world is made anew each time, in seconds."""
    check(config)


def status(config: WorldConfig) -> str:
    """One line for `recsysml data list`."""
    check(config)
    return f"ready: {config.users:,} users, {config.items:,} items and {config.events:,} events are made at first use"
