"""Runs of a trainer as its tests start, stop and read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recsysml import job
from recsysml.errors import Interrupted
from recsysml.results import Run
from recsysml.schemas.run import RunConfig


def train(config: RunConfig, root: Path, resume: Path | None = None) -> Path:
    """The directory of a new run below `root`, or of the one that is gone on with, when it has ended."""
    config = job.resolve(config)
    if resume is None:
        run = Run.create(root, "train", config.model.kind, argv=[], config=job.to_dict(config), overrides=[])
    else:
        run = Run.reopen(resume)
    job.run(config, run)
    return run.path


def stopped(config: RunConfig, root: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> Path:
    """The run directory of a training that was interrupted at a step."""
    log = Run.log

    def stop(self: Run, step: int, values: Any) -> None:
        log(self, step, values)
        if step == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "log", stop)
    with pytest.raises(Interrupted):
        train(config, root)
    monkeypatch.setattr(Run, "log", log)
    (path,) = (root / "train").iterdir()
    return path


def results(path: Path) -> Any:
    """What is written of a run."""
    return json.loads((path / "results.json").read_text())


def lines(path: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """The rows of a run without what a clock gave them."""
    rows = [json.loads(line) for line in (path / name).read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds" and not k.endswith("_per_second")} for row in rows]
