"""Sweeps that the runs of a report belong to: a row a setting, seeds together, and the pictures of the sweep."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recsysml.plots import SEEDS, varying
from recsysml.report.gather import ReportedRun
from recsysml.report.tables import Cell, Table, figure


@dataclass(frozen=True)
class ReportedSweep:
    name: str
    table: Table
    pictures: list[Path]


def sweeps(runs: Sequence[ReportedRun]) -> list[ReportedSweep]:
    """Of each sweep that at least two of the runs come from; one whose sweep.json cannot be read is left out."""
    found = []
    for folder in dict.fromkeys(run.path.parent for run in runs):
        own = {run.path.name: run for run in runs if run.path.parent == folder}
        try:
            content = json.loads((folder / "sweep.json").read_bytes())
            if len(own) < 2:
                continue
            jobs = [(job["overrides"], own[job["path"]]) for job in content["jobs"] if job["path"] in own]
            headline = [name for job in content["jobs"] for name in job["metrics"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if jobs:
            names = [test for name in dict.fromkeys(headline) for test in (name, name.replace("val/", "test/", 1))]
            table = _by_setting(jobs, list(dict.fromkeys(names)))
            found.append(ReportedSweep(content["name"], table, sorted((folder / "plots").glob("*.png"))))
    return found


def _by_setting(jobs: Sequence[tuple[Sequence[str], ReportedRun]], names: Sequence[str]) -> Table:
    """A row for jobs alike in all but their seeds: of each metric the mean, and how far the seeds lie apart."""
    settings: dict[str, list[ReportedRun]] = {}
    for words, (_, run) in zip(varying([overrides for overrides, _ in jobs]), jobs, strict=True):
        told = " ".join(word for word in words if word.partition("=")[0] not in SEEDS)
        settings.setdefault(told or "(all)", []).append(run)
    names = [name for name in names if any(name in run.results["metrics"] for _, run in jobs)]
    table = Table(["setting", "runs", *names])
    for setting, same in settings.items():
        cells = [
            _mean([run.results["metrics"][name] for run in same if name in run.results["metrics"]]) for name in names
        ]
        table.rows.append([Cell(setting), Cell(str(len(same)), number=True), *cells])
    return table


def _mean(entries: Sequence[dict[str, float | None]]) -> Cell:
    values = [value for entry in entries if (value := entry["value"]) is not None]
    if not values:
        return Cell("-", number=True)
    if len(values) > 1:
        remark = f"± {statistics.stdev(values):.2g} between {len(values)} runs"
    else:
        error = entries[0].get("stderr")
        remark = "" if error is None else f"± {error:.2g}, its standard error"
    return Cell(figure(statistics.fmean(values)), remark, number=True)
