"""Task YAML of a user: broken files by line, code refused, data files found."""

from __future__ import annotations

import pytest

from recsysml.data import task_files
from recsysml.errors import ConfigError, DataError

LOCAL = "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {train: t.jsonl, test: rows.jsonl}}\n"
SPLITS = "training_split: train\ntest_split: test\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("RECSYSML_DATA", raising=False)
    path = tmp_path / "own"
    path.mkdir()
    return path


def test_ours_are_there():
    assert {"arc_easy", "piqa", "hellaswag", "heldout", "gsm8k_local"} <= set(task_files.index())
    assert all(file.own for file in task_files.index().values())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("task: mine\nmetric_list: [a\nb: c\n", "mine.yaml line 3"),
        ("- a\n", "no table of keys"),
        ("task: mine\ninclude: mine.yaml\n", "includes itself"),
        ("task: mine\ninclude: gone.yaml\n", "cannot be read"),
        ("task: mine\nmetric_list:\n  - metric: !function utils.f\n", "runs code"),
        ("task: mine\ninclude: part.inc\n", "runs code"),
        ("task: mine\nclass: !function utils.T\n", "runs code"),
        ("task: mine\ndoc_to_text: \"{{ ''.__class__ }}\"\n", "reaches into Python"),
        ("task: mine\nx: !!python/object/apply:os.system ['true']\n", "mine.yaml line 2"),
    ],
)
def test_a_file_that_is_broken_or_runs_code(folder, text, words):
    (folder / "mine.yaml").write_text(text)
    (folder / "part.inc").write_text("process_docs: !function utils.f\n")
    with pytest.raises(ConfigError, match=words):
        task_files.index(str(folder), wanted=["mine"])


BROKEN = "task: named\nmetric_list: [a\nb: c\n"


def test_a_broken_file_stops_only_what_needs_it(folder, caplog):
    (folder / "broken.yaml").write_text(BROKEN)
    (folder / "mine.yaml").write_text("task: mine\n")
    (folder / "group.yaml").write_text("group: both\ntask: [mine, {group: inner, task: [{task: named}]}]\n")
    (folder / "outer.yaml").write_text("group: outer\ntask: [both]\n")
    for _ in range(2):
        assert {"mine", "both", "piqa"} <= set(task_files.index(str(folder), wanted=["mine", "piqa", "winogrande"]))
    assert caplog.text.count("broken.yaml line 3") == 1  # said once
    for name in ("named", "broken", "both", "outer"):
        with pytest.raises(ConfigError, match=r"broken.yaml line 3"):
            task_files.index(str(folder), wanted=["mine", name])
    (folder / "broken.yaml").write_text(BROKEN.replace("named", "piqa"))  # which would take the place of ours
    (folder / "group.yaml").write_text("group: both\ntask: [mine, piqa]\n")
    task_files.index(str(folder), wanted=["mine"])
    for name in ("piqa", "both"):
        with pytest.raises(ConfigError, match=r"broken.yaml line 3"):
            task_files.index(str(folder), wanted=[name])


def test_a_tag_is_the_tasks_that_have_it(folder):
    for name, tag in (("a", "[x, y]"), ("b", "x"), ("c", "y")):
        (folder / f"{name}.yaml").write_text(f"task: {name}\ntag: {tag}\n")
    known = task_files.index(str(folder))
    assert task_files.expand(["piqa", "x", "a", "winogrande", "y"], known) == ["piqa", "a", "b", "winogrande", "c"]
    (folder / "broken.yaml").write_text("tag: x\na: [b\nc: d\n")
    task_files.index(str(folder), wanted=["y"])
    with pytest.raises(ConfigError, match=r"broken\.yaml line 3"):
        task_files.index(str(folder), wanted=["x"])


def test_code_in_a_file_that_lm_eval_alone_can_read_does_not_run_through_a_group(folder):
    text = "task: mine\nprocess_docs: !function utils.f\n"
    (folder / "coded.yaml").write_bytes(text.encode("utf-16"))
    (folder / "group.yaml").write_text("group: both\ntask: [mine]\n")
    with pytest.raises(ConfigError, match=r"coded\.yaml cannot be read"):
        task_files.index(str(folder), wanted=["both"])


def test_code_that_is_trusted(folder):
    (folder / "mine.yaml").write_text("task: mine\nprocess_docs: !function utils.f\n")
    assert task_files.index(str(folder), trust=True)["mine"].content["process_docs"] == "!function utils.f"


def test_a_users_task_replaces_ours(folder):
    (folder / "a.yaml").write_text("task: piqa\n")
    assert not task_files.index(str(folder))["piqa"].own


def test_data_files_are_found_beside_the_yaml_and_under_the_data_folder(folder, tmp_path, monkeypatch):
    (folder / "mine.yaml").write_text(LOCAL + SPLITS)
    file = task_files.index(str(folder))["mine"]
    with pytest.raises(DataError, match=r"tasks=mine: its questions, rows.jsonl, are not beside mine.yaml"):
        task_files.locate("mine", file)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text("{}\n")
    monkeypatch.setenv("RECSYSML_DATA", str(tmp_path / "data"))
    found = task_files.locate("mine", file)
    assert found.overrides["dataset_kwargs"]["data_files"] == {"test": str(tmp_path / "data" / "rows.jsonl")}
    assert found.overrides["training_split"] is None  # the training file is nowhere
    (folder / "rows.jsonl").write_text("{}\n")
    (folder / "t.jsonl").write_text("{}\n")
    found = task_files.locate("mine", file)
    assert found.overrides["dataset_kwargs"]["data_files"]["test"] == str(folder / "rows.jsonl")
    assert "training_split" not in found.overrides


def test_a_task_of_the_hub_has_no_local_files(folder):
    (folder / "mine.yaml").write_text("task: mine\ndataset_path: some/where\n")
    assert task_files.locate("mine", task_files.index(str(folder))["mine"]) is None


@pytest.mark.parametrize("reachable", [True, False])
def test_the_hub_stands_in_where_it_has_the_questions_and_can_be_reached(reachable, monkeypatch, tmp_path):
    monkeypatch.delenv("RECSYSML_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(task_files, "hub_reachable", lambda: reachable)
    known = task_files.index()
    for name, file in (("arc_easy", "arc_easy/test.jsonl"), ("gsm8k_local", "gsm8k/test.jsonl")):
        with pytest.raises(task_files.Missing, match=rf"the folder that holds {file}$") as missing:
            task_files.locate(name, known[name])
        if name == "arc_easy" and reachable:
            task_files.check_hub_instead(name, known[name], missing.value)
            continue
        with pytest.raises(task_files.Missing, match=f"tasks={name}: its questions, {file}") as said:
            task_files.check_hub_instead(name, known[name], missing.value)
        assert ("hub" in str(said.value)) == (name == "arc_easy")
    (tmp_path / "arc_easy").mkdir()  # the file that was asked for, where it was asked for
    (tmp_path / "arc_easy" / "test.jsonl").write_text("{}\n")
    assert task_files.locate("arc_easy", known["arc_easy"]).asked == [tmp_path / "arc_easy" / "test.jsonl"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ('{"a": 1}\n{bad\n', "rows.jsonl line 2 is not JSON"),
        ('{"a": 1}\n[1]\n', "rows.jsonl line 2 holds no JSON object"),
        ("\n", "rows.jsonl holds no questions"),
    ],
)
def test_broken_questions_are_named_with_their_line(folder, rows, words):
    (folder / "mine.yaml").write_text(LOCAL + SPLITS)
    (folder / "rows.jsonl").write_text(rows)
    with pytest.raises(DataError, match=words):
        task_files.locate("mine", task_files.index(str(folder))["mine"])


def test_a_local_task_names_its_files(folder):
    (folder / "mine.yaml").write_text("task: mine\ndataset_path: json\ntest_split: test\n")
    with pytest.raises(DataError, match="names no files"):
        task_files.locate("mine", task_files.index(str(folder))["mine"])


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ("test_split: tset\n", "asks the split tset; its data_files are of train, test$"),
        ("training_split: train\n", "says neither test_split nor validation_split"),
    ],
)
def test_a_split_that_no_file_has_is_not_looked_for(folder, splits, words):
    (folder / "mine.yaml").write_text(LOCAL + splits)
    (folder / "rows.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=words) as said:
        task_files.locate("mine", task_files.index(str(folder))["mine"])
    assert not isinstance(said.value, task_files.Missing)
