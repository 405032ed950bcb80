"""What a report is made of: runs found by name and everything their directories hold."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsysml import sections
from recsysml.diff import flatten
from recsysml.errors import ConfigError
from recsysml.files import outputs_dir
from recsysml.rows import read_rows
from recsysml.runs import FoundRun, iter_runs, read_results

logger = logging.getLogger("recsysml")

# of a configuration: where it lay and who watched say nothing about a run
QUIET = ("tracker.", "outputs", "progress", "sweep.")
# a label says what is a run's own in at most so many keys and characters
_KEYS, _CHARACTERS = 3, 40


@dataclass(frozen=True)
class ReportedRun:
    """One run as the report shows it."""

    label: str  # short, and no other run of the report has it
    path: Path
    results: dict[str, Any]
    rows: list[dict[str, Any]]  # metrics.jsonl
    samples: list[dict[str, Any]]
    sections: dict[str, dict[str, Any]]  # name -> content

    @property
    def tokens_per_step(self) -> int | None:
        """Training tokens of a step, for a run that counts them; a recommender's windows are none."""
        if not any("tokens_per_second" in row for row in self.rows):
            return None
        config = self.results["config"]
        sizes = [(config.get("trainer") or {}).get("batch_size"), (config.get("model") or {}).get("context_length")]
        return sizes[0] * sizes[1] if all(isinstance(size, int) for size in sizes) else None  # type: ignore[operator]


def gather(names: Sequence[str]) -> list[ReportedRun]:
    """The named runs, oldest first, each once. Raises ConfigError for a name that stands for none."""
    found: dict[Path, FoundRun] = {}
    for name in names:
        found |= {run.path.resolve(): run for run in _find(name)}
    runs = sorted(found.values(), key=lambda run: (run.started, run.id))
    labels = _labels(runs)
    return [
        ReportedRun(
            label,
            run.path,
            run.results,
            read_rows(run.path / "metrics.jsonl"),
            read_rows(run.path / "samples.jsonl"),
            _sections(run),
        )
        for label, run in zip(labels, runs, strict=True)
    ]


def _find(name: str) -> list[FoundRun]:
    path = Path(name).expanduser()
    if path.name in ("results.json", "sweep.json") and path.is_file():
        path = path.parent
    if (path / "results.json").is_file():
        return [FoundRun(path, read_results(path / "results.json"))]
    if path.is_dir():
        below = list(iter_runs(path))
        if not below:
            raise ConfigError(f"{path}: there is no run in it or below it (no results.json)")
        return below
    known = list(iter_runs(outputs_dir()))
    named = [run for run in known if run.id == name]
    if not named:
        close = difflib.get_close_matches(path.name, [run.id for run in known], n=3, cutoff=0.5)
        there = [str(run.path) for run in known if run.id in close] or [str(run.path) for run in known[:3]]
        hint = f"nearest: {', '.join(there)}" if there else f"there are no runs under {outputs_dir()}"
        raise ConfigError(f"{name}: no run and no folder of that name; {hint}")
    return named


def _labels(runs: Sequence[FoundRun]) -> list[str]:
    """Ids without their time, where that is enough to tell the runs apart, what an eval judged, and what is each run's
    own in the config."""
    short = [run.id.split("-", 2)[-1] for run in runs]
    if len(set(short)) < len(short):
        short = [run.id for run in runs]
    if len(set(short)) < len(short):
        short = [str(run.path) for run in runs]
    labels = zip(short, map(_judged, runs), _own_settings(runs), strict=True)
    return [" ".join([name, *judged, *own]) for name, judged, own in labels]


def _judged(run: FoundRun) -> list[str]:
    """Whose checkpoint an eval judged: what tells it from others."""
    parents = run.results["run"].get("parents")
    named = isinstance(parents, list) and len(parents) == 1 and run.results["run"]["command"] == "eval"
    return [f"of {str(parents[0]).rpartition('-')[2]}"] if named else []


def _own_settings(runs: Sequence[FoundRun]) -> list[list[str]]:
    """`key=value` of the few keys that tell the runs apart; nothing where they are many or long."""
    flat = [dict(flatten(run.results["config"])) for run in runs]
    keys = [key for key in dict.fromkeys(key for values in flat for key in values) if not key.startswith(QUIET)]
    varying = [key for key in keys if len({repr(values.get(key)) for values in flat}) > 1]
    own = [[f"{key.rpartition('.')[2]}={values[key]}" for key in varying if key in values] for values in flat]
    few = len(varying) <= _KEYS and all(len(" ".join(words)) <= _CHARACTERS for words in own)
    return own if few else [[] for _ in runs]


def _sections(run: FoundRun) -> dict[str, dict[str, Any]]:
    """The run's own sections. One that cannot be read costs a warning, not the report."""
    read: dict[str, dict[str, Any]] = {}
    listed = run.results["artifacts"].get("sections") or []
    for relative in listed if isinstance(listed, list) else []:
        file = run.path / str(relative)
        if not file.resolve().is_relative_to(run.path.resolve()):
            logger.warning("skipped: %s lies outside of its run", file)
            continue
        try:
            read[file.stem] = sections.read(file)
        except ConfigError as error:
            logger.warning("skipped: %s", error)
    return read
