"""Sections of the report, as data: what an eval or a trainer wants shown beyond metrics, curves and samples.

A run writes `sections/<name>.json` (`Run.section`), and `results.json` lists it under `artifacts.sections`. The report
draws sections of one name from several runs together. Nobody but the report writes HTML.

    {"schema": "recsysml.section/1", "title": "...", "note": "...", "parts": [PART, ...]}

A PART is made by one of the functions below. Its numbers are finite or null; its texts are shown as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsysml.environment import strict
from recsysml.errors import ConfigError
from recsysml.files import write_json
from recsysml.runs import read_json

SCHEMA = "recsysml.section/1"
# what each kind of part has besides `kind` and `title`, by type
_FIELDS: dict[str, dict[str, type]] = {
    "table": {"columns": list, "rows": list},
    "curves": {"x": str, "y": str, "log_x": bool, "log_y": bool, "points": list},
    "bars": {"value": str, "bars": list},
    "reliability": {"bins": list},
}
# what a point, a bar or a bin has: its name, then its numbers; the first so many numbers may not be null
_ROWS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "points": ("curve", ("x", "y", "low", "high"), 2),
    "bars": ("label", ("value", "low", "high", "baseline"), 1),
    "bins": ("curve", ("predicted", "observed", "count", "low", "high"), 3),
}


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Rows of texts, numbers, booleans and None, one cell for each column."""
    assert all(len(row) == len(columns) for row in rows), "a row has another number of cells than there are columns"
    return {"kind": "table", "title": title, "columns": list(columns), "rows": [_cells(row) for row in rows]}


def curves(
    title: str,
    x: str,
    y: str,
    named: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    log_x: bool = False,
    log_y: bool = False,
) -> dict[str, Any]:
    """Lines: name -> (xs, ys), of equal length. x, y: what the axes say, unit included."""
    points = [
        {"curve": name, "x": _number(a), "y": _number(b)}
        for name, (xs, ys) in named.items()
        for a, b in zip(xs, ys, strict=True)
        if _number(a) is not None and _number(b) is not None
    ]
    return {"kind": "curves", "title": title, "x": x, "y": y, "log_x": log_x, "log_y": log_y, "points": points}


def bars(title: str, value: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One bar a row: `label` and `value`, and where they are known the ends of its interval, `low` and `high`, and
    `baseline`, which is drawn as a line. value: what the axis says. A row without a finite value is left out."""
    kept = [_row("bars", row) for row in rows if _number(row.get("value")) is not None]
    return {"kind": "bars", "title": title, "value": value, "bars": kept}


def reliability(title: str, bins: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A reliability diagram. A bin: mean `predicted` probability, `observed` share, `count` of examples; `curve` names
    its line where there are several (a cohort, before and after), `low` and `high` are the share's interval."""
    kept = [_row("bins", {"curve": "", **each}) for each in bins if (each.get("count") or 0) > 0]
    return {"kind": "reliability", "title": title, "bins": kept}


def write(path: Path, title: str, parts: Sequence[Mapping[str, Any]], note: str = "") -> None:
    """Writes one section, atomically. An empty part (no rows, points, bars or bins) is left out."""
    filled = [part for part in parts if part.get("rows") or part.get(_list_of(str(part["kind"])))]
    content = {"schema": SCHEMA, "title": title, "note": note, "parts": filled}
    check(content, path)
    write_json(path, content)


def read(path: Path) -> dict[str, Any]:
    """One section, checked. Raises ConfigError naming the file and the place."""
    content = read_json(path)
    check(content, path)
    return content


def check(content: Any, path: Path) -> None:
    """Raises ConfigError unless `content` is a section as the module's docstring has it."""
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ConfigError(f"{path} is no section of a report: its schema is not {SCHEMA!r}")
    heads: dict[str, type] = {"title": str, "note": str, "parts": list}
    for key, kind in heads.items():
        _expect(path, key, content.get(key), kind)
    for index, part in enumerate(content["parts"]):
        place = f"parts[{index}]"
        _expect(path, place, part, dict)
        if part.get("kind") not in _FIELDS:
            raise ConfigError(f"{path} is damaged at {place}.kind: it is none of {', '.join(_FIELDS)}")
        for key, kind in {"title": str, **_FIELDS[part["kind"]]}.items():
            _expect(path, f"{place}.{key}", part.get(key), kind)
        if part["kind"] == "table":
            _check_table(path, place, part)
        else:
            _check_rows(path, place, part)


def _check_table(path: Path, place: str, part: dict[str, Any]) -> None:
    for number, row in enumerate(part["rows"]):
        if not isinstance(row, list) or len(row) != len(part["columns"]):
            raise ConfigError(f"{path} is damaged at {place}.rows[{number}]: it needs {len(part['columns'])} cells")


def _check_rows(path: Path, place: str, part: dict[str, Any]) -> None:
    name = _list_of(part["kind"])
    text, numbers, needed = _ROWS[name]
    for number, row in enumerate(part[name]):
        where = f"{place}.{name}[{number}]"
        _expect(path, where, row, dict)
        _expect(path, f"{where}.{text}", row.get(text), str)
        for rank, key in enumerate(numbers):
            value = row.get(key)
            if not (value is None and rank >= needed) and (
                isinstance(value, bool) or not isinstance(value, int | float)
            ):
                raise ConfigError(f"{path} is damaged at {where}.{key}: expected a number, found {value!r:.60}")


def _list_of(kind: str) -> str:
    """The field that holds a part's rows."""
    return next(key for key, type_ in _FIELDS[kind].items() if type_ is list and key != "columns")


def _expect(path: Path, place: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise ConfigError(f"{path} is damaged at {place}: expected {kind.__name__}, found {value!r:.60}")


def _row(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    text, numbers, _ = _ROWS[name]
    return {text: str(row[text]), **{key: _number(row.get(key)) for key in numbers}}


def _number(value: Any) -> float | int | None:
    value = strict(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _cells(row: Sequence[Any]) -> list[Any]:
    plain = strict(list(row))
    return [cell if cell is None or isinstance(cell, str | int | float | bool) else str(cell) for cell in plain]
