"""A sweep as the report shows it: a row a setting, with means over its seeds, and the pictures of its folder."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsysml.errors import ConfigError
from recsysml.plots import SEEDS, varying
from recsysml.report.gather import ReportedRun
from recsysml.report.tables import Cell, Table, figure
from recsysml.runs import read_json

logger = logging.getLogger("recsysml")


@dataclass(frozen=True)
class ReportedSweep:
    name: str
    table: Table
    pictures: list[Path]


def sweeps_of(runs: Sequence[ReportedRun]) -> list[ReportedSweep]:
    """The sweeps that the runs are jobs of, as far as they are among the runs. A sweep.json that cannot be read costs a
    warning: the runs are shown all the same."""
    found = []
    for folder in dict.fromkeys(run.path.parent for run in runs):
        own = {run.results["run"]["id"]: run for run in runs if run.path.parent == folder}
        if len(own) < 2 or not (folder / "sweep.json").is_file():
            continue
        try:
            content = read_json(folder / "sweep.json")
            jobs = [row for row in content["jobs"] if row["status"] == "ok"]
            if sum(row["run"] in own for row in jobs) > 1:
                pictures = [folder / "plots" / name for name in ("sweep.png", "trade_off.png")]
                name = str(content.get("name") or folder.name)
                found.append(ReportedSweep(name, _table(jobs, own), [file for file in pictures if file.is_file()]))
        except ConfigError as error:
            logger.warning("the table of a sweep is left out: %s", error)
        except (KeyError, TypeError, AttributeError):
            logger.warning("the table of a sweep is left out: %s is damaged", folder / "sweep.json")
    return found


def _table(jobs: Sequence[dict[str, Any]], own: dict[str, ReportedRun]) -> Table:
    """Settings in the order they were run; seeds, and simulated worlds, are replicates of one setting."""
    groups: dict[tuple[tuple[str, str], ...], list[ReportedRun]] = {}
    headline: dict[str, None] = {}
    for row, words in zip(jobs, varying([row["overrides"] for row in jobs]), strict=True):
        if row["run"] in own:
            pairs = [(key.lstrip("+"), text.strip("\"'")) for key, _, text in (word.partition("=") for word in words)]
            setting = tuple(pair for pair in pairs if pair[0] not in SEEDS)
            groups.setdefault(setting, []).append(own[row["run"]])
            headline |= dict.fromkeys(row["metrics"])
    known = {name for group in groups.values() for run in group for name in run.results["metrics"]}
    names = list(dict.fromkeys(name for head in headline for name in (head, head.replace("val/", "test/", 1))))
    names = [name for name in names if name in known]
    keys = list(dict.fromkeys(key for setting in groups for key, _ in setting))
    table = Table([*keys, "runs", *names])
    for setting, group in groups.items():
        said = dict(setting)
        cells = [Cell(said.get(key, "default")) for key in keys]
        table.rows.append([*cells, Cell(str(len(group)), number=True), *(_mean(name, group) for name in names)])
    return table


def _mean(name: str, group: Sequence[ReportedRun]) -> Cell:
    """The mean over runs and their standard deviation; of a single run its own standard error."""
    entries = [run.results["metrics"].get(name) or {} for run in group]
    values = [entry["value"] for entry in entries if entry.get("value") is not None]
    if not values:
        return Cell("-", number=True)
    if len(values) > 1:
        return Cell(
            figure(statistics.mean(values)), f"± {statistics.stdev(values):.2g} over {len(values)}", number=True
        )
    error = next(entry.get("stderr") for entry in entries if entry.get("value") is not None)
    return Cell(figure(values[0]), "" if error is None else f"± {error:.2g}, of one run", number=True)
