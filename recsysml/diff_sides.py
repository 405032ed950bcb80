"""What `diff` is given, read: a run directory, a results.json, a sweep (its best job) or lm_eval's own results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsysml.errors import ConfigError
from recsysml.examples import read_examples
from recsysml.harness_files import as_results, is_harness_file, newest_file, read_samples
from recsysml.runs import read_json, read_results


@dataclass(frozen=True)
class Side:
    """A run directory or a results file, read."""

    name: str
    file: Path
    results: dict[str, Any]
    examples: dict[str, tuple[np.ndarray, np.ndarray]]  # metric -> ids (n,), values (n,)
    notes: list[str]
    ours: bool = True  # else lm_eval wrote it: it knows no fingerprint and fewer words of the protocol


def open_side(path: Path) -> Side:
    """Raises ConfigError naming file and place if it is missing, damaged or no results file."""
    path = path.expanduser()
    if not path.exists():
        raise ConfigError(f"{path} does not exist; A and B are run directories or results.json files")
    name, notes = str(path), []
    if path.name == "sweep.json" or (path / "sweep.json").is_file():
        path, note = _best_job(path if path.is_file() else path / "sweep.json")
        name, notes = str(path), [note]
    if path.is_dir() and not (path / "results.json").is_file():
        theirs = newest_file(path)
        if theirs is None:
            raise ConfigError(f"{path} is no run directory: it has no results.json")
        path, count = theirs
        name, notes = str(path), ([f"is the newest of {count} results files of lm_eval"] if count > 1 else [])
    file = path / "results.json" if path.is_dir() else path
    content = read_json(file)
    if is_harness_file(content):
        results = as_results(content, file)
        return Side(name, file, results, read_samples(file, results), notes, ours=False)
    results = read_results(file)
    _say_tasks(results)
    examples = file.parent / "examples.parquet"
    return Side(name, file, results, read_examples(examples) if examples.is_file() else {}, notes)


def _say_tasks(results: dict[str, Any]) -> None:
    """Put beside each metric of a task what must be the same on both sides, as `as_results` does for lm_eval's."""
    tasks = results["data"].get("tasks")
    for name, entry in results["metrics"].items():
        about = tasks.get(name.split("/")[1]) if isinstance(tasks, dict) and name.startswith("lm/") else None
        if isinstance(about, dict):
            entry["task"] = {key: about.get(key) for key in ("version", "num_fewshot")}


def _best_job(file: Path) -> tuple[Path, str]:
    """The run directory of a sweep's best job, and what must be said about it."""
    content = read_json(file)
    try:
        jobs, best = content["jobs"], content["best"]
        if best is None:
            raise ConfigError(f"{file} has no best job: name one of its runs")
        path, metric = file.parent / jobs[best["job"]]["path"], best["metric"]
    except (TypeError, KeyError, IndexError) as error:
        raise ConfigError(f"{file} is damaged: it does not say which job was best") from error
    return path, f"was picked as the best of {len(jobs)} jobs by {metric}, so that metric flatters it"
