"""The simulated world's log as slates: what could have been shown on top, what was, and the probability of it.

The logging policy is known, as a system that draws its slates can log it. Its mood for the session is not: what it
senses is nobody's input. Only the top of each slate is an action here, whose responses depend on nothing below it; what
was done further down is there for who models rewards.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from recsysml.data.features import Features
from recsysml.data.impression_data import past
from recsysml.data.progress import progress
from recsysml.data.slates import LOGGED, LoggedSlates, split_by_time
from recsysml.data.world_log import FORMAT, World
from recsysml.data.world_population import DAY, Population
from recsysml.data.world_sessions import Requests
from recsysml.errors import ConfigError
from recsysml.schemas.data import WorldConfig


def read(config: WorldConfig, world: World) -> LoggedSlates:
    """All requests in order of time. Raises ConfigError for a split not by time.

    A request knows what its user clicked before it.
    """
    if config.split != "time":
        raise ConfigError(f"data.split={config.split}: slates are divided by time; use data.split=time.")
    parts, tops, logged, clicks = [], [], [], []
    tasks = dict.fromkeys(config.actions, "binary")
    with progress("simulating the world", config.events) as advance:
        for index in range(len(world)):
            requests, shown, logging = world.logged_slice(index)
            actions = np.full((*requests.slate.shape, len(tasks)), np.nan, np.float32)
            actions[shown.requests, shown.positions] = np.stack([getattr(shown, task) for task in tasks], axis=1)
            sessions = requests.sessions[shown.requests]
            clicks.append(
                np.stack([shown.users, shown.items, sessions], axis=1)[shown.click]  # (clicks, 3)
            )
            tops.append((actions, shown.times[shown.click]))
            parts.append(requests)
            logged.append(logging)
            advance(len(shown.items))
    joined = {
        column.name: np.concatenate([getattr(part, column.name) for part in parts])
        for column in dataclasses.fields(Requests)
    }
    order = np.argsort(joined["times"], kind="stable")
    requests = Requests(**{name: values[order] for name, values in joined.items()})
    actions = np.concatenate([own for own, _ in tops])[order]
    logging = np.concatenate(logged)[order]
    events = (*np.concatenate(clicks).T, np.concatenate([times for _, times in tops]))
    population = world.population
    contexts = _contexts(population.user_features, requests)
    items = _items(population.item_features)
    pairs = _pairs(population, requests, events)
    rows = np.arange(len(order))
    return LoggedSlates(
        config.name,
        ["world", FORMAT, config.users, config.items, config.events, config.seed],
        split_by_time(len(order), 0.1, 0.1, config.name),
        requests.users,
        requests.times,
        np.stack(list(contexts.values()), axis=1).astype(np.float32),
        np.stack(list(items.values()), axis=1).astype(np.float32),
        [str(item) for item in range(config.items)],
        requests.candidates,
        requests.offered,
        np.stack(list(pairs.values()), axis=2).astype(np.float32),
        list(contexts),
        list(items),
        list(pairs),
        requests.slate[:, 0],
        logging[rows, requests.slate[:, 0]],
        LOGGED,
        actions[:, 0],
        tasks,
        dict(config.reward_weights),
        logging=logging,
        slate=np.where(requests.propensities > 0, requests.slate, -1),
        slate_propensity=requests.propensities,
        slate_actions=actions,
        fit_range=config.fit_range,
    )


def _contexts(users: Features, requests: Requests) -> dict[str, np.ndarray]:
    """Name -> (R,): who asks, when, in which turn of a session, and whether an ad stands before the slate."""
    angle = 2 * np.pi * (requests.times % DAY) / DAY
    turn = np.zeros(len(requests.times))
    order = np.lexsort((requests.times, requests.sessions))
    begins = np.flatnonzero(np.diff(requests.sessions[order], prepend=-1))
    turn[order] = np.arange(len(order)) - np.repeat(begins, np.diff(np.append(begins, len(order))))
    of_time = {
        "hour_sin": np.sin(angle),
        "hour_cos": np.cos(angle),
        "turn": turn,
        "ad": requests.ad_shown.astype(float),
    }
    return of_time | {f"user_{name}": values[requests.users] for name, values in _columns(users).items()}


def _items(items: Features) -> dict[str, np.ndarray]:
    """Name -> (M,): numbers, language, words and content. The maker is left out: it has as many values as items."""
    vectors = {f"item_content_{place}": items.vectors[:, place] for place in range(items.vectors.shape[1])}
    columns = {name: values for name, values in _columns(items).items() if not name.startswith("maker=")}
    return {f"item_{name}": values for name, values in columns.items()} | vectors


def _pairs(population: Population, requests: Requests, events: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    """Name -> (R, N): how old the item is, and how it resembles what the user named, clicked, and clicked just now.

    events: users, items, sessions and times of all clicks.
    """
    users, items, sessions, times = events
    content = population.item_features.vectors.astype(np.float64)
    content /= np.maximum(np.sqrt((content**2).sum(1, keepdims=True)), 1e-9)
    offered = content[requests.candidates]  # (R, N, E)
    both = np.unique(np.concatenate([requests.sessions, sessions]), return_inverse=True)[1]
    keys = {"clicked": (requests.users, users), "session": tuple(np.split(both, [len(requests.sessions)]))}
    found = {"age_days": np.maximum(requests.times[:, None] - population.born[requests.candidates], 0) / DAY}
    for name, (asked, own) in keys.items():
        order, starts, stops = past(asked, requests.times, own, times)
        sums = np.concatenate([np.zeros((1, content.shape[1])), np.cumsum(content[items[order]], axis=0)])
        mean = (sums[stops] - sums[starts]) / np.maximum(stops - starts, 1)[:, None]  # (R, E)
        found[f"like_{name}"] = np.einsum("re,rne->rn", mean, offered)
    words = population.user_features.tag_names
    named = _tags(population.user_features)
    said = _tags(population.item_features)[:, : len(words)]  # an item's words begin with the users' topics
    assert population.item_features.tag_names[: len(words)] == words
    found["like_named"] = np.einsum("rg,rng->rn", named[requests.users], said[requests.candidates])
    return found


def _columns(features: Features) -> dict[str, np.ndarray]:
    """Numbers as they are, categories and tags as columns of 0 and 1; name -> (N,)."""
    found = {name: features.dense[:, place] for place, name in enumerate(features.dense_names)}
    for place, name in enumerate(features.categorical_names):
        values = features.categorical[:, place]
        for number, value in enumerate(features.categories[place], start=1):
            found[f"{name}={value}"] = values == number
    tags = _tags(features)
    return found | {f"tag={name}": tags[:, place] for place, name in enumerate(features.tag_names)}


def _tags(features: Features) -> np.ndarray:
    """(N, G) float32, 1 where a row has the tag."""
    found = np.zeros((len(features), len(features.tag_names)), np.float32)
    rows = np.repeat(np.arange(len(features)), np.diff(features.tag_offsets))
    found[rows, features.tags] = 1
    return found
