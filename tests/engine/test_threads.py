"""How many threads: measured once, kept, and never in the way of what was asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recsysml import job
from recsysml.engine import threads
from recsysml.schemas.impressions import ImpressionsConfig
from recsysml.schemas.rankers import MTMLConfig
from recsysml.schemas.run import RunConfig
from recsysml.schemas.trainers import RankingTrainerConfig


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[int, float]:
    """A machine of four cores with an empty cache; what is returned says how many seconds each number takes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    taken = {1: 1.0, 4: 1.0}
    for module in (threads, job):
        monkeypatch.setattr(module, "usable_cores", lambda: 4)
    monkeypatch.setattr(threads, "seconds", lambda n, *shape: taken[n])
    return taken


@pytest.mark.parametrize(("one", "all_", "chosen"), [(1.0, 0.5, 4), (1.0, 10.0, 1), (1.0, 0.97, 1)])
def test_all_cores_only_where_they_are_quicker(cores: dict[int, float], one: float, all_: float, chosen: int) -> None:
    cores |= {1: one, 4: all_}
    assert threads.chosen(512, 512, 1024) == chosen


def test_the_answer_stays_when_the_machine_is_busy_later(cores: dict[int, float], tmp_path: Path) -> None:
    cores |= {1: 1.0, 4: 0.5}
    assert threads.chosen(512, 512, 1024) == 4
    cores |= {4: 9.0}
    assert threads.chosen(512, 512, 1024) == 4
    assert threads.chosen(64, 512, 1024) == 1  # another shape is another question
    (tmp_path / "recsysml" / "threads.json").write_text("{torn")
    assert threads.chosen(512, 512, 1024) == 1
    assert set(json.loads((tmp_path / "recsysml" / "threads.json").read_text()).values()) == {1}


def test_a_run_says_what_was_chosen_and_keeps_to_what_is_asked(cores: dict[int, float]) -> None:
    cores |= {1: 1.0, 4: 2.0}
    config = RunConfig(MTMLConfig(), ImpressionsConfig(), RankingTrainerConfig(), device="cpu")
    resolved = job.resolve(config)
    assert resolved.threads == 1
    assert "threads=null is 1: 4 are no quicker" in job.what_auto_became(config, resolved)
    config.threads = 3
    assert job.resolve(config).threads == 3
    assert "threads" not in job.what_auto_became(config, job.resolve(config))


def test_measuring_leaves_torch_as_it_was() -> None:
    before, state = torch.get_num_threads(), torch.get_rng_state()
    assert threads.seconds(1, 16, 16, 16, repeats=1) > 0
    assert torch.get_num_threads() == before and torch.equal(torch.get_rng_state(), state)
