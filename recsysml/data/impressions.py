"""Impressions from any CSV, TSV or Parquet file: which of its columns are features and labels stands in the config."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recsysml.data import tables
from recsysml.data.impression_data import ImpressionTable, RawImpressions, bounds_by_time, encode
from recsysml.data.impression_encoder import ImpressionEncoder
from recsysml.data.retention import retention_labels
from recsysml.errors import ConfigError, DataError
from recsysml.files import sha256
from recsysml.schemas.impressions import ImpressionsConfig

if TYPE_CHECKING:
    import polars

log = logging.getLogger("recsysml")

FORMAT = 1
# of data.retention: what is no column, but a one each
_ONE = "items"


def check(config: ImpressionsConfig) -> None:
    """Raises ConfigError or DataError, in one line, for a missing file, suffix or column. Reads headers only."""
    config.validate()
    if not config.path:
        raise ConfigError(f"data.path is empty: give a file of impressions, one of {', '.join(tables.SUFFIXES)}")
    if not config.task_types():
        raise ConfigError("data.labels is empty: name the columns to predict, such as +data.labels.click=binary")
    if not (config.dense or config.sparse or config.bags or config.sequences or config.vectors):
        raise ConfigError("data has no features: name columns in data.dense, data.sparse, data.bags, ...")
    for path in _files(config):
        tables.need(path, _wanted(config), config.columns)
        if _ONE in config.retention and _ONE in tables.columns(path, config.columns):
            raise ConfigError(f"data.retention: {_ONE} is a one each, and {path} has a column of that name: rename it.")


def load_impressions(config: ImpressionsConfig, encoder: ImpressionEncoder | None = None) -> ImpressionTable:
    """The rows in order of time. Raises DataError naming a bad row; with `encoder`, what is missing or unknown counts
    as such."""
    return encode(read(config, strict=encoder is None), encoder)


def prepare(config: ImpressionsConfig) -> None:
    """Nothing to convert: reads it all, so that a bad row is found."""
    load_impressions(config)


def status(config: ImpressionsConfig) -> str:
    """One line for `recsysml data list`. Raises what `check` raises."""
    check(config)
    files = _files(config)
    return f"ready: {files[0].name}, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB"


def read(config: ImpressionsConfig, *, strict: bool = True) -> RawImpressions:
    """The file's rows by their types. strict: a number that is none is an error, else it is missing."""
    import polars as pl

    check(config)
    files = _files(config)
    parts = [tables.read(file, _wanted(config), config.columns) for file in files]
    lengths = [len(part) for part in parts]
    rows = pl.concat(parts)
    where = _Rows(files, lengths)
    request, times = _requests(config, rows, where)
    part_of = np.repeat(np.arange(len(files)), lengths)
    positions = _positions(config, rows, where)
    first_times = np.full(int(request.max()) + 1, np.inf)
    np.minimum.at(first_times, request, times)
    keys = (request, first_times[request], part_of)  # the last one first: files, then time, then slates
    order = np.lexsort(keys if positions is None else (positions, *keys))
    rows, request, times = rows[order], request[order], times[order]
    where = where.ordered(order)
    if len(files) == 1:
        bounds = bounds_by_time(request, config.val_fraction, config.test_fraction, config.name)
        moments = first_times[request]
    else:
        moments = None  # the files say which split each row is in
        edges = np.concatenate([[0], np.cumsum(lengths)]).tolist()
        bounds = {name: (edges[i], edges[i + 1]) for i, name in enumerate(("train", "val", "test"))}
    history, starts, stops = {}, None, None
    for name in config.sequences:
        history[f"{name}"], starts, stops = _lists(rows[name])
    of_user = [str(config.user_column), *config.user_columns] if config.user_columns else []
    if of_user:
        _warn_of_changing(config, rows)
    sparse = [*of_user, *(name for name in config.sparse if name not in of_user)]
    settings = {name: getattr(config, name) for name in ("dense", "sparse", "bags", "sequences", "vectors", "positive")}
    return RawImpressions(
        config.name,
        ["impressions", FORMAT, [sha256(file) for file in files], settings],
        bounds,
        {name: _labels(config, name, rows[name], where) for name in config.labels}
        | _later(config, rows, times, bounds, where),
        config.task_types(),
        request,
        times,
        moments=moments,
        dense={name: _numbers(rows[name], where, strict=strict) for name in config.dense},
        sparse={name: _ids(rows[name]) for name in sparse},
        bags={name: _lists(rows[name]) for name in config.bags},
        history=history,
        history_starts=starts,
        history_stops=stops,
        vectors=_vectors(config, rows, where),
        vector_rows=np.arange(len(rows)) if config.vectors else None,
        positions=None if positions is None else positions[order],
        user=config.user_column,
        of_user=len(of_user),
        target=config.target_column,
        cohorts=config.cohorts,
        hashed=config.hashed,
        min_count=config.min_count,
        fit_range=config.fit_range,
        grouped_by=config.request_column or "row",
    )


def _warn_of_changing(config: ImpressionsConfig, rows: polars.DataFrame) -> None:
    """Says which of the columns of users has several values for one: nothing goes wrong, and little is saved."""
    import polars as pl

    counts = rows.group_by(str(config.user_column)).agg(pl.col(config.user_columns).n_unique())
    if changing := [name for name in config.user_columns if (counts[name] > 1).any()]:
        log.warning(
            "%s: data.user_columns: %s has several values for one user; only rows that are alike are multiplied once",
            *(config.name, ", ".join(changing)),
        )


class _Rows:
    """Where each row came from, for messages."""

    def __init__(self, files: list[Path], lengths: list[int]) -> None:
        self.files = files
        self.file = np.repeat(np.arange(len(files)), lengths)
        self.number = np.concatenate([np.arange(1, length + 1) for length in lengths])

    def ordered(self, order: np.ndarray) -> _Rows:
        self.file, self.number = self.file[order], self.number[order]
        return self

    def __getitem__(self, row: int) -> str:
        return f"{self.files[self.file[row]]} row {self.number[row]}"


def _files(config: ImpressionsConfig) -> list[Path]:
    """The file of all rows, or those of train, val and test."""
    given = [("path", config.path)]
    if config.val_path and config.test_path:
        given += [("val_path", config.val_path), ("test_path", config.test_path)]
    return [tables.find(config.name, f"data.{key}", str(path)) for key, path in given]


def _wanted(config: ImpressionsConfig) -> dict[str, str]:
    """Column -> the key that names it."""
    lists = ("dense", "sparse", "bags", "sequences", "vectors", "labels")
    wanted = {name: f"data.{key}" for key in lists for name in getattr(config, key)}
    for name in config.retention:
        if name != _ONE:
            wanted.setdefault(name, "data.retention")
    keys = ["time_column", "request_column", "position_column"]
    keys += ["session_column", "retention_pays", "retention_after"] if config.retention else []
    for key in keys:
        if getattr(config, key):
            wanted.setdefault(getattr(config, key), f"data.{key}")
    return wanted


def _requests(config: ImpressionsConfig, rows: polars.DataFrame, where: _Rows) -> tuple[np.ndarray, np.ndarray]:
    """Request numbers (N,) from 0, and times (N,): the place in the file where none are given."""
    n = len(rows)
    if not n:
        raise DataError(f"{config.path} holds no impressions")
    request = np.arange(n)
    if config.request_column:
        request = rows[config.request_column].fill_null("").rank("dense").to_numpy().astype(np.int64) - 1
    if not config.time_column:
        return request, np.arange(n, dtype=np.float64)
    times = tables.seconds(rows[config.time_column])
    found = times.fill_null(float("nan")).to_numpy()
    if not np.isfinite(found).all():
        row = int((~np.isfinite(found)).argmax())
        raise DataError(
            f"{where[row]}: {config.time_column} is {rows[config.time_column][row]!r}, neither number nor date"
        )
    return request, found


def _positions(config: ImpressionsConfig, rows: polars.DataFrame, where: _Rows) -> np.ndarray | None:
    if not config.position_column:
        return None
    found = _numbers(rows[config.position_column], where, strict=True)
    wrong = ~(found >= 0) | (found % 1 != 0)
    if wrong.any():
        row = int(wrong.argmax())
        shown = rows[config.position_column][row]
        raise DataError(f"{where[row]}: {config.position_column} is {shown!r}, no whole number from 0 on")
    return found.astype(np.int64)


def _labels(config: ImpressionsConfig, name: str, values: polars.Series, where: _Rows) -> np.ndarray:
    """(N,) float64. Raises DataError for what is missing, no number, or of a binary one neither 0 nor 1."""
    if name in config.positive:
        chosen = (values == config.positive[name]).fill_null(False)
        if values.null_count():
            raise DataError(f"{where[int(values.is_null().arg_max() or 0)]}: label {name} is missing")
        if not chosen.any():
            raise DataError(f"{where.files[0]}: no row has {name}={config.positive[name]!r} (data.positive)")
        return chosen.to_numpy().astype(np.float64)
    found = _numbers(values, where, strict=False)
    wrong = np.isnan(found)
    if config.labels[name] == "binary":
        wrong |= ~np.isin(found, (0.0, 1.0))
    if wrong.any():
        row = int(wrong.argmax())
        what = "no number, which this label needs in every row"
        if config.labels[name] == "binary":
            what = f"neither 0 nor 1; of texts +data.positive.{name}=TEXT says which stands for 1"
        raise DataError(f"{where[row]}: label {name} is {_shown(values[row])}, {what}")
    return found


def _later(
    config: ImpressionsConfig,
    rows: polars.DataFrame,
    times: np.ndarray,
    bounds: dict[str, tuple[int, int]],
    where: _Rows,
) -> dict[str, np.ndarray]:
    """(N,) float64 of each later_ label: discounted sums over what follows in the session within the row's own split.

    A sum that went on would bring outcomes of val and test into labels that are learnt from. So a session on the edge
    of a split counts up to it, as in a log that ends there.
    """
    import polars as pl

    if not config.retention:
        return {}

    def numbers(name: str, flag: str | None = None) -> np.ndarray:
        known = name in config.labels
        found = _labels(config, name, rows[name], where) if known else _numbers(rows[name], where, strict=False)
        wrong = ~np.isin(found, (0.0, 1.0)) if flag else np.isnan(found)
        if wrong.any():
            row = int(wrong.argmax())
            what = (
                f"neither 0 nor 1 (data.{flag})" if flag else "where a sum over a session needs a number in every row"
            )
            raise DataError(f"{where[row]}: {name} is {_shown(rows[name][row])}, {what}")
        return found.astype(bool) if flag else found

    sessions = _ids(rows[str(config.session_column)])
    nothing = sessions.is_null() | (sessions.fill_null("").str.to_lowercase() == "nan")
    if nothing.any():
        where_not = where[int(nothing.arg_max() or 0)]
        raise DataError(f"{where_not} has no {config.session_column}: data.retention needs a session in every row")
    owners = [sessions, *([_ids(rows[config.user_column]).fill_null("")] if config.user_column else [])]
    key = np.repeat(np.arange(len(bounds)), [stop - start for start, stop in bounds.values()])
    for each in owners:
        number = each.rank("dense").to_numpy().astype(np.int64)
        key = key * (int(number.max()) + 1) + number
    if len(np.unique(key)) == len(rows):
        raise DataError(f"{config.path}: {config.session_column} is another in every row: nothing follows in a session")
    table = {f"later_{name}": np.ones(len(rows)) if name == _ONE else numbers(name) for name in config.retention}
    asked = {"counts": config.retention_pays, "entered": config.retention_after}
    keys = {"counts": "retention_pays", "entered": "retention_after"}
    flags = {key: numbers(name, keys[key]) for key, name in asked.items() if name}
    found = retention_labels(
        pl.DataFrame({"session": key, "time": times, **flags, **table}), list(table), session="session",
        order=["time"], discount=config.retention_discount, **{key: key for key in flags},
    )  # fmt: skip
    return {name: labels.fill_null(0.0).to_numpy() for name, labels in found.items()}


def _numbers(values: polars.Series, where: _Rows, *, strict: bool) -> np.ndarray:
    """(N,) float64, NaN where there is nothing. strict: DataError for a text that is no number, NaN among them."""
    import polars as pl

    texts = values.cast(pl.String).str.strip_chars() if values.dtype == pl.String else values
    empty = texts.is_null() if texts.dtype != pl.String else (texts.is_null() | (texts == ""))
    found = texts.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
    wrong = ~np.isfinite(found) & ~empty.to_numpy()
    if strict and wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{where[row]}: {values.name} is {_shown(values[row])}, no number; leave it empty where it is unknown"
        )
    return np.where(wrong, np.nan, found)


def _ids(values: polars.Series) -> polars.Series:
    """Texts; an empty one is missing."""
    import polars as pl

    texts = values.cast(pl.String).str.strip_chars()
    return texts.to_frame("id").select(pl.when(pl.col("id") != "").then(pl.col("id")))["id"]


def _lists(values: polars.Series) -> tuple[polars.Series, np.ndarray, np.ndarray]:
    """A column of lists, or of texts that hold them -> all values, and where each row's begin and end."""
    import polars as pl

    lists = values
    if values.dtype == pl.String:
        lists = values.fill_null("").str.replace_all(r"[|,;\s]+", " ").str.strip_chars().str.split(" ")
    lists = lists.cast(pl.List(pl.String)).fill_null([]).list.eval(pl.element().filter(pl.element() != ""))
    lengths = lists.list.len().to_numpy().astype(np.int64)
    stops = np.cumsum(lengths)
    return lists.explode().drop_nulls().rename("value"), stops - lengths, stops


def _vectors(config: ImpressionsConfig, rows: polars.DataFrame, where: _Rows) -> dict[str, np.ndarray]:
    """Name -> (N, D). Raises DataError for a row of another length, or that holds no numbers."""
    import polars as pl

    found: dict[str, np.ndarray] = {}
    width: int | None = None
    for name in config.vectors:
        values, starts, stops = _lists(rows[name])
        numbers = values.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
        lengths = stops - starts
        width = int(lengths[0]) if width is None else width
        if (wrong := lengths != width).any():
            row = int(wrong.argmax())
            raise DataError(f"{where[row]}: {name} has {lengths[row]} numbers, others have {width}")
        matrix = numbers.reshape(len(rows), width)
        if not (finite := np.isfinite(matrix).all(axis=1)).all():
            raise DataError(f"{where[int((~finite).argmax())]}: {name} holds something that is no number")
        found[name] = matrix
    return found


def _shown(value: Any) -> str:
    return "missing" if value is None or value == "" else str(value)
