"""Runs found again: reading results.json, the newest run, a checkpoint by name, the table of `recsysml list runs`."""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsysml.errors import ConfigError
from recsysml.lazy import resolve
from recsysml.runlog import logger
from recsysml.schemas import SCHEMAS

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = "recsysml.results/1"
STATUSES = ("running", "ok", "failed", "interrupted")


@dataclass(frozen=True)
class FoundRun:
    """A run directory and what its results.json says."""

    path: Path
    results: dict[str, Any]

    @property
    def id(self) -> str:
        return self.results["run"]["id"]

    @property
    def command(self) -> str:
        return self.results["run"]["command"]

    @property
    def status(self) -> str:
        return self.results["run"]["status"]

    @property
    def started(self) -> str:
        """ISO 8601 UTC, so that text order is time order."""
        return self.results["run"]["started"]

    @property
    def kind(self) -> str | None:
        """The model's kind, from the config if the run ended before it built the model."""
        return self.results["model"].get("kind") or (self.results["config"].get("model") or {}).get("kind")

    @property
    def family(self) -> str | None:
        """The data family that the model learns from: text, interactions, ..."""
        reference = SCHEMAS["model"].get(self.kind or "")
        return getattr(resolve(reference), "accepts", None) if reference else None

    def checkpoint(self) -> Path | None:
        """`best/`, else `last/`, else None. A link to a folder that is gone counts as missing."""
        folders = (self.path / "checkpoints" / name for name in ("best", "last"))
        return next((folder for folder in folders if (folder / "checkpoint.json").is_file()), None)


def read_results(path: Path) -> dict[str, Any]:
    """A results.json, checked: strict JSON, our schema, and every part of the type that CONTRACT gives it.

    Raises ConfigError naming the file and the place.
    """
    parsed = read_json(path)
    if not isinstance(parsed, dict) or parsed.get("schema") != SCHEMA:
        found = parsed.get("schema") if isinstance(parsed, dict) else None
        raise ConfigError(f"{path} is no results file of recsysml or lm_eval: its schema is {found!r}, not {SCHEMA!r}")
    _check(parsed, path)
    return parsed


def read_json(path: Path) -> Any:
    """Strict JSON of a file. Raises ConfigError naming the file and, if it is damaged, the line and column, or for a
    number that is not finite the keys that lead to it."""
    try:
        parsed = json.loads(path.read_bytes())
        for place, number in _not_finite(parsed):
            raise ConfigError(f"{path} is not strict JSON: it holds {number} at {place}")
        return parsed
    except json.JSONDecodeError as error:
        said = error.msg.removesuffix(" at")  # of a control character json says "... at: line"
        raise ConfigError(f"{path} is damaged at line {error.lineno}, column {error.colno}: {said}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is damaged at byte {error.start}: it is not UTF-8 text") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is damaged: it is nested too deeply") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error


def _not_finite(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, float) and not math.isfinite(value):
        yield place.removeprefix("."), value
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _not_finite(item, f"{place}.{key}")


def _check(results: dict[str, Any], path: Path) -> None:
    def expect(place: str, value: Any, *kinds: type) -> None:
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ConfigError(f"{path} is damaged at {place}: expected {names}, found {value!r:.60}")

    null = type(None)
    for part in ("run", "config", "data", "model", "protocol", "environment", "metrics", "throughput", "artifacts"):
        expect(part, results.get(part), dict)
    run = results["run"]
    for key in ("id", "command", "status", "started"):
        expect(f"run.{key}", run.get(key), str)
    expect("run.seconds", run.get("seconds"), int, float)
    if run["status"] not in STATUSES:
        raise ConfigError(f"{path} is damaged at run.status: {run['status']!r} is none of {', '.join(STATUSES)}")
    for name, entry in results["metrics"].items():
        expect(f"metrics.{name}", entry, dict)
        for key in ("value", "stderr", "baseline"):
            expect(f"metrics.{name}.{key}", entry.get(key), int, float, null)
        expect(f"metrics.{name}.n", entry.get("n"), int, null)
        if entry.get("better") not in ("higher", "lower"):
            raise ConfigError(f"{path} is damaged at metrics.{name}.better: expected 'higher' or 'lower'")
        if (entry.get("stderr") or 0) < 0:
            raise ConfigError(f"{path} is damaged at metrics.{name}.stderr: it is negative")


def iter_runs(root: Path, command: str | None = None) -> Iterator[FoundRun]:
    """All run directories below the outputs folder, jobs of sweeps included, newest first.

    A results.json that cannot be read is skipped with a warning. command: only its runs.
    """
    found = []
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if "results.json" not in names:
            continue
        below.clear()  # a run directory holds no runs
        try:
            found.append(FoundRun(Path(folder), read_results(Path(folder) / "results.json")))
        except ConfigError as error:
            logger.warning("skipped: %s", error)
    found.sort(key=lambda run: (run.started, run.id), reverse=True)
    return (run for run in found if command in (None, run.command))


def newest(root: Path, *, kinds: Sequence[str] = (), family: str | None = None, command: str = "train") -> FoundRun:
    """The newest run, by its start, whose status is ok or interrupted and whose model is of the kinds and family.

    Raises ConfigError in one line if there is none.
    """
    candidates = list(iter_runs(root, command))
    for run in candidates:
        if _fits(run, kinds, family) and run.status in ("ok", "interrupted"):
            if run.checkpoint() is not None:
                return run
            logger.warning("skipped: %s has no checkpoint", run.path)
    wanted = f" of {_wanted(kinds, family)}" if kinds or family else ""
    others = f"; there is {_names(candidates)}" if candidates else ""
    raise ConfigError(f"no finished or interrupted {command} run{wanted} with a checkpoint under {root}{others}")


def resolve_checkpoint(name: str, root: Path, *, kinds: Sequence[str] = (), family: str | None = None) -> Path:
    """The checkpoint folder that a name means: `last`, a run directory, a run's id, or a checkpoint folder itself.

    A run gives its `best/`, else its `last/`. kinds, family: what the model must be.
    Raises ConfigError in one line that names the nearest runs there are.
    """
    if name == "last":
        checkpoint = newest(root, kinds=kinds, family=family).checkpoint()
        assert checkpoint is not None
        return checkpoint
    path = Path(name).expanduser()
    if (path / "checkpoint.json").is_file():
        metadata = read_json(path / "checkpoint.json")
        model = metadata.get("model") if isinstance(metadata, dict) else None
        if not isinstance(model, dict):
            raise ConfigError(f"{path / 'checkpoint.json'} is damaged at model: it does not say which model it holds")
        _refuse_other(FoundRun(path, {"model": model, "config": {}}), kinds, family)
        return path
    if path.name == "checkpoints":
        path = path.parent
    if (path / "results.json").is_file():
        run: FoundRun | None = FoundRun(path, read_results(path / "results.json"))
        runs = []
    else:
        runs = list(iter_runs(root))
        run = next((run for run in runs if run.id == name), None)
    if run is None:
        trained = [run for run in runs if run.command == "train"]
        close = difflib.get_close_matches(path.name, [run.id for run in trained], n=3, cutoff=0.5)
        there = [run for run in trained if run.id in close] or trained
        hint = f"nearest: {_names(there)}" if there else f"there are no training runs under {root}"
        raise ConfigError(f"checkpoint={name}: no run or checkpoint of that name; {hint}")
    checkpoint = run.checkpoint()
    if checkpoint is None:
        more = f"; recsysml train --resume {run.path}" if run.command == "train" else ""
        raise ConfigError(f"{run.path} has no checkpoint (its status is {run.status}){more}")
    _refuse_other(run, kinds, family)
    return checkpoint


def describe_checkpoint(checkpoint: Path) -> str:
    """The folder as it was found, and what must be known of its run: that it is not whole, or a job of a sweep."""
    try:
        run = read_results(checkpoint.resolve().parent.parent / "results.json")["run"]
    except ConfigError:  # a checkpoint without a run
        return str(checkpoint)
    said = [f"its run is {run['status']}"] if run["status"] != "ok" else []
    said += [f"a job of the sweep {run['sweep']}"] if run.get("sweep") else []
    return f"{checkpoint} ({', '.join(said)})" if said else str(checkpoint)


def _fits(run: FoundRun, kinds: Sequence[str], family: str | None) -> bool:
    return (not kinds or run.kind in kinds) and family in (None, run.family)


def _wanted(kinds: Sequence[str], family: str | None) -> str:
    return f"kind {' or '.join(kinds)}" if kinds else f"a model of {family}"


def _refuse_other(run: FoundRun, kinds: Sequence[str], family: str | None) -> None:
    if not _fits(run, kinds, family):
        raise ConfigError(f"{run.path} holds a model of kind {run.kind}; this needs {_wanted(kinds, family)}")


def _names(runs: list[FoundRun]) -> str:
    return ", ".join(str(run.path) for run in runs[:3])


def table(runs: Iterator[FoundRun] | list[FoundRun]) -> Table:
    """`recsysml list runs`: one line a run."""
    from rich.markup import escape
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("started", "run", "command", "model", "data", "status", "time", "result"):
        grid.add_column(title, no_wrap=title in ("started", "run"), justify="right" if title == "time" else "left")
    colours = {"ok": "green", "failed": "red", "interrupted": "yellow", "running": "cyan"}
    for run in runs:
        results = run.results
        status = f"[{colours[run.status]}]{run.status}[/]"
        started = run.started[:16].replace("T", " ")
        model = results["model"].get("name") or run.kind or "-"
        data = results["data"].get("name") or "-"
        cells = (started, run.id, run.command, str(model), str(data))
        grid.add_row(*map(escape, cells), status, duration(results["run"]["seconds"]), escape(headline(results)))
    return grid


def headline(results: dict[str, Any]) -> str:
    """The first metric that was recorded, as `name value`, or the error of a failed run."""
    for name, entry in results["metrics"].items():
        if entry["value"] is not None:
            return f"{name} {entry['value']:.4g}"
    return (results["run"].get("error") or "").partition("\n")[0][:60]


def duration(seconds: float) -> str:
    """`42 s`, `3 min`, `2.5 h`."""
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
