"""metrics.jsonl as points to draw: one table a chart, thinned so that ten long runs still make a small file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsysml.report.gather import ReportedRun

# what lines can be drawn over: the names are fields of the points
AXES = ("step", "tokens", "seconds")
# points in the whole report (a point is about 130 bytes), and in one line at least and at most
_POINTS, _FEWEST, _MOST = 15_000, 40, 400
_CHARTS = 24
_SPEED = "_per_second"  # of tokens, events, slates, ...
# drawn first, in this order; then the rest as it was logged
_FIRST = ("loss", "bits_per_byte", "lr")
_TITLES = {"bits_per_byte": "bits per byte", "lr": "learning rate", "grad_norm": "gradient norm"}


@dataclass(frozen=True)
class CurveChart:
    """One quantity over training: a line for each run and split."""

    title: str
    points: list[dict[str, Any]]  # run, part (train, val, ...), step, tokens, seconds, value
    parts: list[str]
    thinned: bool  # some points are means of several logged ones
    from_zero: bool  # a speed that rose by a tenth shall not look as if it had doubled


def curve_charts(runs: Sequence[ReportedRun]) -> list[CurveChart]:
    """A chart for each quantity that was logged more than once: `train/loss` and `val/loss` share one."""
    charts: dict[str, list[tuple[ReportedRun, str, np.ndarray]]] = {}
    for run in runs:
        for name, table in _series(run).items():
            part, _, quantity = name.partition("/")
            charts.setdefault(quantity or part, []).append((run, part if quantity else "", table))
    first = [*_FIRST, *(name for name in charts if name.endswith(_SPEED))]
    names = [name for name in first if name in charts]
    names += [name for name in charts if name not in names]
    names = names[:_CHARTS]
    lines = sum(len(charts[name]) for name in names)
    most = int(np.clip(_POINTS / max(1, lines), _FEWEST, _MOST))
    return [_chart(name, charts[name], most) for name in names]


def _series(run: ReportedRun) -> dict[str, np.ndarray]:
    """name -> (n, 3): step, seconds, value; of every number that was logged at two steps or more."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for row in run.rows:
        seconds = row["seconds"] if isinstance(row.get("seconds"), int | float) else np.nan
        for name, value in row.items():
            if name not in ("step", "seconds") and isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(name, []).append((row["step"], seconds, value))
    return {name: np.array(rows, np.float64) for name, rows in found.items() if len(rows) > 1}


def _chart(name: str, lines: Sequence[tuple[ReportedRun, str, np.ndarray]], most: int) -> CurveChart:
    points: list[dict[str, Any]] = []
    for run, part, table in lines:
        per_step = run.tokens_per_step
        for step, seconds, value in thin(table, most).tolist():
            tokens = None if per_step is None else round(step * per_step)
            point = {"run": run.label, "part": part, "step": _short(step), "tokens": tokens, "value": _short(value)}
            points.append(point | {"seconds": None if np.isnan(seconds) else round(seconds, 1)})
    parts = list(dict.fromkeys(part for _, part, _ in lines))
    title = _TITLES.get(name, name.replace("_", " ") if name.endswith(_SPEED) else name)
    thinned = any(len(table) > most for _, _, table in lines)
    return CurveChart(title, points, parts, thinned, name == "lr" or name.endswith(_SPEED))


def axes_of(charts: Sequence[CurveChart]) -> list[str]:
    """The axes over which there is something to draw."""
    return [axis for axis in AXES if any(point[axis] is not None for chart in charts for point in chart.points)]


def thin(table: np.ndarray, most: int) -> np.ndarray:
    """(n, c) -> at most `most` rows: means of neighbours. The first row and the last stay as they are."""
    if len(table) <= most:
        return table
    inner = table[1:-1]
    edges = np.linspace(0, len(inner), most - 1).astype(int)[:-1]
    sums = np.add.reduceat(inner, edges, axis=0)
    counts = np.diff(np.append(edges, len(inner)))[:, None]
    return np.concatenate([table[:1], sums / counts, table[-1:]])


def _short(value: float) -> float:
    """Six digits: what a screen can show, in few bytes."""
    return float(f"{value:.6g}")
