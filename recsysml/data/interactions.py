"""User-item events of a RecBole `.inter`, CSV or Parquet file, split by time or by each user's last event."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recsysml.errors import ConfigError, DataError
from recsysml.files import data_dir, sha256
from recsysml.schemas.data import InteractionsConfig

if TYPE_CHECKING:
    import polars

SPLITS = ("time", "last_out")
_SUFFIXES = (".inter", ".csv", ".parquet")


@dataclass(frozen=True)
class InteractionSplit:
    users: np.ndarray  # (N,) int64, indices into user_ids
    items: np.ndarray  # (N,) int64, indices into item_ids
    times: np.ndarray  # (N,) float64, seconds, ascending


@dataclass(frozen=True)
class Interactions:
    """Events in time order; ids are contiguous integers, their names sorted as text."""

    name: str
    fingerprint: str  # sha256 of the file and of how it was read and split
    user_ids: list[str]
    item_ids: list[str]
    splits: dict[str, InteractionSplit]  # train, val, test

    @property
    def sizes(self) -> dict[str, int]:
        """Events of each split."""
        return {name: len(split.users) for name, split in self.splits.items()}


def check(config: InteractionsConfig) -> None:
    """Raises ConfigError or DataError, in one line, for a missing file, suffix or column. Reads the header only."""
    if config.split not in SPLITS:
        raise ConfigError(f"data.split={config.split} does not exist: choose one of {', '.join(SPLITS)}")
    _columns(config, _find(config))


def load(config: InteractionsConfig) -> Interactions:
    """Events ordered by time, those of equal time as in the file.

    `time`: the first 80% train, the next 10% val, the last 10% test. `last_out`: each user's last event test, the one
    before val, the rest train; users with fewer than three events only train. Raises DataError naming a bad row.
    """
    import polars as pl

    check(config)
    path = _find(config)
    names = _columns(config, path)
    wanted = [names[column] for column in (config.user_column, config.item_column, config.time_column)]
    try:
        rows = _scan(path).select(wanted).collect()
    except Exception as error:  # polars has many; the first line says which
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    rows.columns = ["user", "item", "time"]
    rows = rows.with_columns(pl.col("user", "item").cast(pl.String), _seconds(rows["time"]))
    for column, name in zip(rows.columns, wanted, strict=True):
        bad = rows[column].is_null() | (rows[column].is_nan() if column == "time" else False)
        if bad.any():
            raise DataError(f"{path} row {int(bad.arg_max() or 0) + 1} has no usable {name!r}")
    if rows.is_empty():
        raise DataError(f"{path} holds no events")
    rows = rows.sort("time", maintain_order=True)
    user_ids, users = np.unique(rows["user"].to_numpy(), return_inverse=True)
    item_ids, items = np.unique(rows["item"].to_numpy(), return_inverse=True)
    times = rows["time"].to_numpy()
    split = _by_time(len(users)) if config.split == "time" else _last_out(users)
    splits = {
        name: InteractionSplit(users[split == i], items[split == i], times[split == i])
        for i, name in enumerate(("train", "val", "test"))
    }
    return Interactions(config.name, _fingerprint(config, path), user_ids.tolist(), item_ids.tolist(), splits)


def prepare(config: InteractionsConfig) -> None:
    """Nothing to convert; there is no address these sets may be fetched from without accepting their terms."""
    load(config)


def status(config: InteractionsConfig) -> str:
    """One line for `recsysml data list`. Raises what `check` raises."""
    check(config)
    path = _find(config)
    return f"ready: {path.name}, {path.stat().st_size / 1e6:.1f} MB"


def _find(config: InteractionsConfig) -> Path:
    if not config.path:
        raise ConfigError("data.path is empty: give a .inter, .csv or .parquet file")
    given, shared = Path(config.path).expanduser(), data_dir()
    for path in (given, *([shared / given] if shared else [])):
        if path.is_file():
            if path.suffix not in _SUFFIXES:
                raise ConfigError(f"{path} is none of {', '.join(_SUFFIXES)}")
            return path
    raise DataError(f"{config.name}: {config.path} is missing: set RECSYSML_DATA to the folder that holds it")


def _scan(path: Path) -> polars.LazyFrame:
    """The file with text columns, so that an id or a time that looks odd is ours to name."""
    import polars as pl

    if path.suffix == ".parquet":
        return pl.scan_parquet(path)
    return pl.scan_csv(path, separator="\t" if path.suffix == ".inter" else ",", infer_schema=False)


def _columns(config: InteractionsConfig, path: Path) -> dict[str, str]:
    """Column -> its name in the file: a `.inter` header adds a type, as in `user_id:token`."""
    try:
        header = _scan(path).collect_schema().names()
    except Exception as error:  # polars has many; the first line says which
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    names = {name.partition(":")[0] if path.suffix == ".inter" else name: name for name in header}
    for field in ("user_column", "item_column", "time_column"):
        if getattr(config, field) not in names:
            raise DataError(
                f"{path} has no column {getattr(config, field)!r} (data.{field}); it has {', '.join(names)}"
            )
    return names


def _seconds(values: polars.Series) -> polars.Series:
    """Numbers as they are; dates and texts such as 2019-11-24 00:01:03 as seconds since 1970; null where neither."""
    import polars as pl

    if values.dtype.is_temporal():
        return values.cast(pl.Datetime("us")).dt.epoch("us") / 1e6
    if values.dtype != pl.String:
        return values.cast(pl.Float64, strict=False)
    numbers = values.cast(pl.Float64, strict=False)
    dates = values.str.to_datetime(time_unit="us", strict=False) if numbers.null_count() == len(values) else None
    return numbers if dates is None else (dates.dt.epoch("us") / 1e6)


def _by_time(n: int) -> np.ndarray:
    """(n,) 0 train, 1 val, 2 test."""
    split = np.zeros(n, dtype=np.int64)
    split[n * 8 // 10 :] = 1
    split[n * 9 // 10 :] = 2
    return split


def _last_out(users: np.ndarray) -> np.ndarray:
    """(N,) 0 train, 1 val, 2 test, for users in time order."""
    order = np.argsort(users, kind="stable")
    counts = np.bincount(users)
    ends = np.cumsum(counts)[counts >= 3]  # one past each user's last event
    split = np.zeros(len(users), dtype=np.int64)
    split[order[ends - 1]] = 2
    split[order[ends - 2]] = 1
    return split


def _fingerprint(config: InteractionsConfig, path: Path) -> str:
    parts = (sha256(path), config.split, config.user_column, config.item_column, config.time_column)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
