"""Impressions as a ranker's trainer, its evals and its baselines take them, and how they are split and encoded."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from recsysml.data.impression_encoder import ImpressionEncoder
from recsysml.data.ties import warn_of_ties
from recsysml.errors import DataError
from recsysml.schemas.ranking_shape import RankingShape

if TYPE_CHECKING:
    import polars

log = logging.getLogger("recsysml")

SPLITS = ("train", "val", "test")
# the later half of what a source calls val: rows that maps of probabilities are fitted to and that choose no weights
CALIBRATION = "calibration"
PADDING = -1


@dataclass(frozen=True)
class Ragged:
    """Lists of different lengths: row r owns places starts[r] to stops[r] of `values`; rows may share places."""

    values: np.ndarray  # (M, Q) int64
    starts: np.ndarray  # (N,) int64
    stops: np.ndarray  # (N,) int64

    def last(self, rows: np.ndarray, n: int) -> np.ndarray:
        """(R, n, Q) int64: the last n of each row's values, oldest first from the left, then PADDING."""
        if n == 0:
            return np.empty((len(rows), 0, self.values.shape[1]), np.int64)
        stops = self.stops[rows]
        begins = np.maximum(self.starts[rows], stops - n)
        places = begins[:, None] + np.arange(n)  # (R, n)
        real = places < stops[:, None]
        if not len(self.values):
            return np.full((len(rows), n, self.values.shape[1]), PADDING, np.int64)
        found = self.values[np.minimum(places, len(self.values) - 1)]  # (R, n, Q)
        return np.where(real[..., None], found, PADDING)

    @property
    def longest(self) -> int:
        return int((self.stops - self.starts).max(initial=0))

    def covered(self, rows: slice) -> np.ndarray:
        """(M,) bool: which values belong to at least one of these rows."""
        steps = np.zeros(len(self.values) + 1, np.int64)
        np.add.at(steps, self.starts[rows], 1)
        np.add.at(steps, self.stops[rows], -1)
        return np.cumsum(steps[:-1]) > 0


@dataclass(frozen=True)
class RawImpressions:
    """What a source has read: N rows in order of time, those of one request side by side. Nothing is fitted yet."""

    name: str
    source: list[Any]  # what the fingerprint is taken over besides the arrays: files' checksums, settings
    bounds: dict[str, tuple[int, int]]  # split -> its rows, from and to
    labels: dict[str, np.ndarray]  # (N,) float64 each
    task_types: dict[str, str]
    requests: np.ndarray  # (N,) int64
    times: np.ndarray  # (N,) float64 seconds
    moments: np.ndarray | None = None  # (N,) rising: the times that the split cuts, where rows of one time may be many
    dense: dict[str, np.ndarray] = field(default_factory=dict)  # (N,) float64 each, NaN where missing
    sparse: dict[str, polars.Series] = field(default_factory=dict)  # (N,) text, null where missing
    bags: dict[str, tuple[polars.Series, np.ndarray, np.ndarray]] = field(default_factory=dict)  # values, starts, stops
    history: dict[str, polars.Series] = field(default_factory=dict)  # (M,) text each: the first has `target`'s words
    history_starts: np.ndarray | None = None  # (N,)
    history_stops: np.ndarray | None = None
    vectors: dict[str, np.ndarray] = field(default_factory=dict)  # (V, D) each
    vector_rows: np.ndarray | None = None  # (N,) which of the V
    positions: np.ndarray | None = None  # (N,) int64 from 0
    user: str | None = None
    of_user: int = 0  # of `sparse` the first so many are of the user alone
    target: str | None = None
    cohorts: list[str] = field(default_factory=list)
    hashed: dict[str, int] = field(default_factory=dict)
    min_count: int = 1
    fit_range: str = "train"
    grouped_by: str = "request"  # what a grouped metric's groups are


@dataclass(frozen=True)
class ImpressionTable:
    """Encoded impressions: N rows in order of time; each split is one range of them."""

    name: str
    fingerprint: str  # sha256 of the source and of how it was read, split and encoded
    shape: RankingShape
    encoder: ImpressionEncoder
    bounds: dict[str, tuple[int, int]]
    dense: np.ndarray  # (N, F) float32, standardised
    vectors: np.ndarray  # (V, E, D) float32
    vector_rows: np.ndarray  # (N,) int64
    sparse: np.ndarray  # (N, S) int64
    bags: list[Ragged]  # G, of one column each
    history: Ragged  # of Q columns
    positions: np.ndarray  # (N,) int64
    labels: np.ndarray  # (N, T) float32; real ones standardised
    requests: np.ndarray  # (N,) int64
    times: np.ndarray  # (N,) float64
    fit_range: str = "train"
    grouped_by: str = "request"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each split."""
        return {name: stop - start for name, (start, stop) in self.bounds.items()}

    @cached_property
    def fitted(self) -> tuple[int, int]:
        """The rows a model may learn from: train, or with fit_range=train_val train and then val."""
        return self.bounds["train"][0], self.bounds["train" if self.fit_range == "train" else "val"][1]

    @property
    def held_out(self) -> tuple[int, int]:
        """Rows before test that a model does not learn from; with fit_range=train_val those of calibration alone."""
        return self.fitted[1], self.bounds[CALIBRATION][1]

    def cohort(self, name: str) -> np.ndarray:
        """(N,) the ids of a sparse feature."""
        return self.sparse[:, list(self.shape.sparse).index(name)]


def bounds_by_time(
    requests: np.ndarray, val: float, test: float, name: str, rows: str = "impressions"
) -> dict[str, tuple[int, int]]:
    """Where train, val and test lie among rows (N,) in order of time: the last shares; no request is cut in two.

    rows: what they are called. Raises DataError naming a split that would be empty.
    """
    n = len(requests)
    begins = np.flatnonzero(np.concatenate([[True], requests[1:] != requests[:-1]])) if n else np.zeros(0, np.int64)
    cuts = []
    for share in (val + test, test):
        at = round(n * (1 - share))
        place = int(np.searchsorted(begins, at))
        cuts.append(int(begins[place]) if place < len(begins) else n)
    edges = [0, *cuts, n]
    found = {split: (edges[i], edges[i + 1]) for i, split in enumerate(SPLITS)}
    for split, (start, stop) in found.items():
        if start == stop:
            raise DataError(f"{name}: {n} {rows} leave {split} empty: give more, or another share")
    return found


def with_calibration(bounds: dict[str, tuple[int, int]], requests: np.ndarray) -> dict[str, tuple[int, int]]:
    """The bounds with val's later half set apart for calibration; requests (N,), none of which is cut in two.

    What chooses a model by val and what maps its probabilities then share no row. A val of one request stays whole, and
    calibration is empty.
    """
    start, stop = bounds["val"]
    inside = np.arange(start + 1, stop)
    begins = inside[requests[inside] != requests[inside - 1]]
    middle = int(begins[np.abs(begins - (start + stop) / 2).argmin()]) if len(begins) else stop
    return {"train": bounds["train"], "val": (start, middle), CALIBRATION: (middle, stop), "test": bounds["test"]}


def past(
    users: np.ndarray, times: np.ndarray, event_users: np.ndarray, event_times: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which events each row may know: those of its user before its time, never one at that very moment.

    users, times (N,) of rows; event_users, event_times (M,). Returns the order (M,) that groups events by user, oldest
    first, and of each row where in it its events begin and end.
    """
    order = np.lexsort((event_times, event_users))
    moments = np.unique(np.concatenate([times, event_times]))
    width = len(moments) + 1
    keys = event_users[order] * width + np.searchsorted(moments, event_times[order])
    starts = np.searchsorted(keys, users * width, side="left")
    stops = np.searchsorted(keys, users * width + np.searchsorted(moments, times), side="left")
    return order, starts, stops


def encode(raw: RawImpressions, encoder: ImpressionEncoder | None = None) -> ImpressionTable:
    """The table of what was read. Without `encoder` one is fitted on the rows that are learnt from; with one columns
    that it was not fitted to are left out.

    Raises DataError for a label outside 0 and 1, a number that is none, and a task that has one answer only.
    """
    fitting = encoder is None
    if encoder is not None:
        raw = _known(raw, encoder)
    raw = replace(raw, bounds=with_calibration(raw.bounds, raw.requests))
    _check_rows(raw, fitting)
    learnt = slice(raw.bounds["train"][0], raw.bounds["train" if raw.fit_range == "train" else "val"][1])
    n = len(raw.requests)
    nothing = np.zeros(n, np.int64)
    bags = {name: Ragged(np.zeros((len(values), 1), np.int64), *at) for name, (values, *at) in raw.bags.items()}
    events = len(next(iter(raw.history.values()))) if raw.history else 0
    starts = raw.history_starts if raw.history_starts is not None else nothing
    stops = raw.history_stops if raw.history_stops is not None else nothing
    history = Ragged(np.zeros((events, len(raw.history)), np.int64), starts, stops)
    if encoder is None:
        encoder = ImpressionEncoder(min_count=raw.min_count)
        seen = history.covered(learnt)
        for name, values in raw.dense.items():
            encoder.fit_dense(name, values[learnt])
        for name, column in raw.sparse.items():
            parts = [column[learnt.start : learnt.stop]]
            if name == raw.target and raw.history:
                parts.append(next(iter(raw.history.values())).filter(seen))
            encoder.fit_ids(name, parts, raw.hashed.get(name))
        for name, (column, *_) in raw.bags.items():
            encoder.fit_ids(name, [column.filter(bags[name].covered(learnt))])
        for name, column in list(raw.history.items())[1:]:
            encoder.fit_ids(name, [column.filter(seen)])
        for name, kind in raw.task_types.items():
            if kind == "real":
                encoder.fit_dense(name, raw.labels[name][learnt])
    dense = [encoder.numbers(name, values) for name, values in raw.dense.items()]
    sparse = [encoder.ids(name, values) for name, values in raw.sparse.items()]
    for name, (column, *_) in raw.bags.items():
        bags[name].values[:, 0] = encoder.ids(name, column)
    for place, (name, column) in enumerate(raw.history.items()):
        history.values[:, place] = encoder.ids(raw.target if place == 0 and raw.target else name, column)
    labels = [
        encoder.numbers(name, values) if raw.task_types[name] == "real" else values.astype(np.float32)
        for name, values in raw.labels.items()
    ]
    positions = raw.positions if raw.positions is not None else nothing
    n_positions = encoder.places(raw.positions, learnt) if raw.positions is not None else 0
    vectors = np.stack(list(raw.vectors.values()), axis=1) if raw.vectors else np.zeros((1, 0, 0))
    shape = RankingShape(
        dense=list(raw.dense),
        vectors=list(raw.vectors),
        vector_width=vectors.shape[2],
        sparse={name: encoder.size(name) for name in raw.sparse},
        bags={name: encoder.size(name) for name in raw.bags},
        history={
            name: encoder.size(raw.target if place == 0 and raw.target else name)
            for place, name in enumerate(raw.history)
        },
        target=raw.target,
        user=raw.user,
        of_user=raw.of_user,
        cohorts=raw.cohorts,
        positions=n_positions,
        tasks=raw.task_types,
    )
    table = ImpressionTable(
        raw.name,
        "",
        shape,
        encoder,
        raw.bounds,
        np.stack(dense, axis=1) if dense else np.zeros((n, 0), np.float32),
        vectors.astype(np.float32),
        raw.vector_rows if raw.vector_rows is not None else nothing,
        np.stack(sparse, axis=1) if sparse else np.zeros((n, 0), np.int64),
        list(bags.values()),
        history,
        np.clip(positions, 0, max(0, n_positions - 1)),
        np.stack(labels, axis=1).astype(np.float32) if labels else np.zeros((n, 0), np.float32),
        raw.requests,
        raw.times,
        raw.fit_range,
        raw.grouped_by,
    )
    _report(raw, table, learnt, fitting)
    return replace(table, fingerprint=_fingerprint(raw, table))


def _known(raw: RawImpressions, encoder: ImpressionEncoder) -> RawImpressions:
    """Without the columns that are not known to the encoder, or not as what they are here."""
    ids = {*encoder.vocabularies, *encoder.buckets}
    binary = {name for name, kind in raw.task_types.items() if kind == "binary"}
    labels = {*encoder.scales, *binary}
    of_kind = {"dense": {*encoder.scales}, "sparse": ids, "bags": ids, "labels": labels, "task_types": labels}
    if raw.history and not {str(raw.target), *list(raw.history)[1:]} <= ids:
        of_kind["history"] = set()
    known: dict[str, Any] = {
        kind: {name: column for name, column in getattr(raw, kind).items() if name in kept}
        for kind, kept in of_kind.items()
    }
    if dropped := sorted({name for kind in known for name in getattr(raw, kind) if name not in known[kind]}):
        log.info(
            "%s: not read, as the ranker was not trained with what is here called so: %s", raw.name, ", ".join(dropped)
        )
    return replace(raw, **known)


def _check_rows(raw: RawImpressions, fitting: bool) -> None:
    for name, values in raw.labels.items():
        if raw.task_types[name] == "binary":
            wrong = ~np.isin(values, (0.0, 1.0))
            what = "neither 0 nor 1"
        else:
            wrong, what = ~np.isfinite(values), "no finite number"
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(f"{raw.name} row {row + 1} in order of time: label {name} is {values[row]:g}, {what}")
        if raw.task_types[name] == "binary" and fitting:
            start, stop = raw.bounds["train"]
            if len(np.unique(values[start:stop])) < 2:
                raise DataError(
                    f"{raw.name}: label {name} is {values[start]:g} in every row of train: there is nothing to learn;"
                    " leave the task out or give more rows"
                )
    for name, values in raw.dense.items():
        if np.isinf(values).any():
            row = int(np.isinf(values).argmax())
            raise DataError(f"{raw.name} row {row + 1} in order of time: {name} is infinite")


def _report(raw: RawImpressions, table: ImpressionTable, learnt: slice, fitting: bool) -> None:
    """One line for what is missing, one for what training never met, one for a split among rows of one time."""
    missing = {name: int(np.isnan(values).sum()) for name, values in raw.dense.items()}
    if said := ", ".join(f"{name} {count:,}" for name, count in missing.items() if count):
        log.warning("%s: numbers that are missing count as the mean of train: %s", raw.name, said)
    unmet = {}
    rows = slice(learnt.stop, None) if fitting else slice(None)
    for place, (name, values) in enumerate(raw.sparse.items()):
        unmet[name] = int(((table.sparse[rows, place] == 0) & values[rows].is_not_null().to_numpy()).sum())
    if said := ", ".join(f"{name} {count:,}" for name, count in unmet.items() if count):
        log.info("%s: rows with a value that training never met: %s", raw.name, said)
    if fitting and raw.moments is not None:  # who judges has been told by who trained
        warn_of_ties(raw.name, raw.moments, raw.bounds, "impressions")


def _fingerprint(raw: RawImpressions, table: ImpressionTable) -> str:
    made_from = [raw.source, table.bounds, table.fit_range, table.encoder.to_json()]
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode())
    for array in (table.labels, table.dense, table.sparse, table.history.values, table.history.stops):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
