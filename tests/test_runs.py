"""Runs found again among damaged, foreign and unfinished ones."""

import json
import logging

import pytest
from rich.console import Console

from recsysml import runs
from recsysml.errors import ConfigError
from recsysml.results import Run
from recsysml.runs import iter_runs, newest, read_results, resolve_checkpoint


def make(root, label="gpt", *, status="ok", kind="gpt", started=None, command="train", checkpoints=("best", "last")):
    run = Run.create(root, command, label, argv=[], config={"model": {"kind": kind}}, overrides=[])
    if started:
        run.record["run"]["started"] = started
    for name in checkpoints:
        folder = run.path / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "checkpoint.json").write_text(json.dumps({"model": {"kind": kind}}))
    run.save() if status == "running" else run.finish(status)
    return run.path


def at(hour):
    return f"2026-01-01T{hour:02d}:00:00.000Z"


def test_runs_come_newest_first_from_every_depth(tmp_path):
    old = make(tmp_path, started=at(1))
    job = make(tmp_path / "sweep" / "grid", started=at(3))
    judged = make(tmp_path, command="eval", started=at(2))
    assert [run.path for run in iter_runs(tmp_path)] == [job, judged, old]
    assert [run.path for run in iter_runs(tmp_path, "eval")] == [judged]
    assert list(iter_runs(tmp_path / "nowhere")) == []


def test_damaged_results_are_skipped_with_a_warning(tmp_path, caplog):
    good = make(tmp_path)
    for name, text in {"torn": '{"schema": "recsysml', "foreign": '{"results": {}}', "list": "[]"}.items():
        (tmp_path / "train" / name).mkdir()
        (tmp_path / "train" / name / "results.json").write_text(text)
    assert [run.path for run in iter_runs(tmp_path)] == [good]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 3
    assert "line 1, column 12" in "".join(warnings)


def test_last_is_the_newest_that_fits(tmp_path):
    make(tmp_path, started=at(1))
    wanted = make(tmp_path, started=at(2), status="interrupted")
    make(tmp_path, started=at(3), status="failed")
    make(tmp_path, started=at(4), status="running")
    make(tmp_path, started=at(5), kind="two_tower")
    make(tmp_path, started=at(6), command="eval")
    assert newest(tmp_path, kinds=["gpt"]).path == wanted
    assert newest(tmp_path, family="text").path == wanted
    assert resolve_checkpoint("last", tmp_path, kinds=["gpt"]) == wanted / "checkpoints" / "best"
    assert newest(tmp_path).kind == "two_tower"


def test_a_run_without_a_checkpoint_is_passed_over_aloud(tmp_path, caplog):
    wanted = make(tmp_path, started=at(1), checkpoints=("last",))
    empty = make(tmp_path, started=at(2), checkpoints=())
    assert resolve_checkpoint("last", tmp_path) == wanted / "checkpoints" / "last"
    assert f"{empty} has no checkpoint" in caplog.text


def test_no_fitting_run_is_one_line_that_names_what_is_there(tmp_path):
    with pytest.raises(ConfigError, match="no finished or interrupted train run"):
        resolve_checkpoint("last", tmp_path)
    other = make(tmp_path, kind="two_tower")
    with pytest.raises(ConfigError) as caught:
        resolve_checkpoint("last", tmp_path, family="text")
    assert str(other) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_by_run_directory_id_or_folder(tmp_path):
    path = make(tmp_path)
    best = path / "checkpoints" / "best"
    for name in (path, path.name, path / "checkpoints", best):
        assert resolve_checkpoint(str(name), tmp_path) == best
    assert resolve_checkpoint(str(path / "checkpoints" / "last"), tmp_path) == path / "checkpoints" / "last"


def test_a_checkpoint_is_named_with_what_must_be_known_of_its_run(tmp_path):
    whole = make(tmp_path) / "checkpoints" / "best"
    assert runs.describe_checkpoint(whole) == str(whole)
    stopped = make(tmp_path, status="interrupted") / "checkpoints" / "last"
    assert runs.describe_checkpoint(stopped) == f"{stopped} (its run is interrupted)"
    run = Run.create(tmp_path, "train", "gpt", argv=[], config={}, overrides=[], sweep="grid")
    job = run.path / "checkpoints" / "best"
    assert runs.describe_checkpoint(job) == f"{job} (its run is running, a job of the sweep grid)"
    run.finish("ok")
    assert runs.describe_checkpoint(job) == f"{job} (a job of the sweep grid)"
    assert runs.describe_checkpoint(tmp_path / "elsewhere") == str(tmp_path / "elsewhere")


def test_a_best_link_to_nothing_gives_last(tmp_path):
    path = make(tmp_path, checkpoints=("last",))
    (path / "checkpoints" / "best").symlink_to("step-00000100")
    assert resolve_checkpoint(str(path), tmp_path).name == "last"


def test_wrong_names_and_wrong_kinds_are_one_line(tmp_path):
    path = make(tmp_path)
    with pytest.raises(ConfigError) as caught:
        resolve_checkpoint(path.name[:-1] + "x", tmp_path)
    assert str(path) in str(caught.value)
    for name in (path, path / "checkpoints" / "best"):
        with pytest.raises(ConfigError, match="holds a model of kind gpt; this needs kind two_tower"):
            resolve_checkpoint(str(name), tmp_path, kinds=["two_tower"])
    with pytest.raises(ConfigError, match="has no checkpoint"):
        resolve_checkpoint(str(make(tmp_path, checkpoints=())), tmp_path)
    with pytest.raises(ConfigError, match=r"has no checkpoint .*; recsysml train --resume "):  # whatever kind it is
        resolve_checkpoint(str(make(tmp_path, checkpoints=())), tmp_path, kinds=["two_tower"])
    (path / "checkpoints" / "best" / "checkpoint.json").write_text("{")
    with pytest.raises(ConfigError, match=r"checkpoint\.json is damaged at line 1"):
        resolve_checkpoint(str(path / "checkpoints" / "best"), tmp_path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("metrics", []),
        ("run.status", "done"),
        ("run.seconds", "12"),
        ("metrics.val/loss", 4.0),
        ("metrics.val/loss.value", "4"),
        ("metrics.val/loss.value", True),
        ("metrics.val/loss.stderr", -1.0),
        ("metrics.val/loss.better", "up"),
    ],
)
def test_a_wrong_part_is_named(tmp_path, place, value):
    path = make(tmp_path) / "results.json"
    record = json.loads(path.read_text())
    record["metrics"] = {"val/loss": {"value": 4.0, "stderr": 0.1, "n": 3, "better": "lower"}}
    path.write_text(json.dumps(record))
    assert read_results(path) == record
    *way, last = place.split(".")
    part = record
    for key in way:
        part = part[key]
    part[last] = value
    path.write_text(json.dumps(record))
    with pytest.raises(ConfigError) as caught:
        read_results(path)
    assert f"{path} is damaged at {place}" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b'{"schema": NaN}', b"[" * 100_000, b"null"])
def test_no_content_gives_more_than_one_line(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_results(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_string_that_was_cut_off_is_named_in_whole_words(tmp_path):
    path = tmp_path / "results.json"
    path.write_text('{"schema": "recsys\n')
    with pytest.raises(ConfigError, match=r"line 1, column 19: Invalid control character$"):
        read_results(path)


def test_the_table_shows_every_run(tmp_path):
    ok, failed = make(tmp_path), make(tmp_path, "[red]x", status="failed")
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(runs.table(iter_runs(tmp_path)))
    text = console.export_text()
    assert ok.name in text
    assert failed.name in text
    assert "failed" in text
