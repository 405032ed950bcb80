"""Open Bandit Dataset, small version (Saito et al. 2021): each row an item in one of three places of a page.

A row is a request of its own: all items of the campaign are its candidates, the place is part of the context, and the
logged propensity is that of the item in that place.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recsysml.data import tables
from recsysml.data.slates import LOGGED, LoggedSlates, split_by_time
from recsysml.errors import DataError
from recsysml.files import data_dir, sha256
from recsysml.schemas.slates import OpenBanditConfig

if TYPE_CHECKING:
    import polars

FORMAT = 1
PLACES = 3
_USER = tuple(f"user_feature_{number}" for number in range(4))
_ITEM = tuple(f"item_feature_{number}" for number in range(1, 4))
_LOG = ("timestamp", "item_id", "position", "click", "propensity_score", *_USER)


def check(config: OpenBanditConfig) -> None:
    """Raises DataError, in one line, for a missing file or column. Reads headers only."""
    config.validate()
    log, items = _files(config)
    tables.need(log, dict.fromkeys(_LOG, "the Open Bandit Dataset"))
    tables.need(items, dict.fromkeys(("item_id", "item_feature_0", *_ITEM), "the Open Bandit Dataset"))


def load_slates(config: OpenBanditConfig) -> LoggedSlates:
    """The rows in order of time. Raises DataError naming a bad row."""
    check(config)
    log, items_file = _files(config)
    items = tables.read(items_file, ("item_id", "item_feature_0", *_ITEM))
    ids = _numbers(items["item_id"], items_file).astype(np.int64)
    count = len(ids)
    if sorted(ids.tolist()) != list(range(count)):
        raise DataError(f"{items_file}: item_id are not 0 to {count - 1}, each once")
    items = items[np.argsort(ids)]
    affinities = [f"user-item_affinity_{number}" for number in range(count)]
    tables.need(log, dict.fromkeys(affinities, "the Open Bandit Dataset"))
    rows = tables.read(log, (*_LOG, *affinities))
    if rows.is_empty():
        raise DataError(f"{log} holds no rows")
    times = tables.seconds(rows["timestamp"]).fill_null(float("nan")).to_numpy()
    numbers = {name: _numbers(rows[name], log) for name in ("item_id", "position", "click", "propensity_score")}
    wrong = {
        "timestamp": ~np.isfinite(times),
        "item_id": ~np.isin(numbers["item_id"], np.arange(count)),
        "position": ~np.isin(numbers["position"], np.arange(1, PLACES + 1)),
        "click": ~np.isin(numbers["click"], (0, 1)),
        "propensity_score": ~((numbers["propensity_score"] > 0) & (numbers["propensity_score"] <= 1)),
    }
    for name, bad in wrong.items():
        if bad.any():
            row = int(bad.argmax())
            raise DataError(f"{log} row {row + 1}: {name} is {rows[name][row]!r}, which cannot be")
    order = np.argsort(times, kind="stable")
    n = len(order)
    angle = 2 * np.pi * (times % 86_400) / 86_400
    contexts = {"hour_sin": np.sin(angle), "hour_cos": np.cos(angle)}
    contexts |= {f"position={place}": numbers["position"] == place for place in range(1, PLACES + 1)}
    contexts |= _ones(rows, _USER)
    known = {"item_feature_0": _numbers(items["item_feature_0"], items_file)} | _ones(items, _ITEM)
    known |= {f"item={number}": np.arange(count) == number for number in range(count)}
    affinity = np.stack([_numbers(rows[name], log) for name in affinities], axis=1)  # (R, N)
    uniform = np.full((n, count), 1 / count) if config.behaviour == "random" else None
    users = rows.select(_USER).with_row_index().group_by(_USER, maintain_order=True).agg("index")["index"]
    user = np.empty(n, np.int64)
    for number, members in enumerate(users):
        user[members.to_numpy()] = number
    return LoggedSlates(
        config.name,
        ["open_bandit", FORMAT, sha256(log), sha256(items_file)],
        split_by_time(n, config.val_fraction, config.test_fraction, config.name),
        user[order],
        times[order],
        np.stack(list(contexts.values()), axis=1).astype(np.float32)[order],
        np.stack(list(known.values()), axis=1).astype(np.float32),
        [str(number) for number in range(count)],
        np.broadcast_to(np.arange(count), (n, count)),
        np.ones((n, count), bool),
        affinity[order, :, None].astype(np.float32),
        list(contexts),
        list(known),
        ["affinity"],
        numbers["item_id"].astype(np.int64)[order],
        numbers["propensity_score"][order],
        LOGGED,
        numbers["click"][order, None].astype(np.float32),
        config.task_types(),
        dict(config.reward_weights),
        logging=uniform,
        fit_range=config.fit_range,
    )


def prepare(config: OpenBanditConfig) -> None:
    """Nothing to convert; the data set's own site is where it is fetched from."""
    check(config)


def status(config: OpenBanditConfig) -> str:
    """One line for `recsysml data list`. Raises what `check` raises."""
    check(config)
    log, _ = _files(config)
    return f"ready: {config.behaviour}/{config.campaign}, {log.stat().st_size / 1e6:.1f} MB"


def _files(config: OpenBanditConfig) -> tuple[Path, Path]:
    """The log, gzipped or not, and the table of items."""
    folder = f"{config.path}/{config.behaviour}/{config.campaign}"
    shared = data_dir()
    for place in (Path(folder).expanduser(), *([shared / folder] if shared else [])):
        if (place / f"{config.campaign}.csv").is_file():
            return place / f"{config.campaign}.csv", tables.find_file(config.name, str(place / "item_context.csv"))
    log = tables.find_file(config.name, f"{folder}/{config.campaign}.csv.gz")
    return log, tables.find_file(config.name, f"{folder}/item_context.csv")


def _ones(rows: polars.DataFrame, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Columns of 0 and 1, one for each value; hashes are cut to what tells them apart on sight."""
    found = {}
    for name in names:
        for value in sorted(rows[name].fill_null("").unique().to_list()):
            found[f"{name}={value[:8]}"] = (rows[name].fill_null("") == value).to_numpy()
    return found


def _numbers(values: polars.Series, path: Path) -> np.ndarray:
    """(N,) float64. Raises DataError for what is missing or no number."""
    import polars as pl

    found = values.cast(pl.Float64, strict=False)
    if (wrong := found.is_null() | ~found.is_finite().fill_null(True)).any():
        row = int(wrong.arg_max() or 0)
        raise DataError(f"{path} row {row + 1}: {values.name} is {values[row]!r}, no number")
    return found.to_numpy()
