"""The record of one run: its directory, metrics.jsonl while it runs, results.json from its first to its last moment.

The files are the truth; the tracker only gets a copy. CONTRACT describes the layout.
"""

from __future__ import annotations

import math
import re
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from recsysml import sections
from recsysml.environment import config_hash, environment, package_versions, plain, strict
from recsysml.errors import ConfigError, JobError
from recsysml.examples import write_examples
from recsysml.files import write_atomic, write_json
from recsysml.rows import Rows, read_rows
from recsysml.runlog import RunLog, logger
from recsysml.runs import SCHEMA, STATUSES, read_results

if TYPE_CHECKING:
    from recsysml.tracking import Tracker


class Run:
    """One run directory and its record. Made by `create`, gone on with by `reopen`, ended by `finish`."""

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path = path
        self.record = record
        self.id: str = record["run"]["id"]
        self.tracker: Tracker | None = None
        try:
            self._log = RunLog(path / "run.log")
        except OSError as error:
            raise JobError(f"{path / 'run.log'} cannot be written: {error.strerror or error}") from error
        if not self._log.lock():
            self._log.close()
            raise ConfigError(f"{path} is still being written by another process; wait for it or stop it first")
        self._seconds_before = float(record["run"]["seconds"])
        self._clock = time.monotonic()
        self._metrics = Rows(path / "metrics.jsonl")
        self._samples = Rows(path / "samples.jsonl")
        self._examples: dict[str, tuple[list[str], np.ndarray]] = {}

    @classmethod
    def create(
        cls,
        root: Path,
        command: str,
        label: str,
        *,
        argv: Sequence[str],
        config: Mapping[str, Any],
        overrides: Sequence[str],
        parents: Sequence[str] = (),
        sweep: str | None = None,
    ) -> Run:
        """Makes `<root>/<command>/<yyyymmdd-hhmmss>-<label>-<4 hex>`, a directory that did not exist, and its record.

        A job of a sweep lies in `<root>/sweep/<sweep>/` instead.

        config: the resolved config as plain dicts. parents: runs whose checkpoints this one starts from.
        Raises ConfigError if `root` cannot be written.
        """
        started = datetime.now(UTC)
        folder = Path(root) / command if sweep is None else Path(root) / "sweep" / sweep
        path = _new_directory(folder, started, label)
        config = dict(config)
        packages = package_versions()
        record = {
            "schema": SCHEMA,
            "run": {
                "id": path.name,
                "command": command,
                "argv": [str(word) for word in argv],
                "status": "running",
                "error": None,
                "started": started.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "seconds": 0.0,
                "parents": list(parents),
                "sweep": sweep,
            },
            "config": strict(config),
            "config_hash": config_hash(config, packages, command),
            "data": {"name": None, "fingerprint": None, "sizes": {}},
            "model": {"name": None, "kind": None, "parameters": None, "trainable": None},
            "protocol": {},
            "environment": environment(),
            "metrics": {},
            "throughput": {},
            "artifacts": {},
        }
        try:
            write_atomic(path / "config.yaml", yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True))
            write_atomic(path / "overrides.yaml", yaml.safe_dump(list(overrides), allow_unicode=True))
            write_json(path / "results.json", record)
        except OSError as error:
            raise JobError(f"{path} cannot be written: {error.strerror or error}") from error
        return cls(path, record)

    @classmethod
    def reopen(cls, path: Path) -> Run:
        """Goes on with a run in place: same id, status running again, seconds and metrics going on where they stopped.

        A torn last line of metrics.jsonl or samples.jsonl is dropped. Raises ConfigError if `path` is no run directory,
        its results.json is damaged, or another process is still at work in it.
        """
        path = Path(path)
        record = read_results(path / "results.json")
        run = cls(path, record)
        run.drop_metrics_after(sys.maxsize)
        # A killed run could not write its seconds; its last metrics row did.
        rows = read_rows(path / "metrics.jsonl")
        run._seconds_before = max([run._seconds_before, *(row.get("seconds") or 0.0 for row in rows[-1:])])
        record["run"].update(status="running", error=None)
        record["environment"] = environment()
        run.save()
        return run

    # -- while it runs ------------------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Time spent in this run, earlier processes of a resumed run included."""
        return self._seconds_before + time.monotonic() - self._clock

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one row to metrics.jsonl and flushes it; numbers that are not finite are written as null.

        Raises JobError in one line if the disk does not take it; the rows before stay whole.
        """
        numbers = {name: _number(value) for name, value in values.items()}
        self._metrics.append({"step": int(step), "seconds": round(self.seconds, 3), **numbers})
        if self.tracker is not None:
            self.tracker.log(step, numbers)

    def sample(self, step: int, record: Mapping[str, Any]) -> None:
        """Appends a text or a recommendation drawn on the way to samples.jsonl."""
        self._samples.append({"step": int(step), **strict(record)})

    def drop_metrics_after(self, step: int) -> None:
        """For a resume at `step`: drops later rows and a torn last line of metrics.jsonl and samples.jsonl, atomically.

        Rows at `step` itself stay: they were logged before the checkpoint of that step was written.
        """
        for lines in (self._metrics, self._samples):
            lines.keep(lambda row: row["step"] <= step)

    def say(self, text: str) -> None:
        """One line for the screen and for run.log."""
        logger.info(text)

    # -- the record ---------------------------------------------------------------------------------------------------

    def set_data(self, name: str, fingerprint: str, sizes: Mapping[str, int], **more: Any) -> None:
        """Which data: the fingerprint is a sha256 of the examples used. A `tokenizer=` fingerprint tells `diff` that
        nats per token do not compare."""
        self.record["data"] = {"name": name, "fingerprint": fingerprint, "sizes": strict(sizes), **strict(more)}

    def set_model(self, name: str, kind: str, parameters: int, trainable: int) -> None:
        self.record["model"] = {"name": name, "kind": kind, "parameters": int(parameters), "trainable": int(trainable)}

    def set_protocol(self, **how: Any) -> None:
        """How it was judged. `diff` calls no winner between runs whose protocols differ."""
        self.record["protocol"].update(strict(how))

    def set_environment(self, extras: Mapping[str, Any]) -> None:
        """Adds what only the engine knows: device, threads, precision."""
        self.record["environment"].update(strict(extras))

    def set_throughput(
        self, unit: str, value: float, steps: int, peak_memory_bytes: int | None, **more: float | None
    ) -> None:
        numbers = {"value": _number(value), "steps": int(steps), "peak_memory_bytes": peak_memory_bytes}
        self.record["throughput"] = {"unit": unit, **numbers, **{key: _number(item) for key, item in more.items()}}

    def metric(
        self,
        name: str,
        value: float,
        *,
        stderr: float | None,
        n: int,
        better: str,
        baseline: float | None = None,
        baselines: Mapping[str, float] | None = None,
        **more: Any,
    ) -> None:
        """One final metric, named `split/[task/]metric[@k]`. better: "higher" or "lower". n: examples behind it.

        more: what else is to be known of it, such as `at_chance`.

        A value that is not finite is recorded as null with the reason beside it, and said as a warning.
        """
        assert better in ("higher", "lower"), better
        entry = {
            "value": _number(value),
            "stderr": _number(stderr),
            "n": int(n),
            "better": better,
            "baseline": _number(baseline),
            "baselines": {key: _number(item) for key, item in (baselines or {}).items()},
            **strict(more),
        }
        if entry["value"] is None:
            entry["error"] = f"the value was {value}"
            logger.warning("%s: the value was %s; it is null in results.json", name, value)
        self.record["metrics"][name] = entry

    def add_examples(self, metric: str, ids: Sequence[str], values: np.ndarray) -> None:
        """Per-example scores whose mean is the metric; `diff` pairs two runs on the ids. Written by `finish`."""
        values = np.asarray(values, dtype=np.float64)  # (n,)
        assert values.shape == (len(ids),), f"{metric}: {len(ids)} ids, values of shape {values.shape}"
        assert len(set(ids)) == len(ids), f"{metric}: example ids repeat"
        self._examples[metric] = (list(ids), values)

    def artifact(self, name: str, relative_path: str) -> None:
        """A file or folder of the run directory by name; `plots` and `sections` gather several."""
        if name in ("plots", "sections"):
            gathered = self.record["artifacts"].setdefault(name, [])
            if relative_path not in gathered:
                gathered.append(relative_path)
        else:
            self.record["artifacts"][name] = relative_path

    def section(self, name: str, title: str, parts: Sequence[Mapping[str, Any]], note: str = "") -> None:
        """A section of its own in the report, as data: `sections/<name>.json`. parts: see recsysml.sections."""
        sections.write(self.path / "sections" / f"{name}.json", title, parts, note)
        self.artifact("sections", f"sections/{name}.json")

    def save(self) -> None:
        """Rewrites results.json whole. A crash leaves the old file or the new one.

        Raises JobError in one line if the disk does not take it.
        """
        self.record["run"]["seconds"] = round(self.seconds, 3)
        path = self.path / "results.json"
        try:
            write_json(path, self.record)
        except OSError as error:
            raise JobError(f"{path} cannot be written: {error.strerror or error}") from error

    def finish(self, status: str, error: str | None = None) -> None:
        """Ends the run: examples.parquet, then results.json, then the tracker.

        status: ok, failed or interrupted. Examples that cannot be written cost the paired `diff`, not the run: it says
        so on the screen and under `run.warnings`. If results.json itself cannot be written, an `ok` run raises JobError
        and is not ended: its caller ends it as failed. That only warns, so that its own error is what is seen.
        """
        assert status in STATUSES[1:], status
        self.record["run"].update(status=status, error=error)
        try:
            self._save_examples()
            self.save()
        except JobError as problem:
            if status == "ok":
                raise
            logger.warning("%s", problem)
        if self.tracker is not None:
            metrics = {name: entry["value"] for name, entry in self.record["metrics"].items()}
            self.tracker.finish(status, metrics)
        self._metrics.close()
        self._samples.close()
        self._log.close()

    def _save_examples(self) -> None:
        if not self._examples:
            return
        try:
            write_examples(self.path / "examples.parquet", self._examples)
            self.artifact("examples", "examples.parquet")
        except OSError as problem:
            text = f"examples.parquet could not be written ({problem.strerror or problem}): diff will not pair examples"
            self.record["run"].setdefault("warnings", []).append(text)
            logger.warning(text)


def _new_directory(parent: Path, started: datetime, label: str) -> Path:
    """A directory that did not exist. Parallel sweeps start many runs in one second, so a taken name is drawn anew."""
    safe_label = re.sub(r"[^A-Za-z0-9_.]+", "_", label).strip("._") or "run"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for _ in range(1000):
            path = parent / f"{started:%Y%m%d-%H%M%S}-{safe_label}-{secrets.token_hex(2)}"
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return path
    except OSError as error:
        message = f"the outputs folder {parent} cannot be written: {error.strerror}; set RECSYSML_OUTPUTS to another"
        raise ConfigError(message) from error
    raise ConfigError(f"{parent} holds too many runs of this second")


def _number(value: Any) -> int | float | None:
    """A number for strict JSON; what is not finite becomes None. Takes array and tensor scalars."""
    if value is None or isinstance(value, int):
        return value
    return number if math.isfinite(number := float(value)) else None
