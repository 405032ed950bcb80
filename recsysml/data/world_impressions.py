"""The simulated world's log as impressions: everything that was shown, with all that was known when it was."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

import numpy as np

from recsysml.data.features import Features
from recsysml.data.impression_data import RawImpressions, bounds_by_time, past
from recsysml.data.progress import progress
from recsysml.data.retention import retention_labels
from recsysml.data.world_population import DAY
from recsysml.data.world_sessions import Impressions
from recsysml.errors import ConfigError
from recsysml.schemas.data import WorldConfig

if TYPE_CHECKING:
    import polars

    from recsysml.data.world import World

log = logging.getLogger("recsysml")

ACTIONS = ("click", "long_view", "like", "share", "skip", "leave")


def read(config: WorldConfig, world: World, version: int) -> RawImpressions:
    """All impressions, those of a request side by side, requests in order of time. version: of the world's laws.

    A row knows what its user did before the request: nothing of the slate it stands in. Raises ConfigError for a split
    that is not by time.
    """
    if config.split != "time":
        raise ConfigError(f"data.split={config.split}: impressions are divided by time; use data.split=time.")
    shown, moments = _log(world, config.events)
    population = world.population
    order, starts, stops = past(shown.users, moments["time"], shown.users, shown.times)
    response = 1 + shown.click.astype(np.int64) + 2 * shown.long_view + 4 * (shown.like | shown.share)
    response[~shown.click] = np.where(shown.skip[~shown.click], 0, 1)
    hour = (moments["time"] % DAY // 3600).astype(np.int64)
    users, items = shown.users, shown.items
    sparse = {"user": users, "item": items, "hour": hour, "ad_before": moments["ad"].astype(np.int64)}
    dense = {"item_age_days": np.maximum(moments["time"] - population.born[items], 0) / DAY}
    bags = {}
    for name, features, rows in (("user", population.user_features, users), ("item", population.item_features, items)):
        for place, column in enumerate(features.categorical_names):
            sparse[f"{name}_{column}"] = features.categorical[rows, place]
        for place, column in enumerate(features.dense_names):
            dense[f"{name}_{column}"] = features.dense[rows, place].astype(np.float64)
        bags[f"{name}_tags"] = _tags(features, rows)
    vectors = population.item_features.vectors
    return RawImpressions(
        config.name,
        ["world", version, config.users, config.items, config.events, config.seed, config.retention_discount],
        bounds_by_time(moments["request"], 0.1, 0.1, config.name),
        {name: getattr(shown, name).astype(np.float64) for name in ACTIONS} | _later(config, shown, moments),
        config.task_types(),
        moments["request"],
        moments["time"],
        dense=dense,
        sparse={name: _texts(values) for name, values in sparse.items()},
        bags=bags,
        history={"past_item": _texts(items[order]), "past_response": _texts(response[order])},
        history_starts=starts,
        history_stops=stops,
        vectors={"item_content": vectors},
        vector_rows=items,
        positions=shown.positions,
        user="user",
        target="item",
        cohorts=["user_device", "hour", "item_language"],
        fit_range=config.fit_range,
    )


def _later(config: WorldConfig, shown: Impressions, moments: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The labels of `data.retention`, by name: (N,) float64 each."""
    import polars as pl

    if not config.retention:
        return {}
    columns = {
        value: np.ones(len(shown.items)) if value == "items" else getattr(shown, value).astype(np.float64)
        for value in config.retention
    }
    place = {"_session": moments["session"], "_time": moments["time"], "_position": shown.positions}
    found = retention_labels(
        pl.DataFrame(columns | place),
        config.retention,
        session="_session",
        order=["_time", "_position"],
        discount=config.retention_discount,
    )
    return {f"later_{value}": labels.to_numpy() for value, labels in found.items()}


def _log(world: World, events: int) -> tuple[Impressions, dict[str, np.ndarray]]:
    """Every impression, and of each its request's id, time and session, and whether an ad came before; by request."""
    parts, moments = [], []
    with progress("simulating the world", events) as advance:
        for requests, impressions in world:
            at = impressions.requests
            parts.append(impressions)
            moments.append((requests.ids[at], requests.times[at], requests.ad_shown[at], requests.sessions[at]))
            advance(len(at))
    request, time, ad, session = (np.concatenate(column) for column in zip(*moments, strict=True))
    joined = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(Impressions)
    }
    order = np.lexsort((joined["positions"], request, time))
    shown = Impressions(**{name: values[order] for name, values in joined.items()})
    moments_by_row = {"request": request, "time": time, "ad": ad, "session": session}
    return shown, {name: values[order] for name, values in moments_by_row.items()}


def _tags(features: Features, rows: np.ndarray) -> tuple[polars.Series, np.ndarray, np.ndarray]:
    """The tags' texts, and where those of each row begin and end among them."""
    return _texts(features.tags), features.tag_offsets[rows], features.tag_offsets[rows + 1]


def _texts(values: np.ndarray) -> polars.Series:
    import polars as pl

    return pl.Series(values).cast(pl.String)
