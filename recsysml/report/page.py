"""The page: tables, charts, samples and the script that draws them, put into one HTML file by a template.

Every text from data goes through the template's escaping, and every number a chart draws through its `tojson`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from altair import SCHEMA_VERSION

from recsysml import __version__
from recsysml.report import charts, tables
from recsysml.report.curves import axes_of, curve_charts
from recsysml.report.gather import ReportedRun
from recsysml.report.sweeps import sweeps_of
from recsysml.report.tables import Cell, Table

PARTS = ("config", "data", "model", "protocol", "environment")
_SAMPLES, _SAMPLE_CHARACTERS = 5, 1500
_PICTURES_BYTES = 1_000_000  # a third more in the file
_TABLE_ROWS = 300
_METRIC_CHARTS = 18


@dataclass
class Block:
    """A piece of a section: a chart, a table, or neither where all is said by the note."""

    title: str = ""
    note: str = ""
    chart: dict[str, Any] | None = None
    table: Table | None = None
    texts: list[tuple[str, str]] = field(default_factory=list)  # (what it is, the text as it is)
    picture: str = ""  # a data: URL
    wide: bool = False


@dataclass
class Section:
    id: str
    title: str
    blocks: list[Block]
    note: str = ""
    axes: Sequence[str] = ()  # the charts follow a choice of these: step, tokens, seconds


def render(runs: Sequence[ReportedRun]) -> str:
    """The whole page."""
    labels = [run.label for run in runs]
    sections = [
        Section("summary", "Summary", [Block(table=tables.summary(runs), wide=True)]),
        *_sweep_sections(runs),
        *_task_section(runs, labels),
        *_metric_section(runs, labels),
        *_against_section(runs),
        *_curve_section(runs, labels),
        *_own_sections(runs, labels),
        *_sample_section(runs),
        *_picture_section(runs),
        *_difference_sections(runs),
    ]
    source = resources.files("recsysml.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    version = ".".join(SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    library: str = vl_convert.javascript_bundle(vl_version=version)  # type: ignore[call-arg]  # the snippet is optional
    return environment.from_string(source).render(
        runs=[(run.label, charts.PALETTE[index % len(charts.PALETTE)]) for index, run in enumerate(runs)],
        sections=sections,
        library=library.replace("</script", "<\\/script"),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        version=__version__,
    )


def _sweep_sections(runs: Sequence[ReportedRun]) -> list[Section]:
    """What was swept, setting by setting, and how it went, for every sweep that several of the runs are jobs of."""
    found = []
    for number, sweep in enumerate(sweeps_of(runs)):
        note = "A row a setting; numbers are means over seeds or simulated worlds, ± their standard deviation."
        blocks = [Block(note=note, table=sweep.table, wide=True)]
        blocks += [Block(file.stem.replace("_", " "), picture=_data_url(file), wide=True) for file in sweep.pictures]
        found.append(Section(f"sweep-{number}", f"Sweep {sweep.name}", blocks))
    return found


def _data_url(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def _task_section(runs: Sequence[ReportedRun], labels: Sequence[str]) -> list[Section]:
    """`lm/<task>/<metric>` as bars, a chart for each metric."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        for name, entry in run.results["metrics"].items():
            if _is_task(name) and entry["value"] is not None:
                _, task, metric = name.split("/", 2)
                found.setdefault(metric, []).append({"run": run.label, "task": task, **_interval(entry)})
    blocks = [Block(metric, chart=charts.tasks(rows, labels, metric), wide=True) for metric, rows in found.items()]
    note = "Bars with 95% intervals; the line across is chance."
    return [Section("tasks", "Tasks", blocks, note)] if blocks else []


def _metric_section(runs: Sequence[ReportedRun], labels: Sequence[str]) -> list[Section]:
    """Every other metric as a small chart, those of the test split first, then all of them as a table."""
    names = list(dict.fromkeys(name for run in runs for name in run.results["metrics"]))
    drawn = sorted((name for name in names if not _is_task(name)), key=tables.not_of_test)
    blocks = []
    for name in drawn[:_METRIC_CHARTS]:
        rows, simple = [], []
        better = "higher"
        for run in runs:
            entry = run.results["metrics"].get(name)
            if entry is None or entry["value"] is None:
                continue
            better = entry["better"]
            rows.append({"run": run.label, **_interval(entry)})
            named = {"simplest method": entry.get("baseline"), **(entry.get("baselines") or {})}
            simple += [
                {"run": run.label, "name": key, "value": value} for key, value in named.items() if value is not None
            ]
        if rows:
            blocks.append(Block(name, _strokes(simple), charts.metric(rows, simple, labels, better)))
    if not names:
        return []
    note = "Points with 95% intervals; the strokes are what simple methods get."
    if len(drawn) > _METRIC_CHARTS:
        note += f" {_METRIC_CHARTS} of {len(drawn)} are drawn; the table has all."
    return [Section("metrics", "Metrics", [*blocks, Block(table=tables.metrics(runs), wide=True)], note)]


def _strokes(simple: Sequence[dict[str, Any]], most: int = 5) -> str:
    """What the strokes of a metric's chart are, smallest first; the values are left out where the runs have others."""
    values: dict[str, set[float]] = {}
    for row in sorted(simple, key=lambda row: row["value"]):
        values.setdefault(row["name"], set()).add(row["value"])
    said = [f"{key} {tables.figure(min(found))}" if len(found) == 1 else key for key, found in values.items()]
    return ", ".join(said) if len(said) <= most else ""


def _against_section(runs: Sequence[ReportedRun]) -> list[Section]:
    """Runs of the same data and protocol against the first of them; between others there is no winner."""
    groups: dict[str, list[ReportedRun]] = {}
    for run in runs:
        if run.results["metrics"]:
            same = json.dumps([run.results["data"].get("fingerprint"), run.results["protocol"]], sort_keys=True)
            groups.setdefault(same, []).append(run)
    blocks = []
    for group in [group for group in groups.values() if len(group) > 1]:
        table, notes = tables.against_first(group)
        if table.rows or notes:
            filled = table if table.rows else None
            blocks.append(Block(f"Against {group[0].label}", "; ".join(notes), table=filled, wide=True))
    note = "Runs of the same data and protocol, by the tests of `recsysml diff`; p is adjusted by Holm in each column."
    return [Section("compared", "Compared", blocks, note)] if blocks else []


def _curve_section(runs: Sequence[ReportedRun], labels: Sequence[str]) -> list[Section]:
    blocks = []
    drawn = curve_charts(runs)
    for chart in drawn:
        said = []
        if "train" in chart.parts and len(chart.parts) > 1:
            said.append("pale: training; with points: " + ", ".join(p for p in chart.parts if p not in ("", "train")))
        if chart.thinned:
            said.append("neighbouring steps are averaged")
        spec = charts.curves(chart, labels, zero=chart.from_zero)
        blocks.append(Block(chart.title, "; ".join(said), spec))
    return [Section("curves", "Curves", blocks, axes=axes_of(drawn))] if blocks else []


def _own_sections(runs: Sequence[ReportedRun], labels: Sequence[str]) -> list[Section]:
    """Sections that the runs have written, those of one name together."""
    names = list(dict.fromkeys(name for run in runs for name in run.sections))
    names.sort(key=lambda name: "val" in name.split("_"))  # what was chosen on stands below what was not
    found = []
    for name in names:
        owners = [run for run in runs if name in run.sections]
        content = owners[0].sections[name]
        groups: dict[tuple[Any, ...], list[tuple[str, dict[str, Any]]]] = {}
        for run in owners:
            for part in run.sections[name]["parts"]:  # one picture for what is one title in one unit
                key = (part["kind"], part["title"], part.get("value"), part.get("x"), part.get("y"))
                groups.setdefault(key, []).append((run.label, part))
        blocks = []
        for (kind, title, *_), same in groups.items():
            blocks += _own_blocks(kind, title, same, labels)
        notes = {run.label: run.sections[name]["note"] for run in owners}
        same_note = len(set(notes.values())) == 1
        if not same_note:  # what a run says of its numbers is not said of another's
            rows = [[Cell(label), Cell(note)] for label, note in notes.items() if note]
            blocks.insert(0, Block(table=Table(["run", "in words"], rows), wide=True))
        found.append(Section(f"own-{name}", content["title"], blocks, content["note"] if same_note else ""))
    return found


def _own_blocks(
    kind: str, title: str, same: Sequence[tuple[str, dict[str, Any]]], labels: Sequence[str]
) -> list[Block]:
    if kind == "table":
        return [Block(title, table=_own_table(same, with_run=len(labels) > 1), wide=True)]
    key = {"curves": "points", "bars": "bars", "reliability": "bins"}[kind]
    together = {**same[0][1], key: [{**row, "run": label} for label, part in same for row in part[key]]}
    draw = {
        "curves": charts.section_curves,
        "bars": charts.section_bars,
        "reliability": charts.section_reliability,
    }[kind]
    return [Block(title, chart=draw(together, labels), wide=kind == "bars")]


def _own_table(same: Sequence[tuple[str, dict[str, Any]]], *, with_run: bool) -> Table:
    """The runs' tables below one another, each row with its run if there are several. Columns are those of all."""
    columns = list(dict.fromkeys(str(name) for _, part in same for name in part["columns"]))
    rows = []
    for label, part in same:
        for row in part["rows"]:
            cells = dict(zip(map(str, part["columns"]), row, strict=True))
            named = [Cell(label)] if with_run else []
            rows.append(named + [_own_cell(cells.get(column)) for column in columns])
    table = Table((["run"] if with_run else []) + columns, rows[:_TABLE_ROWS])
    if len(rows) > _TABLE_ROWS:
        table.rows.append([Cell(f"and {len(rows) - _TABLE_ROWS} more rows")])
    return table


def _own_cell(value: Any) -> Cell:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return Cell("-" if value is None else str(value))
    return Cell(f"{value:,}" if isinstance(value, int) else f"{value:.4g}", number=True)


def _sample_section(runs: Sequence[ReportedRun]) -> list[Section]:
    """The first sample of each run and its last ones."""
    blocks = []
    for run in runs:
        chosen = run.samples if len(run.samples) <= _SAMPLES else [run.samples[0], *run.samples[1 - _SAMPLES :]]
        if chosen:
            texts = [(f"step {row['step']}", _sample_text(row)) for row in chosen]
            note = f"{len(chosen)} of {len(run.samples)}" if len(chosen) < len(run.samples) else ""
            blocks.append(Block(run.label, note, texts=texts, wide=True))
    return [Section("samples", "Samples", blocks)] if blocks else []


def _sample_text(row: dict[str, Any]) -> str:
    if isinstance(row.get("text"), str):
        text = str(row.get("prompt") or "") + row["text"]
    else:
        text = json.dumps({key: value for key, value in row.items() if key != "step"}, ensure_ascii=False, indent=1)
    return text if len(text) <= _SAMPLE_CHARACTERS else f"{text[:_SAMPLE_CHARACTERS]}..."


def _picture_section(runs: Sequence[ReportedRun]) -> list[Section]:
    """The runs' own pictures, but for the loss, which the curves show."""
    blocks: list[Block] = []
    room, left_out = _PICTURES_BYTES, 0
    for run in runs:
        listed = run.results["artifacts"].get("plots") or []
        for relative in listed if isinstance(listed, list) else []:
            file = run.path / str(relative)
            if file.name == "loss.png" or file.suffix != ".png" or not file.is_file():
                continue
            if not file.resolve().is_relative_to(run.path.resolve()) or file.stat().st_size > room:
                left_out += 1
                continue
            room -= file.stat().st_size
            blocks.append(Block(f"{run.label}: {file.name}", picture=_data_url(file)))
    note = f"{left_out} more are too large for this file: see plots/ of each run." if left_out else ""
    return [Section("pictures", "Pictures", blocks, note)] if blocks or left_out else []


def _difference_sections(runs: Sequence[ReportedRun]) -> list[Section]:
    sections = []
    if len(runs) > 1:
        found = [(part, tables.differences(runs, part)) for part in PARTS]
        blocks = [Block(part, table=table, wide=True) for part, table in found if table.rows]
        blocks = blocks or [Block(note="The runs do not differ in config, data, model, protocol or environment.")]
        sections.append(Section("differences", "What differs", blocks))
    title = "What all runs share" if len(runs) > 1 else "Config and environment"
    same = [(part, tables.shared(runs, part)) for part in PARTS]
    sections.append(Section("shared", title, [Block(part, table=table) for part, table in same if table.rows]))
    return sections


def _is_task(name: str) -> bool:
    return name.startswith("lm/") and name.count("/") >= 2


def _interval(entry: dict[str, Any]) -> dict[str, Any]:
    """Value, the ends of its 95% interval where there is a standard error, and the baseline."""
    value, stderr = entry["value"], entry.get("stderr")
    reach = None if stderr is None else 1.96 * stderr
    ends = {"low": value, "high": value} if reach is None else {"low": value - reach, "high": value + reach}
    return {"value": value, **ends, "baseline": entry.get("baseline")}
