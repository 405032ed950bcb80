"""A sweep's folder: its jobs by config hash, sweep.json, the table and the plot. Nothing of Hydra in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from recsysml.errors import ConfigError
from recsysml.files import write_json
from recsysml.runs import FoundRun, iter_runs
from recsysml.schemas.run import RunConfig

SCHEMA = "recsysml.sweep/1"


@dataclass(frozen=True)
class Job:
    """One job of a sweep: what was typed for it, and the hash of the config that it comes to."""

    overrides: list[str]
    config_hash: str
    headline: tuple[str, ...] = ()  # metric names for the table; the first decides which job is best
    trade_off: tuple[str, str] | None = None  # two of them that are drawn against each other


def name_of(overrides: Sequence[str], config: RunConfig) -> str:
    """`sweep.name`, else a hash of the command: the same command goes on in the same folder."""
    if config.sweep.name:
        return config.sweep.name
    words = [text for text in overrides if not text.startswith("hydra")]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:10]


def lock(folder: Path) -> TextIO:
    """Make the folder, and hold it for this process until the file returned is closed.

    Raises ConfigError when it cannot be made or written, or another process holds it.
    """
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"the sweep's folder {folder} cannot be written: {error.strerror}; set RECSYSML_OUTPUTS to another."
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise ConfigError(f"{folder}: this sweep is running already; give another one a sweep.name.") from None
    return file


def find(folder: Path, config_hash: str, since: str = "") -> FoundRun | None:
    """The job's run: a finished one, else the newest. since: only runs that started at or after this time."""
    runs = [
        run for run in iter_runs(folder) if run.results.get("config_hash") == config_hash and run.started >= since
    ]  # newest first
    return next((run for run in runs if run.status == "ok"), runs[0] if runs else None)


def summary(folder: Path, jobs: Sequence[Job], argv: Sequence[str], since: str = "", *, over: bool) -> dict[str, Any]:
    """What sweep.json holds. over: no job is at work any more, so that `running` means that it was killed."""
    rows: list[dict[str, Any]] = []
    for job in jobs:
        run = find(folder, job.config_hash, since)
        status = "pending" if run is None else run.status
        metrics = run.results["metrics"] if run else {}
        shown = [name for name in job.headline if name in metrics] or list(metrics)[:1]
        rows.append(
            {
                "overrides": job.overrides,
                "config_hash": job.config_hash,
                "run": run.id if run else None,
                "path": str(run.path.relative_to(folder)) if run else None,
                "status": "interrupted" if over and status == "running" else status,
                "error": run.results["run"].get("error") if run else None,
                "seconds": run.results["run"]["seconds"] if run else None,
                "metrics": {
                    name: {key: metrics[name].get(key) for key in ("value", "stderr", "better")}
                    | {key: metrics[name][key] for key in ("unreliable",) if metrics[name].get(key)}
                    for name in shown
                },
            }
        )
    return {"schema": SCHEMA, "name": folder.name, "argv": list(argv), "jobs": rows, "best": best(rows)}


def best(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The finished job whose first headline metric is best, the first of equals; None unless all finished jobs have it.

    A value that is not to be believed is never the best one.
    """
    done = [(index, row) for index, row in enumerate(rows) if row["status"] == "ok" and row["metrics"]]
    names = {next(iter(row["metrics"])) for _, row in done}
    if len(names) != 1:
        return None
    name = names.pop()
    found = [(row["metrics"][name], index) for index, row in done]
    scored = [
        (entry["value"], index) for entry, index in found if entry["value"] is not None and not entry.get("unreliable")
    ]
    if not scored:
        return None
    better = done[0][1]["metrics"][name]["better"]
    sign = -1 if better == "higher" else 1
    value, index = min(scored, key=lambda entry: (sign * entry[0], entry[1]))
    return {"metric": name, "better": better, "value": value, "job": index, "run": rows[index]["run"]}


def write(folder: Path, content: dict[str, Any]) -> None:
    write_json(folder / "sweep.json", content)


def print_table(content: dict[str, Any], jobs: Sequence[Job]) -> None:
    """One line a job: overrides, status, headline metrics; the best is marked, and named with its run below."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from recsysml.plots import varying

    names = list(dict.fromkeys(name for row in content["jobs"] for name in row["metrics"]))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("job", "overrides", "status", *names):
        table.add_column(title, overflow="fold", justify="right" if title in names else "left")
    colours = {"ok": "green", "failed": "red", "interrupted": "yellow", "running": "cyan", "pending": "dim"}
    best = content["best"]
    for index, (row, changed) in enumerate(zip(content["jobs"], varying([job.overrides for job in jobs]), strict=True)):
        cells = []
        for name in names:
            metric = row["metrics"].get(name) or {}
            value, stderr = metric.get("value"), metric.get("stderr")
            doubt = " [yellow]?[/]" if metric.get("unreliable") else ""
            cells.append("-" if value is None else f"{value:.4f}" + (f" ± {stderr:.4f}" if stderr else "") + doubt)
        status = f"[{colours[row['status']]}]{row['status']}[/]"
        if best and best["job"] == index:
            status += " [bold]best[/]"
        table.add_row(str(index + 1), escape(" ".join(changed) or "(no overrides)"), status, *cells)
    console = Console()
    if not console.is_terminal:
        console.width = 200  # a file has no edge to fold at
    console.print(table)
    if any(metric.get("unreliable") for row in content["jobs"] for metric in row["metrics"].values()):
        console.print("? not to be believed: the run's own lines say why; never the best", highlight=False)
    if best:
        console.print(f"best {best['metric']}: {best['value']:.4f}, {escape(best['run'])}", highlight=False)


def plot(folder: Path, content: dict[str, Any], jobs: Sequence[Job]) -> None:
    """The headline metric against what was swept, in plots/sweep.png; of a trade-off, plots/trade_off.png as well."""
    from recsysml.plots import sweep_plot, varying
    from recsysml.plots_trade_off import sweep_trade_off_plot

    changed = varying([job.overrides for job in jobs])
    sweep_plot(content, changed, folder / "plots" / "sweep.png")
    if jobs[0].trade_off:
        sweep_trade_off_plot(content, changed, jobs[0].trade_off, folder / "plots" / "trade_off.png")
