"""The report's tables: what the runs are, what they reached, what differs between them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from recsysml.diff import BETTER, NOISE, WORSE, MetricRow, compare, flatten
from recsysml.errors import ConfigError
from recsysml.report.gather import QUIET, ReportedRun
from recsysml.runs import duration


@dataclass(frozen=True)
class Cell:
    """A text, aligned as a number or not, with a smaller remark below it and a kind that the page colours."""

    text: str
    remark: str = ""
    number: bool = False
    kind: str = ""


@dataclass(frozen=True)
class Table:
    columns: list[str]
    rows: list[list[Cell]] = field(default_factory=list)


def summary(runs: Sequence[ReportedRun]) -> Table:
    """One row a run: what it is, how it ended, and its first metrics."""
    heads = _headlines(runs)
    table = Table(["run", "started", "command", "model", "parameters", "data", "status", "time", "speed", *heads])
    for run in runs:
        results = run.results
        record, model, speed = results["run"], results["model"], results["throughput"]
        status = record["status"]
        rate = speed.get("value")
        table.rows.append(
            [
                Cell(run.label, str(run.path)),
                Cell(str(record["started"])[:16].replace("T", " "), "UTC", number=True),
                Cell(record["command"]),
                Cell(str(model.get("name") or model.get("kind") or "-")),
                Cell(_count(model.get("parameters")), number=True),
                Cell(str(results["data"].get("name") or "-")),
                Cell(status, record.get("error") or "", kind={"ok": "", "failed": "bad"}.get(status, "doubt")),
                Cell(duration(record["seconds"]), number=True),
                Cell(f"{rate:,.0f}" if rate else "-", str(speed.get("unit", "")) if rate else "", number=True),
                *(_metric_cell(name, results["metrics"].get(name)) for name in heads),
            ]
        )
    return table


def metrics(runs: Sequence[ReportedRun]) -> Table:
    """One row a metric, those of the test split first, one column a run."""
    names = sorted(dict.fromkeys(name for run in runs for name in run.results["metrics"]), key=not_of_test)
    table = Table(["metric", "better", *(run.label for run in runs), "simplest method"])
    for name in names:
        entries = [run.results["metrics"].get(name) for run in runs]
        known = [entry for entry in entries if entry]
        floor = {figure(entry.get("baseline")) for entry in known if entry.get("baseline") is not None}
        others = {f"{key} {figure(value)}" for entry in known for key, value in (entry.get("baselines") or {}).items()}
        table.rows.append(
            [
                Cell(name),
                Cell(known[0]["better"]),
                *(_metric_cell(name, entry) for entry in entries),
                Cell(" / ".join(sorted(floor)) or "-", ", ".join(sorted(others)), number=True),
            ]
        )
    return table


def against_first(runs: Sequence[ReportedRun], most: int = 12) -> tuple[Table, list[str]]:
    """What `recsysml diff FIRST RUN` says of each later run, and why some cannot be compared."""
    first, others = runs[0], runs[1 : most + 1]
    verdicts: list[dict[str, MetricRow]] = []
    notes = []
    for run in others:
        try:
            found = compare(first.path, run.path)
        except ConfigError as error:
            verdicts.append({})
            notes.append(f"{run.label}: {error}")
            continue
        verdicts.append({row.name: row for row in found.metrics})
    if len(runs) > most + 1:
        notes.append(f"the first {most} of {len(runs) - 1} runs are compared")
    names = list(dict.fromkeys(name for rows in verdicts for name, row in rows.items() if row.test))
    reasons: dict[str, dict[str, int]] = {}
    for run, rows in zip(others, verdicts, strict=True):
        for row in rows.values():
            if not row.test and row.reason and not row.reason.startswith("only "):
                counts = reasons.setdefault(row.reason, {})
                counts[run.label] = counts.get(run.label, 0) + 1
    for reason, counts in reasons.items():  # A is the first run
        said = ", ".join(f"{label} ({n} metric{'' if n == 1 else 's'})" for label, n in counts.items())
        notes.append(f"not compared: {said}: {reason}")
    table = Table(["metric", *(run.label for run in others)])
    for name in names:
        table.rows.append([Cell(name), *(_verdict_cell(rows.get(name)) for rows in verdicts)])
    return table, notes


def differences(runs: Sequence[ReportedRun], part: str) -> Table:
    """The keys of `config`, `data`, `model`, `protocol` or `environment` in which the runs are not all the same."""
    flat = [dict(flatten(run.results[part])) for run in runs]
    keys = list(dict.fromkeys(key for values in flat for key in values))
    table = Table(["key", *(run.label for run in runs)])
    for key in keys:
        if part == "config" and key.startswith(QUIET):
            continue
        texts = [_text(values[key]) if key in values else "" for values in flat]
        if len(set(texts)) > 1:
            table.rows.append([Cell(key), *(Cell(text) for text in texts)])
    return table


def shared(runs: Sequence[ReportedRun], part: str) -> Table:
    """The keys of a part that all runs have in common."""
    flat = [dict(flatten(run.results[part])) for run in runs]
    table = Table(["key", "value"])
    for key, value in flat[0].items():
        if all(key in values and values[key] == value for values in flat[1:]):
            table.rows.append([Cell(key), Cell(_text(value))])
    return table


def figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def not_of_test(name: str) -> bool:
    """A key to sort metrics by: what was measured on the test split comes first."""
    return not name.startswith("test/")


def near_baseline(entry: dict[str, Any]) -> bool:
    """Whether a value lies within two standard errors of what the simplest method gets."""
    if entry.get("at_chance") is not None:  # said by the task, also where all answers are alike
        return bool(entry["at_chance"])
    value, stderr, baseline = entry.get("value"), entry.get("stderr"), entry.get("baseline")
    return None not in (value, stderr, baseline) and abs(value - baseline) <= 2 * stderr  # type: ignore[operator]


def _metric_cell(name: str, entry: dict[str, Any] | None) -> Cell:
    if entry is None or entry["value"] is None:
        return Cell("-", (entry or {}).get("error") or "", number=True)
    stderr = entry.get("stderr")
    remark = f"± {stderr:.2g}" if stderr is not None else "no standard error"
    if entry.get("unreliable"):
        return Cell(figure(entry["value"]), f"{remark}; {entry['unreliable']}", number=True, kind="doubt")
    if near_baseline(entry):
        word = "chance" if name.startswith("lm/") else "the simplest method"
        return Cell(figure(entry["value"]), f"{remark}, within noise of {word}", number=True, kind="doubt")
    return Cell(figure(entry["value"]), remark, number=True)


def _verdict_cell(row: MetricRow | None) -> Cell:
    if row is None or row.test is None:
        return Cell("-", number=True)
    effect = f"{row.effect:+.3g}" if row.effect is not None else ""
    p = "" if row.p_adjusted is None else "p < 0.0001" if row.p_adjusted < 1e-4 else f"p {row.p_adjusted:.2g}"
    kind = {BETTER: "good", WORSE: "bad", NOISE: ""}.get(row.verdict, "")
    return Cell(row.verdict, f"{effect}, {p}, {row.test}", number=True, kind=kind)


def _headlines(runs: Sequence[ReportedRun], most: int = 3) -> list[str]:
    """The metrics that most runs have, those of the test split first, in the order they were recorded."""
    names = list(dict.fromkeys(name for run in runs for name in run.results["metrics"]))
    counts = {name: sum(name in run.results["metrics"] for run in runs) for name in names}
    return sorted(names, key=lambda name: (-counts[name], not_of_test(name)))[:most]


def _count(value: Any) -> str:
    if not isinstance(value, int):
        return "-"
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return str(value)


def _text(value: Any) -> str:
    if value is None:
        return "null"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:300]}..."
