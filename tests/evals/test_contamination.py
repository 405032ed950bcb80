"""Contamination: planted questions are found, the others are not, and the scores are split as numpy splits them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

from recsysml import sections
from recsysml.cli import main
from recsysml.config import compose
from recsysml.errors import ConfigError
from recsysml.evals.contamination import overlap, record
from recsysml.examples import read_examples
from recsysml.job import to_dict
from recsysml.results import Run
from recsysml.runs import read_results
from recsysml.schemas.evals import ContaminationEvalConfig


def question(rng, n=30):
    return " ".join(f"w{i}" for i in rng.integers(0, 5000, n))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_planted_questions_are_found_and_no_others(seed):
    rng = np.random.default_rng(seed)
    tasks = {name: [(f"q{i}", question(rng)) for i in range(50)] for name in ("a", "b")}
    planted = {name: set(rng.choice(50, 5, replace=False).tolist()) for name in tasks}
    texts = [question(rng, 500) for _ in range(40)]
    for name, chosen in planted.items():
        for i in chosen:  # a part of it, in other letters and punctuation
            words = tasks[name][i][1].upper().split()[8:23]
            texts.insert(int(rng.integers(len(texts))), "said: " + ", ".join(words) + "!")
    found = overlap(tasks, [" \0 ".join(texts)], (13, 8))
    for name, one in found.items():
        assert set(np.flatnonzero(one.touched[13]).tolist()) == planted[name]
        assert set(np.flatnonzero(one.touched[8]).tolist()) == planted[name]
        assert not one.short[13].any()
        for i in planted[name]:
            assert one.share[13][i] == pytest.approx(3 / 18)  # 15 words of 30: 3 of its 18 13-grams
            assert one.share[8][i] == pytest.approx(8 / 23)
            assert one.words[i] in tasks[name][i][1]


@pytest.mark.parametrize("by_row", [False, True])
def test_scores_of_clean_and_touched_stand_side_by_side(tmp_path, by_row):
    rng = np.random.default_rng(4)
    questions = [(f"q{i}", question(rng)) for i in range(200)] + [("short", "too short")]
    text = " ".join(words for _, words in questions[:60])
    found = overlap({"t": questions}, [text], (13, 8))
    values = (rng.random(201) < np.where(np.arange(201) < 60, 0.9, 0.4)).astype(float)
    order = rng.permutation(201)
    scores = {
        "lm/t/acc": (np.array([f"{i}:5f3a" if by_row else questions[i][0] for i in order]), values[order]),
        "lm/other/acc": (np.array(["q1"]), np.ones(1)),
    }
    run = Run.create(tmp_path, "eval", "x", argv=[], config={}, overrides=[])
    record(run, found, scores, {"lm/t/acc": {"baseline": 0.25, "better": "higher"}})
    run.finish("ok")
    metrics = read_results(run.path / "results.json")["metrics"]
    share = metrics["contamination/t/touched@13"]
    assert (share["value"], share["n"], share["better"]) == (pytest.approx(60 / 201), 201, "lower")
    assert share["stderr"] == pytest.approx(stats.sem(np.arange(201) < 60))
    clean, touched = (metrics[f"contamination/t/acc_{word}@13"] for word in ("clean", "touched"))
    assert (touched["value"], touched["n"]) == (pytest.approx(values[:60].mean()), 60)
    assert (clean["value"], clean["n"], clean["baseline"]) == (pytest.approx(values[60:].mean()), 141, 0.25)
    assert clean["stderr"] == pytest.approx(stats.sem(values[60:]))
    assert not [name for name in metrics if "other" in name]
    ids, marks = read_examples(run.path / "examples.parquet")["contamination/t/touched@13"]
    assert set(ids[marks == 1]) == {f"q{i}" for i in range(60)}
    section = sections.read(run.path / "sections" / "contamination.json")
    overview, compared, shown = section["parts"]
    assert overview["rows"] == [["t", 201, 60, 1, 60, 1]]
    p = 2 * stats.norm.sf((touched["value"] - clean["value"]) / np.hypot(touched["stderr"], clean["stderr"]))
    assert compared["rows"][0][-1] == pytest.approx(p)
    assert len(shown["rows"]) == 60
    rows = [json.loads(line) for line in (run.path / "contamination.jsonl").read_text().splitlines()]
    assert {row["id"] for row in rows} == {f"q{i}" for i in range(60)}
    assert rows[0]["share@13"] == 1.0


@pytest.fixture
def trained(tmp_path, own_outputs, monkeypatch):
    """A run that was trained on a text that holds every second question, and the questions' file."""
    rng = np.random.default_rng(5)
    questions = [question(rng) for _ in range(20)]
    text = "\n".join(line for asked in questions[::2] for line in (question(rng, 200), asked))
    (tmp_path / "book.txt").write_text(text + "\n" + question(rng, 2000))
    lines = [json.dumps({"id": f"q{i}", "query": asked, "gold": 0}) for i, asked in enumerate(questions)]
    (tmp_path / "asked.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    words = ["model=gpt2", "data=text", "data.path=[book.txt]", "data.tokenizer=bytes", "data.test_fraction=0"]
    config = compose(words)
    run = Run.create(own_outputs, "train", "gpt2", argv=[], config=to_dict(config), overrides=words)
    run.set_model("gpt2", "gpt", 1, 1)
    run.finish("ok")
    folder = run.path / "checkpoints" / "best"  # no weights: the model itself is not asked
    folder.mkdir(parents=True)
    described = {"name": "gpt2", "kind": "gpt", "config": dataclasses.asdict(config.model), "vocab_size": 257}
    (folder / "checkpoint.json").write_text(json.dumps({"model": described}))
    return tmp_path


def test_the_command_from_a_trained_model_to_the_report(trained, own_outputs, capsys):
    words = ["eval", "eval=contamination", "checkpoint=last", "eval.questions=mine:asked.jsonl"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "contamination/mine/touched@13 0.5000" in said
    (found,) = (own_outputs / "eval").iterdir()
    results = read_results(found / "results.json")
    assert results["protocol"]["split"] == "train"
    ids, marks = read_examples(found / "examples.parquet")["contamination/mine/touched@13"]
    assert {name for name, mark in zip(ids, marks, strict=True) if mark} == {f"q{i}" for i in range(0, 20, 2)}
    scored = Run.create(own_outputs, "eval", "x", argv=[], config={}, overrides=[])
    values = np.arange(20) % 2.0
    scored.metric("lm/mine/acc", 0.5, stderr=0.1, n=20, better="higher", baseline=0.25)
    scored.add_examples("lm/mine/acc", [f"q{i}" for i in range(20)], values)
    scored.finish("ok")
    assert main([*words, f"eval.scores={scored.path}"]) == 0
    said = capsys.readouterr().out
    assert "contamination/mine/acc_clean@13 1.0000" in said
    assert "contamination/mine/acc_touched@13 0.0000" in said
    assert main(["report", str(own_outputs)]) == 0
    assert "questions found in the training text" in (own_outputs / "report.html").read_text()


def test_mistakes_cost_nothing(trained, own_outputs, capsys, monkeypatch):
    monkeypatch.delenv("RECSYSML_DATA", raising=False)
    before = sorted(own_outputs.rglob("results.json"))
    for words, said in (
        (["eval", "eval=contamination"], "name tasks, such as tasks=arc_easy,piqa, or files"),
        (["eval", "eval=contamination", "tasks=arc_esy"], "Did you mean: arc_easy?"),
        (["eval", "eval=contamination", "tasks=winogrande"], "the Hugging Face hub cannot be reached"),
        (["eval", "eval=contamination", "tasks=piqa"], "set RECSYSML_DATA to the folder that holds piqa/"),
        (["eval", "eval=contamination", "tasks=heldout", "eval.questions=heldout:asked.jsonl"], "name it once"),
        (["eval", "eval=contamination", "tasks=heldout", "eval.scores=gone", "limit=3"], "eval that eval.scores names"),
        (["eval", "-m", "eval=contamination", "tasks=heldout"], "one at a time, without -m"),
        (["eval", "eval=contamination", "eval.questions=a:gone.jsonl"], "there is no file gone.jsonl"),
        (["eval", "eval=contamination", "eval.questions=asked.jsonl", "eval.scores=gone"], "no examples.parquet"),
        (["eval", "eval=contamination", "eval.ngram=5"], "more than eval.short_ngram"),
        (["train", "eval=contamination"], "belongs to `recsysml eval`"),
    ):
        assert main(words) == 2, words
        assert said in capsys.readouterr().err
    assert sorted(own_outputs.rglob("results.json")) == before


TINY = [
    "model=gpt2", "model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.context_length=64", "data=text",
    "data.path=[book.txt]", "data.tokenizer=bytes", "data.val_fraction=0.3", "data.test_fraction=0",
    "trainer.max_steps=1", "trainer.batch_size=2", "trainer.warmup_steps=1", "trainer.compile=false",
    "trainer.sample_tokens=0", "device=cpu", "threads=1", "tracker.mode=disabled",
]  # fmt: skip


def test_tasks_by_name_are_asked_and_their_scores_split(tmp_path, own_outputs, monkeypatch, capsys):
    """Rows 0, 3, 6, ... of a task stand in the text; the scores are those of the eval that the command ran first."""
    rng = np.random.default_rng(6)
    rows = [{"goal": question(rng), "sol1": "this", "sol2": "that", "label": i % 2} for i in range(12)]
    (tmp_path / "data" / "piqa").mkdir(parents=True)
    (tmp_path / "data" / "piqa" / "valid.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    planted = "\n".join(row["goal"] for row in rows[::3])
    (tmp_path / "book.txt").write_text(planted + "\n" + "\n".join(question(rng, 200) for _ in range(30)))
    monkeypatch.setenv("RECSYSML_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    assert main(["train", *TINY]) == 0
    words = ["eval", "eval=contamination", "checkpoint=last", "tasks=piqa,heldout", "device=cpu"]
    assert main([*words, "tracker.mode=disabled"]) == 0
    scored, found = sorted((own_outputs / "eval").iterdir(), key=lambda path: path.stat().st_mtime)
    metrics = read_results(found / "results.json")["metrics"]
    assert metrics["contamination/piqa/touched@13"]["value"] == pytest.approx(4 / 12)
    assert metrics["contamination/heldout/touched@13"]["value"] == 0  # asked from the validation text
    ids, acc = read_examples(scored / "examples.parquet")["lm/piqa/acc"]
    rows_of = np.array([int(name.partition(":")[0]) for name in ids])
    for word, chosen in (("clean", rows_of % 3 != 0), ("touched", rows_of % 3 == 0)):
        entry = metrics[f"contamination/piqa/acc_{word}@13"]
        assert (entry["value"], entry["n"]) == (pytest.approx(acc[chosen].mean()), chosen.sum())
    assert metrics["contamination/heldout/bits_per_byte_clean@13"]["better"] == "lower"
    capsys.readouterr()
    assert main([*words, "tracker.mode=disabled", "limit=5"]) == 0  # questions asked; all are looked for
    newest = max((own_outputs / "eval").iterdir(), key=lambda path: path.stat().st_mtime)
    metrics = read_results(newest / "results.json")["metrics"]
    assert metrics["contamination/piqa/touched@13"]["n"] == 12
    assert metrics["contamination/piqa/acc_clean@13"]["n"] == 3


TABLE = """
task: mine
dataset_path: csv
dataset_kwargs: {data_files: {test: mine.csv}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{asked}}"
doc_to_choice: ["this", "that"]
doc_to_target: 0
"""


def test_questions_that_only_lm_eval_can_read_are_looked_for_too(tmp_path, own_outputs, monkeypatch):
    """Rows of a table: 1, 4, 7 and 10 stand in the text."""
    rng = np.random.default_rng(7)
    asked = [question(rng) for _ in range(12)]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.yaml").write_text(TABLE)
    (tmp_path / "own" / "mine.csv").write_text("asked\n" + "\n".join(asked) + "\n")
    (tmp_path / "book.txt").write_text("\n".join([*asked[1::3], *(question(rng, 200) for _ in range(30))]))
    monkeypatch.chdir(tmp_path)
    assert main(["train", *TINY]) == 0
    words = ["eval", "eval=contamination", "checkpoint=last", "tasks=mine", "eval.task_folder=own", "device=cpu"]
    assert main([*words, "tracker.mode=disabled"]) == 0
    found = max((own_outputs / "eval").iterdir(), key=lambda path: path.stat().st_mtime)
    ids, marks = read_examples(found / "examples.parquet")["contamination/mine/touched@13"]
    assert {name for name, mark in zip(ids, marks, strict=True) if mark} == {"1", "4", "7", "10"}
    assert read_results(found / "results.json")["metrics"]["contamination/mine/acc_touched@13"]["n"] == 4


def test_a_question_file_names_its_task():
    def files(*words):
        config = ContaminationEvalConfig(questions=list(words))
        config.validate()
        return config.files()

    assert files("arc:a/b.jsonl", "x/piqa.valid.jsonl.gz") == [("arc", "a/b.jsonl"), ("piqa", "x/piqa.valid.jsonl.gz")]
    for words in (["a/b:x"], [":x"], ["a:x", "b/a.jsonl"]):
        with pytest.raises(ConfigError, match="names no task of its own"):
            files(*words)
