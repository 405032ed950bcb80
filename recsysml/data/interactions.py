"""User-item events of a RecBole `.inter`, CSV or Parquet file, with features of users and items from two more."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recsysml.data import tables
from recsysml.data.features import Features, encode, no_features, of_table
from recsysml.data.interaction_data import ENOUGH, FIT_RANGES, SPLITS, Interactions, InteractionSplit, divide
from recsysml.errors import ConfigError, DataError
from recsysml.files import sha256
from recsysml.schemas.data import InteractionsConfig

if TYPE_CHECKING:
    import polars

__all__ = ["FIT_RANGES", "SPLITS", "InteractionSplit", "Interactions", "check", "load", "prepare", "status"]

log = logging.getLogger("recsysml")


def check(config: InteractionsConfig) -> None:
    """Raises ConfigError or DataError, in one line, for a missing file, suffix or column. Reads headers only."""
    config.validate()
    if not config.path:
        raise ConfigError(f"data.path is empty: give a file of events, one of {', '.join(tables.SUFFIXES)}")
    path = tables.find(config.name, "data.path", config.path)
    fields = ("user_column", "item_column", "time_column")
    tables.need(path, {getattr(config, field): f"data.{field}" for field in fields})
    tables.verify(path, config.sha256)
    for name, table in (("items", config.items_path), ("users", config.users_path)):
        wanted = _feature_columns(config, name)
        if table:
            id_field = f"{name[:-1]}_column"
            need = {column: f"data.{field}" for field, columns in wanted.items() for column in columns}
            need[getattr(config, id_field)] = f"data.{id_field}"
            tables.need(tables.find(config.name, f"data.{name}_path", table), need)
        elif unused := next((field for field, columns in wanted.items() if columns), None):
            raise ConfigError(f"data.{unused} needs the table that has these columns: set data.{name}_path")


def load(config: InteractionsConfig) -> Interactions:
    """The events and features. Raises DataError naming a bad row.

    An event that the file has twice (same user, item and time) counts once, and a line says so.
    """
    check(config)
    assert config.path
    path = tables.find(config.name, "data.path", config.path)
    rows = tables.read_events(path, config.user_column, config.item_column, config.time_column)
    rows = without_duplicates(rows, path)
    users, user_ids = encode(rows["user"])
    items, item_ids = encode(rows["item"])
    if config.split == "last_out":
        report_few(users, user_ids, rows["row"].to_numpy(), path)
    times = rows["time"].to_numpy()
    if config.ties == "item":
        order = by_item(rows["item"])
        users, items, times = users[order], items[order], times[order]
    splits = divide(config, users, items, times)
    titles = None
    if config.items_path and config.title_column:
        titles = _table(config, "items", item_ids)[config.title_column].fill_null("").to_list()
    return Interactions(
        config.name,
        _fingerprint(config, path),
        user_ids,
        item_ids,
        splits,
        _features(config, "users", user_ids),
        _features(config, "items", item_ids),
        titles,
        split=config.split,
        fit_range=config.fit_range,
    )


def prepare(config: InteractionsConfig) -> None:
    """Nothing to convert; there is no address these sets may be fetched from without accepting their terms."""
    load(config)


def status(config: InteractionsConfig) -> str:
    """One line for `recsysml data list`. Raises what `check` raises."""
    check(config)
    assert config.path
    path = tables.find(config.name, "data.path", config.path)
    return f"ready: {path.name}, {path.stat().st_size / 1e6:.1f} MB"


def without_duplicates(rows: polars.DataFrame, path: Path) -> polars.DataFrame:
    """Each (user, item, time) once, its first row; a warning counts the others and names one."""
    kept = rows.unique(["user", "item", "time"], keep="first", maintain_order=True)
    if twice := len(rows) - len(kept):
        first = rows["row"].filter(~rows["row"].is_in(kept["row"].implode()))[0]
        log.warning("%s: %d events stand there twice (the first is row %d); each counts once", path, twice, first)
    return kept


def by_item(items: polars.Series) -> np.ndarray:
    """(N,) where the items' names go up: as numbers if all of them are, else as texts."""
    import polars as pl

    numbers = items.cast(pl.Int64, strict=False)
    return (items if numbers.null_count() else numbers).arg_sort().to_numpy()


def report_few(users: np.ndarray, user_ids: list[str], rows: np.ndarray, path: Path) -> None:
    """Says how many users (of events (N,), read from `rows` (N,)) have too little history for last_out to ask about."""
    counts = np.bincount(users)
    short = np.flatnonzero(counts[users] < ENOUGH)
    if len(short):
        few, user = int((counts < ENOUGH).sum()), users[short[0]]
        log.warning(
            "%s: users with fewer than %d events: %d (the first is %s with %d, row %d); last_out only trains on theirs",
            path, ENOUGH, few, user_ids[user], counts[user], rows[short[0]],
        )  # fmt: skip


def _feature_columns(config: InteractionsConfig, name: str) -> dict[str, list[str]]:
    """Field -> the columns it wants of the table of `items` or `users`."""
    if name == "users":
        return {field: getattr(config, field) for field in ("user_dense", "user_categorical")}
    fields = {field: getattr(config, field) for field in ("item_dense", "item_categorical", "item_tags")}
    return fields | {"title_column": [config.title_column] if config.title_column else []}


def _table(config: InteractionsConfig, name: str, ids: list[str]) -> polars.DataFrame:
    given, column = (
        (config.items_path, config.item_column) if name == "items" else (config.users_path, config.user_column)
    )
    assert given
    wanted = [column for columns in _feature_columns(config, name).values() for column in columns]
    return tables.read_features(tables.find(config.name, f"data.{name}_path", given), column, ids, wanted)


def _features(config: InteractionsConfig, name: str, ids: list[str]) -> Features:
    path = config.items_path if name == "items" else config.users_path
    if not path:
        return no_features(len(ids))
    rows = _table(config, name, ids)
    try:
        if name == "users":
            return of_table(rows, config.user_dense, config.user_categorical, [])
        return of_table(rows, config.item_dense, config.item_categorical, config.item_tags)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _fingerprint(config: InteractionsConfig, path: Path) -> str:
    tables_used = [
        sha256(tables.find(config.name, "", given)) for given in (config.items_path, config.users_path) if given
    ]
    wanted = [_feature_columns(config, name) for name in ("items", "users")]
    columns = [config.user_column, config.item_column, config.time_column, *wanted]
    parts = [sha256(path), config.split, config.ties, columns, tables_used]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
