"""`recsysml eval` with tasks, from the command line to the table, on tiny models of transformers: offline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from recsysml.cli import main
from recsysml.data.tokenizers import train_bpe
from recsysml.models import hf_tokenizer

WORDS = ["fire", "ice", "snow", "rain", "wind", "sun"]
TEXT = "which of fire ice snow rain wind and sun is warm or cold or wet\n" * 40
FUNCTION = "task: coded\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n"
FUNCTION += (
    "output_type: multiple_choice\ndoc_to_text: !function own.text\ndoc_to_target: gold\ndoc_to_choice: choices\n"
)
FUNCTION += "metric_list:\n  - {metric: acc, aggregation: mean, higher_is_better: true}\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    tokenizer = train_bpe([TEXT], 280)
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        config = transformers.GPT2Config(
            vocab_size=tokenizer.vocab_size, n_positions=64, n_embd=16, n_layer=1, n_head=2, eos_token_id=tokenizer.eot
        )
        transformers.GPT2LMHeadModel(config).save_pretrained(folder / name)
        hf_tokenizer.write_tokenizer(tokenizer, folder / name, 64)
    return folder


@pytest.fixture(autouse=True)
def questions(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYSML_DATA", str(tmp_path / "data"))
    rows = [{"query": f"Question: {w} is?", "choices": WORDS[i % 3 : i % 3 + 4], "gold": i % 4} for i, w in
            enumerate(WORDS * 2)]  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    for name in ("data/arc_easy/test.jsonl", "own/task/rows.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(lines)
    (tmp_path / "own" / "task" / "coded.yaml").write_text(FUNCTION)
    (tmp_path / "own" / "task" / "own.py").write_text("def text(doc):\n    return doc['query']\n")
    return tmp_path


def test_several_models_are_one_table(models, own_outputs, capsys):
    command = ["eval", "-m", "model=hf", f"model.path={models / 'one'},{models / 'two'}", "tasks=[arc_easy]"]
    command += ["device=cpu", "tracker.mode=disabled"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in shown.splitlines() if line.startswith(("one ", "two "))}
    (sweep,) = (own_outputs / "sweep").iterdir()
    jobs = json.loads((sweep / "sweep.json").read_text())["jobs"]
    for name, job in zip(("one", "two"), jobs, strict=True):
        record = json.loads((sweep / job["path"] / "results.json").read_text())
        metric = record["metrics"]["lm/arc_easy/acc_norm"]
        assert (metric["n"], metric["baseline"]) == (12, 0.25)
        assert metric["at_chance"] == (abs(metric["value"] - 0.25) <= 2 * metric["stderr"])
        assert f"{metric['value']:.4f}" in rows[name]
        assert record["model"] | {"parameters": 0} == {"name": name, "kind": "hf", "parameters": 0, "trainable": 0}
        assert record["data"]["sizes"] == {"arc_easy": 12}
        assert (sweep / job["path"] / "examples.parquet").is_file()
    assert "published: gpt2-xl" in shown
    assert "0.5829" in shown
    assert main(command) == 0
    assert capsys.readouterr().out.count("done before") == 2


def test_the_harnesss_catalogue_is_not_read_for_local_questions(models, own_outputs, monkeypatch):
    """Its 10,000 files take it seconds, whatever is asked."""
    from recsysml.evals import lm_harness

    read, plain = [], lm_harness.TaskManager

    def manager(**given):
        read.append(given.get("include_defaults", True))
        return plain(**given)

    monkeypatch.setattr(lm_harness, "TaskManager", manager)
    words = ["model=hf", f"model.path={models / 'one'}", "tasks=arc_easy", "device=cpu", "tracker.mode=disabled"]
    assert main(["eval", *words]) == 0
    assert read == [False]


def test_code_in_a_users_folder_runs_only_when_it_is_trusted(models, questions, own_outputs, capsys):
    command = ["eval", "model=hf", f"model.path={models / 'one'}", "tasks=coded", "device=cpu", "tracker.mode=disabled"]
    command += ["--config-dir", str(questions / "own")]
    assert main(command) == 2
    assert "it runs code (!function own.text); if you trust it, add --trust" in capsys.readouterr().err
    assert not own_outputs.exists()
    assert main([*command, "--trust", "limit=5"]) == 0
    assert "lm/coded/acc" in capsys.readouterr().out
    (run,) = (Path(own_outputs) / "eval").iterdir()
    assert json.loads((run / "results.json").read_text())["metrics"]["lm/coded/acc"]["n"] == 5


def test_a_missing_table_of_questions_is_named_before_anything_is_written(models, questions, own_outputs, capsys):
    command = ["eval", "model=hf", f"model.path={models / 'one'}", "device=cpu"]
    assert main([*command, "tasks=arc_easy,piqa"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "piqa/validation.jsonl" in error
    assert main([*command, "tasks=arc_easy", "data.val_fraction=2"]) == 2  # no run stands behind what is typed of data
    assert "data.val_fraction=2" in capsys.readouterr().err
    assert not own_outputs.exists()


@pytest.mark.slow  # reads the harness's whole catalogue
def test_questions_that_only_the_hub_has_are_one_line_without_a_network(models, own_outputs, capsys):
    assert main(["eval", "model=hf", f"model.path={models / 'one'}", "device=cpu", "tasks=winogrande"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "winogrande" in error and "the Hugging Face hub cannot be reached" in error
    assert not own_outputs.exists()


def test_answers_with_retrieved_text(models, questions, own_outputs, capsys, monkeypatch):
    monkeypatch.chdir(questions)
    (questions / "facts.txt").write_text("fire is warm and snow is cold. " * 20)
    (questions / "asked.jsonl").write_text(json.dumps({"question": "what is fire?", "answer": "warm"}) + "\n")
    command = ["eval", "model=hf", f"model.path={models / 'one'}", "device=cpu", "tracker.mode=disabled"]
    assert main([*command, "eval=language"]) == 2
    assert "give tasks=" in capsys.readouterr().err
    assert main([*command, "eval=rag", "eval.documents=facts.txt"]) == 2
    assert "eval.questions" in capsys.readouterr().err
    command += ["eval=rag", "eval.documents=facts.txt", "eval.questions=asked.jsonl", "eval.chunk_words=7"]
    assert main([*command, "eval.max_new_tokens=4"]) == 0
    assert "lm/rag/context_recall 1.0000" in capsys.readouterr().out
    (run,) = (own_outputs / "eval").iterdir()
    record = json.loads((run / "results.json").read_text())
    assert record["metrics"]["lm/rag/answer_relevance"]["n"] == 1
    assert (run / "samples.jsonl").is_file()
