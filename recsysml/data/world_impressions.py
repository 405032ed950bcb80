"""The simulated world's log as impressions: everything that was shown, with all that was known when it was."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from recsysml.data.features import Features
from recsysml.data.impression_data import RawImpressions, bounds_by_time, past
from recsysml.data.progress import progress
from recsysml.data.retention import retention_labels
from recsysml.data.world_log import FORMAT, World
from recsysml.data.world_population import DAY, Population
from recsysml.data.world_sessions import Impressions
from recsysml.errors import ConfigError
from recsysml.schemas.data import WorldConfig

if TYPE_CHECKING:
    import polars

log = logging.getLogger("recsysml")


def read(config: WorldConfig, world: World) -> RawImpressions:
    """All impressions, those of a request side by side, requests in order of time.

    A row knows what its user did before the request: nothing of the slate it stands in. Raises ConfigError for a split
    that is not by time.
    """
    if config.split != "time":
        raise ConfigError(f"data.split={config.split}: impressions are divided by time; use data.split=time.")
    shown, moments = whole_log(world, config.events)
    labels = {name: getattr(shown, name).astype(np.float64) for name in config.actions}
    if config.retention:
        labels |= _later(config, shown, moments["session"])
    return RawImpressions(
        config.name,
        ["world", FORMAT, config.users, config.items, config.events, config.seed],
        bounds_by_time(moments["request"], 0.1, 0.1, config.name),
        labels,
        config.task_types(),
        moments["request"],
        moments["time"],
        **inputs(world.population, shown.users, shown.items, moments["time"], moments["ad"]),
        **history(shown, shown.users, moments["time"]),
        positions=shown.positions,
        fit_range=config.fit_range,
    )


def inputs(
    population: Population, users: np.ndarray, items: np.ndarray, times: np.ndarray, ads: np.ndarray
) -> dict[str, Any]:
    """What RawImpressions take of items (N,) that users (N,) are shown by requests at times (N,), the past aside.

    ads (N,): whether one stood before the slate.
    """
    hour = (times % DAY // 3600).astype(np.int64)
    sparse = {"user": users, "item": items, "hour": hour, "ad_before": ads.astype(np.int64)}
    dense = {"item_age_days": np.maximum(times - population.born[items], 0) / DAY}
    bags = {}
    for name, features, rows in (("user", population.user_features, users), ("item", population.item_features, items)):
        for place, column in enumerate(features.categorical_names):
            sparse[f"{name}_{column}"] = features.categorical[rows, place]
        for place, column in enumerate(features.dense_names):
            dense[f"{name}_{column}"] = features.dense[rows, place].astype(np.float64)
        bags[f"{name}_tags"] = _tags(features, rows)
    return {
        "dense": dense,
        "sparse": {name: _texts(values) for name, values in sparse.items()},
        "bags": bags,
        "vectors": {"item_content": population.item_features.vectors},
        "vector_rows": items,
        "user": "user",
        "target": "item",
        "cohorts": ["user_device", "hour", "item_language"],
    }


def history(shown: Impressions, users: np.ndarray, times: np.ndarray) -> dict[str, Any]:
    """What RawImpressions take of the past: for users (N,) at times (N,), what they were shown and did before."""
    order, starts, stops = past(users, times, shown.users, shown.times)
    response = 1 + shown.click.astype(np.int64) + 2 * shown.long_view + 4 * (shown.like | shown.share)
    response[~shown.click] = np.where(shown.skip[~shown.click], 0, 1)
    return {
        "history": {"past_item": _texts(shown.items[order]), "past_response": _texts(response[order])},
        "history_starts": starts,
        "history_stops": stops,
    }


def _later(config: WorldConfig, shown: Impressions, sessions: np.ndarray) -> dict[str, np.ndarray]:
    """(N,) float64 of each later_ label: discounted sums over what follows in the session, later requests too.

    Of a session on the edge of a split they look beyond it, as labels that are waited for do.
    """
    import polars as pl

    made = {"items": np.ones(len(sessions)), "conversions": shown.like.astype(np.float64) + shown.share}
    columns = {name: made[name] if name in made else getattr(shown, name) for name in config.retention}
    asked: dict[str, str] = {}
    rows = columns | {"session": sessions, "time": shown.times}
    for key, action in (("counts", config.retention_pays), ("entered", config.retention_after)):
        if action is not None:
            rows[key] = getattr(shown, action)
            asked[key] = key
    found = retention_labels(
        pl.DataFrame(rows), config.retention, session="session", order=["time"],
        discount=config.retention_discount, **asked,
    )  # fmt: skip
    return {f"later_{name}": labels.fill_null(0.0).to_numpy() for name, labels in found.items()}


def whole_log(world: World, events: int) -> tuple[Impressions, dict[str, np.ndarray]]:
    """Every impression, and of each its request's id, session, time and whether an ad stood before; by request."""
    parts, moments = [], []
    with progress("simulating the world", events) as advance:
        for requests, impressions in world:
            at = impressions.requests
            parts.append(impressions)
            moments.append((requests.ids[at], requests.sessions[at], requests.times[at], requests.ad_shown[at]))
            advance(len(at))
    request, session, time, ad = (np.concatenate(column) for column in zip(*moments, strict=True))
    joined = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(Impressions)
    }
    order = np.lexsort((joined["positions"], request, time))
    shown = Impressions(**{name: values[order] for name, values in joined.items()})
    return shown, {"request": request[order], "session": session[order], "time": time[order], "ad": ad[order]}


def _tags(features: Features, rows: np.ndarray) -> tuple[polars.Series, np.ndarray, np.ndarray]:
    """The tags' texts, and where those of each row begin and end among them."""
    return _texts(features.tags), features.tag_offsets[rows], features.tag_offsets[rows + 1]


def _texts(values: np.ndarray) -> polars.Series:
    import polars as pl

    return pl.Series(values).cast(pl.String)
