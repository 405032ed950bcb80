"""Sweeps: validated whole, one directory a job, going on after a failure and after an interruption."""

from __future__ import annotations

import fcntl
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recsysml import judging, sweep
from recsysml.cli import main
from recsysml.environment import usable_cores
from recsysml.errors import JobError
from recsysml.results import Run

SWEEP = ["train", "-m", "tracker.mode=disabled", "trainer.lr=1e-3,2e-3", "seed=1,2"]


def record(outputs: Path) -> tuple[Path, dict[str, Any]]:
    (file,) = outputs.glob("sweep/*/sweep.json")
    return file.parent, json.loads(file.read_text())


def job_runs(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/results.json"))


def test_every_job_has_its_run_and_the_best_is_named(
    told: SimpleNamespace, own_outputs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(SWEEP) == 0
    folder, content = record(own_outputs)
    assert content["schema"] == "recsysml.sweep/1"
    assert content["argv"] == ["recsysml", *SWEEP]
    assert [(config.trainer.lr, config.seed) for config in told.configs] == [
        (0.001, 1), (0.001, 2), (0.002, 1), (0.002, 2),
    ]  # fmt: skip
    assert [row["status"] for row in content["jobs"]] == ["ok"] * 4
    assert len({row["run"] for row in content["jobs"]}) == 4
    for row in content["jobs"]:
        assert (folder / row["path"] / "results.json").is_file()
        results = json.loads((folder / row["path"] / "results.json").read_text())
        assert results["run"]["sweep"] == folder.name
        assert results["config_hash"] == row["config_hash"]
        assert row["metrics"]["val/bits_per_byte"]["value"] == results["metrics"]["val/bits_per_byte"]["value"]
    assert (content["best"]["metric"], content["best"]["value"], content["best"]["job"]) == (
        "val/bits_per_byte",
        2.0,
        2,
    )
    out = capsys.readouterr().out
    assert "trainer.lr=0.002 seed=1" in out
    assert "best" in out
    assert (folder / "plots" / "sweep.png").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    assert sorted(path.name for path in own_outputs.iterdir()) == ["sweep"]
    assert not list(folder.glob("**/multirun.yaml"))


def test_a_failed_job_does_not_stop_the_others(told: SimpleNamespace, own_outputs: Path) -> None:
    told.error = lambda config: JobError("lost") if config.trainer.lr == 0.001 else None
    assert main(SWEEP) == 1
    _, content = record(own_outputs)
    assert [row["status"] for row in content["jobs"]] == ["failed", "failed", "ok", "ok"]
    assert content["jobs"][0]["error"] == "lost"
    assert content["best"]["job"] == 2


def test_the_same_command_goes_on(told: SimpleNamespace, own_outputs: Path) -> None:
    told.error = lambda config: JobError("lost") if config.trainer.lr == 0.001 else None
    assert main(SWEEP) == 1
    folder, before = record(own_outputs)
    told.error = None
    told.configs.clear()
    assert main(SWEEP) == 0
    assert [config.trainer.lr for config in told.configs] == [0.001, 0.001]  # what was done is skipped
    folder, after = record(own_outputs)
    assert [row["run"] for row in after["jobs"]][2:] == [row["run"] for row in before["jobs"]][2:]
    assert len(job_runs(folder)) == 6  # a failed job's directory stays
    told.configs.clear()
    assert main(SWEEP) == 0
    assert told.configs == []


def test_ctrl_c_stops_the_sweep_and_the_job_is_resumed_in_place(told: SimpleNamespace, own_outputs: Path) -> None:
    told.error = lambda config: KeyboardInterrupt() if (config.trainer.lr, config.seed) == (0.001, 2) else None
    assert main(SWEEP) == 130
    folder, before = record(own_outputs)
    assert [row["status"] for row in before["jobs"]] == ["ok", "interrupted", "pending", "pending"]
    told.error = None
    assert main(SWEEP) == 0
    folder, after = record(own_outputs)
    assert [row["status"] for row in after["jobs"]] == ["ok"] * 4
    assert [row["run"] for row in after["jobs"]][:2] == [row["run"] for row in before["jobs"]][:2]
    assert len(job_runs(folder)) == 4


def test_a_job_that_was_killed_is_named_so_and_resumed_in_place(told: SimpleNamespace, own_outputs: Path) -> None:
    """As kill -9 leaves it: a record that still says running, and nobody at work."""
    assert main(SWEEP) == 0
    folder, before = record(own_outputs)
    for row in before["jobs"][:2]:
        file = folder / row["path"] / "results.json"
        file.write_text(file.read_text().replace('"status": "ok"', '"status": "running"'))
    told.error = KeyboardInterrupt()
    assert main(SWEEP) == 130  # at the first job; the second one's record is as it was
    _, stopped = record(own_outputs)
    assert [row["status"] for row in stopped["jobs"]] == ["interrupted", "interrupted", "ok", "ok"]
    told.error = None
    told.configs.clear()
    assert main(SWEEP) == 0
    assert [(config.trainer.lr, config.seed) for config in told.configs] == [(0.001, 1), (0.001, 2)]
    _, after = record(own_outputs)
    assert [(row["run"], row["status"]) for row in after["jobs"]] == [(row["run"], "ok") for row in before["jobs"]]


def test_rerun_does_all_jobs_anew(told: SimpleNamespace, own_outputs: Path) -> None:
    assert main(SWEEP) == 0
    _, before = record(own_outputs)
    told.configs.clear()
    assert main([*SWEEP, "--rerun"]) == 0
    assert len(told.configs) == 4
    folder, after = record(own_outputs)
    assert not {row["run"] for row in before["jobs"]} & {row["run"] for row in after["jobs"]}
    assert len(job_runs(folder)) == 8


def test_a_mistake_in_the_last_job_costs_none(
    told: SimpleNamespace, own_outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "-m", "trainer.optimizer=adamw,muon,sgd"]) == 2
    err = capsys.readouterr().err
    assert err == "error: trainer.optimizer=sgd: it is one of adamw, muon.\n"
    assert told.configs == []
    assert not own_outputs.exists()


def test_a_key_that_an_experiment_sweeps_over_is_not_blamed_on_who_did_not_type_it(capsys):
    assert main(["train", "-m", "experiment=feedback_loop", "data=open_bandit"]) == 2
    said = "error: data=open_bandit does not fit experiment=feedback_loop, which sets data.seed"
    assert said in capsys.readouterr().err
    assert main(["train", "-m", "experiment=feedback_loop", "data=open_bandit", "data.seed=1,2"]) == 2
    assert "error: data.seed: there is no such key." in capsys.readouterr().err


def test_a_name_of_ones_own_and_choices_and_lists(told: SimpleNamespace, own_outputs: Path) -> None:
    argv = ["train", "-m", "sweep.name=mine", "model=gpt2,gpt2_modern", "tracker.tags=[a,b]", "tracker.mode=disabled"]
    assert main(argv) == 0
    folder, _ = record(own_outputs)
    assert folder.name == "mine"
    assert [config.model.name for config in told.configs] == ["gpt2", "gpt2_modern"]
    assert told.configs[0].tracker.tags == ["a", "b"]


def test_an_experiment_may_hold_the_sweep(
    told: SimpleNamespace, own_outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own" / "experiment" / "grid.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(
        "# @package _global_\n# a grid\ntracker: {mode: disabled}\nhydra: {sweeper: {params: {seed: '1,2,3'}}}\n"
    )
    argv = ["train", "experiment=grid", "--config-dir", str(tmp_path / "own")]
    assert main([*argv, "-m"]) == 0
    assert [config.seed for config in told.configs] == [1, 2, 3]
    told.configs.clear()
    assert main(argv) == 0
    assert len(told.configs) == 1
    assert "with -m it sweeps over seed" in capsys.readouterr().out


def test_two_processes_do_not_work_in_one_sweep(
    told: SimpleNamespace, own_outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = own_outputs / "sweep" / "mine"
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert main([*SWEEP, "sweep.name=mine"]) == 2
    assert "is running already" in capsys.readouterr().err
    assert told.configs == []


def test_evals_are_checked_before_the_first_and_go_on_after_a_failed_one(
    told: SimpleNamespace, own_outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "tracker.mode=disabled"]) == 0
    argv = ["eval", "-m", "eval.split=val,test", "tracker.mode=disabled"]
    told.bad_file = "notes.txt is missing"
    assert main(argv) == 2
    assert capsys.readouterr().err.endswith("error: notes.txt is missing\n")
    assert not (own_outputs / "sweep").exists()
    told.bad_file = None
    start = judging.start

    def start_or_not(config: Any, *more: Any, **named: Any) -> int:
        if config.eval.split == "val":
            raise JobError("no room for a run directory")
        return start(config, *more, **named)

    monkeypatch.setattr(judging, "start", start_or_not)
    assert main(argv) == 1
    _, content = record(own_outputs)
    assert [row["status"] for row in content["jobs"]] == ["pending", "ok"]
    assert "error: no room for a run directory" in capsys.readouterr().err


STAND_INS = """
import json

def resolve_size(config, on_gpu):
    return config

def check(config):
    pass

def train(config, run):
    run.metric("val/loss", float(config.seed), stderr=None, n=1, better="lower")
    run.log(0, {"threads": config.threads})
"""


def test_jobs_run_in_parallel_and_share_the_cores(
    told: SimpleNamespace, own_outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In processes of joblib's own, which know nothing of monkeypatches: a sitecustomize puts the stand-ins there."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    site = tmp_path / "site"
    site.mkdir()
    (site / "stand_ins.py").write_text(STAND_INS)
    (site / "sitecustomize.py").write_text(
        "from recsysml import data, models, trainers\n"
        "data.KINDS['python_text'] = 'stand_ins'\n"
        "models.KINDS['gpt'] = 'stand_ins:GPT'\n"
        "trainers.KINDS['language'] = 'stand_ins:train'\n"
    )
    root = Path(sys.modules["recsysml"].__file__ or "").parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{site}:{root}")
    monkeypatch.syspath_prepend(site)
    argv = ["train", "-m", "seed=1,2", "tracker.mode=disabled"]
    assert main([*argv, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]) == 0
    folder, content = record(own_outputs)
    assert [row["status"] for row in content["jobs"]] == ["ok", "ok"]
    for run in job_runs(folder):
        assert json.loads((run / "metrics.jsonl").read_text())["threads"] == max(1, usable_cores() // 2)
    # the launcher is no part of the work: one after the other, in the same folder, with the same threads
    assert main([*argv, "sweep.name=" + folder.name, f"threads={max(1, usable_cores() // 2)}"]) == 0
    assert told.configs == []  # all was done before


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_best(better: str) -> None:
    def row(value: float | None, status: str = "ok", name: str = "m") -> dict[str, Any]:
        return {"status": status, "run": str(value), "metrics": {name: {"value": value, "better": better}}}

    rows = [row(2.0), row(3.0), row(1.0), row(None), row(9.0, "failed"), row(-9.0, "failed")]
    found = sweep.best(rows)
    assert found is not None
    assert found["value"] == (3.0 if better == "higher" else 1.0)
    assert sweep.best([row(1.0), row(2.0, name="other")]) is None  # different metrics have no best
    assert sweep.best([row(1.0, "failed")]) is None
    tied = sweep.best([row(1.0), row(2.0), row(1.0), row(2.0)])
    assert tied is not None
    assert tied["job"] == (1 if better == "higher" else 0)
    for place, value in ((found["job"], 2.0), (0, 1.0 if better == "higher" else 3.0)):
        rows[place]["metrics"]["m"]["unreliable"] = "few effective requests"  # whatever it says, it never wins
        second = sweep.best(rows)
        assert second is not None and second["value"] == value


def test_what_is_not_to_be_believed_is_marked_in_the_table(
    told: SimpleNamespace, own_outputs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = Run.metric

    def doubted(self: Run, name: str, value: float, **more: Any) -> None:
        more |= {"unreliable": "few effective requests"} if self.record["config"]["seed"] == 1 else {}
        kept(self, name, value, **more)

    monkeypatch.setattr(Run, "metric", doubted)
    assert main(SWEEP) == 0
    _, content = record(own_outputs)
    doubts = ["unreliable" in row["metrics"]["val/bits_per_byte"] for row in content["jobs"]]
    assert doubts == [True, False] * 2 and content["best"]["job"] in (1, 3)
    said = capsys.readouterr().out
    assert said.count(" ?") == 4 and "? not to be believed" in said
