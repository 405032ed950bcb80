"""Runs from the command line to the record, with a trainer that does what its test tells it: no data, no model."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recsysml import config, files, job
from recsysml.cli import main
from recsysml.errors import DataError, Interrupted, JobError
from recsysml.results import Run

TRAIN = ["train", "tracker.mode=disabled"]


def runs(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/*/results.json"))


def results(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())


def test_a_run_leaves_its_record_and_nothing_else(
    told: SimpleNamespace, own_outputs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*TRAIN, "trainer.lr=1e-4", "tracker.tags=a,b"]) == 0
    (run,) = runs(own_outputs)
    assert run.parent == own_outputs / "train"
    record = results(run)
    assert record["run"]["status"] == "ok"
    assert record["run"]["argv"] == ["recsysml", *TRAIN, "trainer.lr=1e-4", "tracker.tags=a,b"]
    assert record["config"]["trainer"]["lr"] == 1e-4
    assert record["config"]["tracker"]["tags"] == ["a", "b"]
    assert "trainer.lr=1e-4" in (run / "overrides.yaml").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints", "config.yaml", "metrics.jsonl", "overrides.yaml", "results.json", "run.log",
    ]  # fmt: skip
    assert str(run) in capsys.readouterr().err


def test_auto_is_resolved_recorded_and_said_in_one_line(
    told: SimpleNamespace, own_outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRAIN, "device=cpu"]) == 0
    (config,) = told.configs
    assert config.trainer.precision in ("fp32", "bf16")
    assert config.threads >= 1
    record = results(runs(own_outputs)[0])
    assert record["config"]["trainer"]["precision"] == config.trainer.precision
    said = [line for line in capsys.readouterr().err.splitlines() if "=auto is " in line]
    assert len(said) == 1
    assert f"trainer.precision=auto is {config.trainer.precision}" in said[0]


def test_a_failed_job(told: SimpleNamespace, own_outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told.error = JobError("the loss is not a number at step 3")
    assert main(TRAIN) == 1
    (run,) = runs(own_outputs)
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [
        f"error: the loss is not a number at step 3 (traceback in {run / 'run.log'})"
    ]
    assert "Traceback" in (run / "run.log").read_text()
    assert results(run)["run"]["status"] == "failed"
    assert results(run)["run"]["error"] == "the loss is not a number at step 3"
    assert main([*TRAIN, "-v"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_error_that_is_not_ours_is_named(told: SimpleNamespace, own_outputs: Path) -> None:
    told.error = KeyError("wte")
    assert main(TRAIN) == 1
    assert results(runs(own_outputs)[0])["run"]["error"] == "KeyError: 'wte'"


def test_bad_data_is_a_mistake_before_the_run_and_a_failure_in_it(
    told: SimpleNamespace, own_outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told.bad_file = "notes.txt is missing"
    assert main(TRAIN) == 2
    assert capsys.readouterr().err == "error: notes.txt is missing\n"
    assert not own_outputs.exists()
    told.bad_file, told.error = None, DataError("row 7 is bad")
    assert main(TRAIN) == 1
    assert results(runs(own_outputs)[0])["run"]["status"] == "failed"


@pytest.mark.parametrize("place", ["cache", "outputs"])
def test_a_folder_that_cannot_be_made_is_a_mistake(
    place: str,
    told: SimpleNamespace,
    own_outputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("no folder can lie below a file")
    variable = {"cache": "XDG_CACHE_HOME", "outputs": "RECSYSML_OUTPUTS"}[place]
    monkeypatch.setenv(variable, str(tmp_path / "file" / "below"))
    assert main(TRAIN) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "file" / "below") in line and variable in line
    assert not runs(own_outputs)


def test_a_sweeps_folder_that_cannot_be_made_is_a_mistake(
    told: SimpleNamespace, own_outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_outputs.mkdir()
    (own_outputs / "sweep").write_text("no folder can lie below a file")
    assert main([*TRAIN, "-m", "seed=1,2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: the sweep's folder {own_outputs / 'sweep'}") and "RECSYSML_OUTPUTS" in line
    assert told.configs == []


def test_a_user_without_a_home_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert files.cache_dir().name == "recsysml"
    files.make_cache_dir()
    assert files.cache_dir().is_dir()


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Interrupted("SIGTERM at step 5")], ids=["ctrl-c", "sigterm"])
def test_an_interrupted_run_says_how_to_go_on(
    stop: BaseException, told: SimpleNamespace, own_outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told.error = stop
    assert main(TRAIN) == 130
    (run,) = runs(own_outputs)
    assert results(run)["run"]["status"] == "interrupted"
    assert f"recsysml train --resume {run}" in capsys.readouterr().err


def test_sigterm_outside_the_loop_leaves_an_interrupted_run(told: SimpleNamespace, own_outputs: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    told.error = lambda config: os.kill(os.getpid(), signal.SIGTERM)  # while data is prepared, or scored at the end
    assert main(TRAIN) == 130
    assert results(runs(own_outputs)[0])["run"]["status"] == "interrupted"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_is_resumed_in_place_with_its_own_config(
    told: SimpleNamespace, own_outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told.error = KeyboardInterrupt()
    assert main([*TRAIN, "trainer.lr=0.5", "seed=9"]) == 130
    (run,) = runs(own_outputs)
    told.error = None
    assert main(["train", "--resume", str(run), "progress=never", "tracker.tags=x"]) == 0
    assert runs(own_outputs) == [run]
    first, second = told.configs
    assert (second.trainer.lr, second.seed, second.progress, second.tracker.tags) == (0.5, 9, "never", ["x"])
    assert first.trainer == second.trainer
    assert results(run)["run"]["status"] == "ok"
    assert results(run)["run"]["id"] == run.name
    # a finished run is left as it is
    before = (run / "results.json").read_bytes()
    assert main(["train", "--resume", run.name]) == 0
    advice = capsys.readouterr().out.strip().partition("To train on from it: recsysml train ")[2].split()
    assert [word.partition("=")[0] for word in advice] == ["model", "model.init_from"]
    config.compose(advice)
    assert (run / "results.json").read_bytes() == before


@pytest.mark.parametrize("file", ["run.log", "results.json"])
def test_a_run_that_cannot_be_written_is_not_resumed(
    file: str,
    told: SimpleNamespace,
    own_outputs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told.error = KeyboardInterrupt()
    assert main(TRAIN) == 130
    (run,) = runs(own_outputs)
    told.error = None
    told.configs.clear()
    capsys.readouterr()
    if file == "run.log":
        (run / file).unlink()
        (run / file).mkdir()  # a real refusal of the system, also for root
    else:
        full = OSError(28, "No space left on device")
        monkeypatch.setattr("recsysml.results.write_json", lambda *_: (_ for _ in ()).throw(full))
    assert main(["train", "--resume", str(run)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {run / file} cannot be written: ")
    assert told.configs == []


def test_a_run_of_another_version_is_named(
    told: SimpleNamespace, own_outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told.error = KeyboardInterrupt()
    assert main(TRAIN) == 130
    (run,) = runs(own_outputs)
    before = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(before + "key_of_another_version: 3\n")
    assert main(["train", "--resume", str(run)]) == 2
    assert f"error: {run / 'config.yaml'}: key_of_another_version: there is no such key." in capsys.readouterr().err
    (run / "config.yaml").write_text(before)
    results = (run / "results.json").read_text()
    (run / "results.json").write_text(results.replace("recsysml.results/1", "recsysml.results/2"))
    for words in (["train", "--resume", str(run)], ["eval", f"checkpoint={run}"], ["report", str(run)]):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {run / 'results.json'}") and "recsysml.results/2" in line
    assert main(["list", "runs"]) == 0  # one bad file hides no other run
    assert "recsysml.results/2" in capsys.readouterr().err


@pytest.mark.parametrize("override", ["trainer.max_steps=500", "model=gpt2", "seed=2", "progress_=x", "outputs=x"])
def test_a_resumed_run_keeps_its_config(
    override: str, told: SimpleNamespace, own_outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told.error = KeyboardInterrupt()
    main(TRAIN)
    (run,) = runs(own_outputs)
    before = (run / "results.json").read_bytes()
    capsys.readouterr()
    assert main(["train", "--resume", str(run), override]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert (run / "results.json").read_bytes() == before


def test_eval_takes_model_and_data_from_the_checkpoints_run(
    told: SimpleNamespace, own_outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRAIN, "model=gpt2", "data=python_source", "data.val_fraction=0.2", "eval.batch_size=3"]) == 0
    capsys.readouterr()
    assert main(["eval", "checkpoint=last", "eval.split=test", "data.tokenizer=bytes", "tracker.mode=disabled"]) == 0
    train, evaluation = told.configs
    assert evaluation.model.name == "gpt2"
    assert (evaluation.model.n_layers, train.model.n_layers) == (1, None)  # what the checkpoint says
    assert (evaluation.data.name, evaluation.data.val_fraction) == ("python_source", 0.2)
    assert (evaluation.data.tokenizer, evaluation.eval.split, evaluation.eval.batch_size) == ("bytes", "test", 3)
    trained, judged = sorted(runs(own_outputs), key=lambda run: run.parent.name == "eval")
    assert told.checkpoints == [trained / "checkpoints" / "last"]
    assert results(judged)["run"]["parents"] == [trained.name]
    assert f"checkpoint: {trained / 'checkpoints' / 'last'}" in capsys.readouterr().out
    assert main(["eval", "data=python_docs", f"checkpoint={trained}", "tracker.mode=disabled"]) == 0
    assert told.configs[-1].data.name == "python_docs"
    assert main(["eval", "model=gpt2"]) == 2
    assert "the model comes from the checkpoint" in capsys.readouterr().err


def test_a_run_names_the_run_whose_weights_it_starts_from(told: SimpleNamespace, own_outputs: Path) -> None:
    assert main(TRAIN) == 0
    (first,) = runs(own_outputs)
    places = [first, first / "checkpoints", first / "checkpoints" / "last"]
    for place in places:
        assert main([*TRAIN, f"model.init_from={place}"]) == 0
    assert main([*TRAIN, f"model.init_from={own_outputs}"]) == 0  # no run, although runs lie below
    found = sorted((results(run)["run"] for run in runs(own_outputs)), key=lambda run: run["started"])
    assert [run["parents"] for run in found] == [[], *[[first.name]] * 3, []]
    assert main([*TRAIN, "-m", "seed=1,2", f"model.init_from={first}"]) == 0
    (swept, _) = own_outputs.glob("sweep/*/*/results.json")
    assert results(swept.parent)["run"]["parents"] == [first.name]


def test_config_from_a_run(told: SimpleNamespace, own_outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "trainer.lr=0.25"]) == 0
    capsys.readouterr()
    (run,) = runs(own_outputs)
    assert main(["config", "--from", run.name]) == 0
    assert capsys.readouterr().out == (run / "config.yaml").read_text()
    assert main(["config", "--from", run.name, "seed=3"]) == 2


def test_the_same_config_has_the_same_hash_wherever_it_lies(told: SimpleNamespace, own_outputs: Path) -> None:
    for more in ([], ["tracker.tags=a"], ["progress=never"], ["seed=2"]):
        assert main([*TRAIN, *more]) == 0
    hashes = [
        results(run)["config_hash"] for run in sorted(runs(own_outputs), key=lambda r: results(r)["run"]["started"])
    ]
    assert len(set(hashes[:3])) == 1
    assert hashes[3] != hashes[0]


def test_other_ranks_of_torchrun_write_nothing(
    told: SimpleNamespace, own_outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    seen: list[Any] = []
    monkeypatch.setattr(sys.modules["stand_ins"], "train", lambda config, run: seen.append(run))
    assert main(TRAIN) == 0
    assert seen == [None]
    assert not own_outputs.exists()


def test_a_batch_that_does_not_divide_among_processes_is_a_mistake(
    told: SimpleNamespace, own_outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert main([*TRAIN, "trainer.batch_size=8", "trainer.grad_accum=2"]) == 2
    assert "multiple of trainer.grad_accum x processes, which is 6" in capsys.readouterr().err
    assert not own_outputs.exists()


def test_a_record_that_cannot_be_completed_is_said(
    told: SimpleNamespace, own_outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A disk that is full in the last moment."""
    whole = files.write_json

    def write(path: Path, record: dict[str, Any]) -> None:
        if record["run"]["status"] == "ok":
            raise OSError(28, "No space left on device")
        whole(path, record)

    monkeypatch.setattr("recsysml.results.write_json", write)
    assert main(TRAIN) == 1
    (run,) = runs(own_outputs)
    assert f"{run / 'results.json'} cannot be written: No space left on device" in capsys.readouterr().err
    assert results(run)["run"]["status"] == "failed"
    assert "No space left" in (run / "run.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_record_is_completed_is_let_pass(
    told: SimpleNamespace, own_outputs: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    whole = Run.finish

    def finish(run: Run, status: str, error: str | None = None) -> None:
        os.kill(os.getpid(), number)
        whole(run, status, error)

    monkeypatch.setattr(Run, "finish", finish)
    assert main(TRAIN) == 0
    (run,) = runs(own_outputs)
    assert results(run)["run"]["status"] == "ok"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_outside_the_loop_interrupts_the_run(
    told: SimpleNamespace, own_outputs: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """While data is prepared or a model compiled, which can take minutes."""

    def train(config: Any, run: Any) -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    before = {signal.SIGTERM: signal.getsignal(signal.SIGTERM), signal.SIGINT: signal.getsignal(signal.SIGINT)}
    signal.signal(signal.SIGTERM, lambda *_: pytest.fail("SIGTERM was not taken by the run"))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started deaf to it
    try:
        monkeypatch.setattr(sys.modules["stand_ins"], "train", train)
        assert main(TRAIN) == 130
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    (run,) = runs(own_outputs)
    assert results(run)["run"]["status"] == "interrupted"


def test_an_error_of_another_rank_is_said(
    told: SimpleNamespace, own_outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(config: Any, run: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(sys.modules["stand_ins"], "train", train)
    assert main(TRAIN) == 1
    assert "error: process 1: MemoryError: no room\n" in capsys.readouterr().err


def test_a_sweep_is_refused_under_torchrun(
    told: SimpleNamespace, own_outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "-m", "seed=1,2"]) == 2
    assert "one by one" in capsys.readouterr().err
    assert not own_outputs.exists()


def test_one_line_keeps_our_words_and_names_others() -> None:
    assert job.one_line(JobError("a\nb")) == "a b"
    assert job.one_line(ValueError("x")) == "ValueError: x"
    assert job.one_line(RuntimeError()) == "RuntimeError"


def test_a_split_that_the_data_lack_is_a_mistake(
    told: SimpleNamespace, own_outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRAIN, "data.test_fraction=0"]) == 0
    (run,) = runs(own_outputs)
    assert main(["eval", f"checkpoint={run}", "eval.split=test", "tracker.mode=disabled"]) == 2
    assert "eval.split=test: python_docs has no test split" in capsys.readouterr().err
    assert runs(own_outputs) == [run]
