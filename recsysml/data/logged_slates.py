"""Logged slates from any CSV, TSV or Parquet file with a row a candidate: what its columns say stands in the config."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recsysml.data import tables
from recsysml.data.logging_policy import estimate
from recsysml.data.slates import ESTIMATED, LOGGED, LoggedSlates, split_by_time
from recsysml.errors import ConfigError, DataError
from recsysml.files import sha256
from recsysml.schemas.slates import LoggedSlatesConfig

if TYPE_CHECKING:
    import polars

log = logging.getLogger("recsysml")

FORMAT = 1
# a request's propensities may sum to so much more or less than 1
_SUM = 1e-3


def check(config: LoggedSlatesConfig) -> None:
    """Raises ConfigError or DataError, in one line, for a missing file, suffix or column. Reads headers only."""
    config.validate()
    if not config.path:
        raise ConfigError(f"data.path is empty: give a file of logged slates, one of {', '.join(tables.SUFFIXES)}")
    if not config.labels:
        raise ConfigError("data.labels is empty: name what was done with the item on top, +data.labels.click=binary")
    if not (config.dense or config.categorical):
        raise ConfigError("data has no features: name columns in data.dense or data.categorical")
    tables.need(tables.find(config.name, "data.path", config.path), _wanted(config))


def load_slates(config: LoggedSlatesConfig) -> LoggedSlates:
    """The requests in order of time. Raises DataError naming a bad row."""
    check(config)
    path = tables.find(config.name, "data.path", str(config.path))
    rows = tables.read(path, _wanted(config))
    if rows.is_empty():
        raise DataError(f"{path} holds no candidates")
    request, times = _requests(config, rows, path)
    shown = _numbers(rows, config.shown_column, path)
    if (wrong := ~np.isin(shown, (0, 1))).any():
        raise _bad(path, rows, config.shown_column, wrong, "neither 0 nor 1")
    order = np.lexsort((np.arange(len(rows)), request))
    column = np.empty(len(rows), np.int64)
    sizes = np.bincount(request)
    column[order] = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    on_top = np.bincount(request, weights=shown)
    if (strange := on_top != 1).any():
        first = int(np.flatnonzero(request == int(strange.argmax()))[0])
        name = rows[config.request_column][first]
        raise DataError(f"{path}: request {name} has {on_top[request[first]]:.0f} items on top; it must be 1")
    top = np.empty(len(sizes), np.int64)  # the row of each request's item on top
    top[request[shown == 1]] = np.flatnonzero(shown == 1)
    named = rows[config.item_column].fill_null("")
    ids = sorted(named.unique().to_list())
    item = named.rank("dense").to_numpy().astype(np.int64) - 1
    twice = np.unique(np.stack([request, item], axis=1), axis=0, return_counts=True)
    if (again := twice[1] > 1).any():
        strange_request, strange_item = twice[0][again.argmax()]
        first = int(np.flatnonzero(request == strange_request)[0])
        raise DataError(f"{path}: request {rows[config.request_column][first]} has item {ids[strange_item]} twice")

    bounds = split_by_time(len(sizes), config.val_fraction, config.test_fraction, config.name)
    learnt = request < bounds["train" if config.fit_range == "train" else "val"][1]
    numbers = {name: _numbers(rows, name, path, empty=True) for name in config.dense}
    if said := ", ".join(f"{name} {missing:,}" for name, v in numbers.items() if (missing := int(np.isnan(v).sum()))):
        log.warning("%s: numbers that are missing count as the mean of train: %s", config.name, said)
    columns = {name: _filled(values, learnt) for name, values in numbers.items()}
    for name in config.categorical:
        columns |= _ones(config, rows[name], learnt)
    shape = (len(sizes), int(sizes.max()))
    mask = np.zeros(shape, bool)
    mask[request, column] = True
    candidates = np.zeros(shape, np.int64)
    candidates[request, column] = item
    pairs = np.zeros((*shape, len(columns)), np.float32)
    pairs[request, column] = np.stack(list(columns.values()), axis=1)
    actions = np.stack([_labels(config, rows, name, path, top) for name in config.labels], axis=1)
    logging_policy = None
    if config.propensity_column:
        propensity = _propensities(config, rows, path, top)
        logging_policy = _whole_policy(config, rows, request, column, mask)
        if (propensity == 1).all() and shape[1] > 1:
            log.warning(
                "%s: every %s is 1, of requests with up to %s candidates: such a log says nothing of another policy;"
                " data.propensity_column=null has them estimated",
                *(config.name, config.propensity_column, shape[1]),
            )
    else:
        try:
            logging_policy = estimate(pairs, mask, column[top], folds=config.folds)
        except ValueError as error:
            raise DataError(f"{path}: {error}") from None
        propensity = np.maximum(logging_policy[np.arange(len(top)), column[top]], np.finfo(float).tiny)
        log.warning(
            "%s has no propensities: they are estimated (least %.2g, median %.2g), and so is every result",
            *(config.name, propensity.min(), np.median(propensity)),
        )
    user = np.zeros(len(top), np.int64)
    if config.user_column:
        user = rows[config.user_column][top.tolist()].fill_null("").rank("dense").to_numpy().astype(np.int64) - 1
    settings = [config.dense, config.categorical, config.propensity_column, config.folds]
    return LoggedSlates(
        config.name,
        ["logged_slates", FORMAT, sha256(path), settings],
        bounds,
        user,
        times[top],
        np.zeros((len(top), 0), np.float32),
        np.zeros((len(ids), 0), np.float32),
        ids,
        candidates,
        mask,
        pairs,
        [],
        [],
        list(columns),
        column[top],
        propensity,
        LOGGED if config.propensity_column else ESTIMATED,
        actions.astype(np.float32),
        config.task_types(),
        dict(config.reward_weights),
        logging=logging_policy,
        fit_range=config.fit_range,
    )


def prepare(config: LoggedSlatesConfig) -> None:
    """Nothing to convert: reads it all, so that a bad row is found."""
    load_slates(config)


def status(config: LoggedSlatesConfig) -> str:
    """One line for `recsysml data list`. Raises what `check` raises."""
    check(config)
    path = tables.find(config.name, "data.path", str(config.path))
    return f"ready: {path.name}, {path.stat().st_size / 1e6:.1f} MB"


def _wanted(config: LoggedSlatesConfig) -> dict[str, str]:
    """Column -> the key that names it."""
    keys = ("request_column", "item_column", "shown_column", "propensity_column", "time_column", "user_column")
    wanted = {getattr(config, key): f"data.{key}" for key in keys if getattr(config, key)}
    return wanted | {name: f"data.{key}" for key in ("dense", "categorical", "labels") for name in getattr(config, key)}


def _requests(config: LoggedSlatesConfig, rows: polars.DataFrame, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Of each row its request, numbered from 0 in order of time, and its time in seconds."""
    names = rows[config.request_column]
    if names.null_count() or (names == "").any():
        raise DataError(f"{path} row {int(names.is_null().arg_max() or 0) + 1} has no {config.request_column}")
    number = names.rank("dense").to_numpy().astype(np.int64) - 1
    times = np.arange(len(rows), dtype=np.float64)
    if config.time_column:
        times = tables.seconds(rows[config.time_column]).fill_null(float("nan")).to_numpy()
        if (wrong := ~np.isfinite(times)).any():
            raise _bad(path, rows, config.time_column, wrong, "neither number nor date")
    first = np.full(int(number.max()) + 1, np.inf)
    np.minimum.at(first, number, times)
    place = np.empty(len(first), np.int64)
    place[np.argsort(first, kind="stable")] = np.arange(len(first))
    return place[number], first[number]


def _propensities(config: LoggedSlatesConfig, rows: polars.DataFrame, path: Path, top: np.ndarray) -> np.ndarray:
    """(R,) of what was shown. Raises DataError naming the row of one that cannot be."""
    name = str(config.propensity_column)
    found = _numbers(rows[top.tolist()], name, path, at=top)
    if (wrong := ~((found > 0) & (found <= 1))).any():
        row = int(top[wrong.argmax()])
        raise DataError(f"{path} row {row + 1}: {name} is {rows[name][row]!r}; what was shown had a chance, at most 1")
    return found


def _whole_policy(
    config: LoggedSlatesConfig, rows: polars.DataFrame, request: np.ndarray, column: np.ndarray, mask: np.ndarray
) -> np.ndarray | None:
    """(R, N) what the policy that logged gave every candidate, where the column says it in all rows; else None."""
    import polars as pl

    name = str(config.propensity_column)
    texts = rows[name].str.strip_chars() if rows[name].dtype == pl.String else rows[name]
    values = texts.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
    found = np.zeros(mask.shape)
    found[request, column] = values
    off = np.abs(found.sum(axis=1) - 1)
    if (values >= 0).all() and (off <= _SUM).all():
        return found / found.sum(axis=1, keepdims=True)
    if np.isfinite(values).all():
        worst = int(off.argmax())
        named = rows[config.request_column][int(np.flatnonzero(request == worst)[0])]
        log.warning(
            "%s: %s stands in every row and is no policy: of request %s's candidates it sums to %.4g, not 1; only that"
            " of what was shown is read",
            *(config.name, name, named, found[worst].sum()),
        )
    return None


def _labels(config: LoggedSlatesConfig, rows: polars.DataFrame, name: str, path: Path, top: np.ndarray) -> np.ndarray:
    """(R,) of the items on top; elsewhere a label may be empty."""
    found = _numbers(rows[top.tolist()], name, path, at=top)
    if config.labels[name] == "binary" and (wrong := ~np.isin(found, (0, 1))).any():
        row = int(top[wrong.argmax()])
        raise DataError(f"{path} row {row + 1}: {name} is {rows[name][row]!r}, neither 0 nor 1")
    return found


def _ones(config: LoggedSlatesConfig, values: polars.Series, learnt: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of 0 and 1, one for each value that training met."""
    import polars as pl

    texts = values.cast(pl.String).fill_null("")
    known = sorted(texts.filter(pl.Series(learnt)).unique().to_list())
    if len(known) > config.max_categories:
        raise DataError(
            f"{config.name}: {values.name} has {len(known)} values, more than data.max_categories="
            f"{config.max_categories}: leave it out, or raise that"
        )
    return {f"{values.name}={value}": (texts == value).to_numpy() for value in known}


def _filled(values: np.ndarray, learnt: np.ndarray) -> np.ndarray:
    """(n,) with the mean of what is learnt from where there is nothing."""
    own = values[learnt]
    known = own[np.isfinite(own)]
    return np.where(np.isfinite(values), values, known.mean() if len(known) else 0.0)


def _numbers(
    rows: polars.DataFrame, name: str, path: Path, *, empty: bool = False, at: np.ndarray | None = None
) -> np.ndarray:
    """(n,) float64. Raises DataError for what is no number, or missing unless it may be `empty` (NaN).

    at: which rows of the file these are.
    """
    import polars as pl

    values = rows[name]
    nothing = values.is_null() if values.dtype != pl.String else (values.is_null() | (values.str.strip_chars() == ""))
    texts = values.str.strip_chars() if values.dtype == pl.String else values
    found = texts.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
    wrong = ~np.isfinite(found)
    if empty:
        wrong &= ~nothing.to_numpy()
    if wrong.any():
        place = int(wrong.argmax())
        row = place if at is None else int(at[place])
        raise DataError(f"{path} row {row + 1}: {name} is {values[place]!r}, no number")
    return found


def _bad(path: Path, rows: polars.DataFrame, name: str, wrong: np.ndarray, what: str) -> DataError:
    row = int(wrong.argmax())
    return DataError(f"{path} row {row + 1}: {name} is {rows[name][row]!r}, {what}")
