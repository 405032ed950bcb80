"""lm_eval's own results files: read, paired, compared with ours, damage named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from recsysml.diff import BETTER, NOISE, REFUSED, WORSE, compare, main
from recsysml.errors import ConfigError
from recsysml.examples import question_id
from recsysml.results import Run

DATE = "2026-05-01T10-11-12.345678"


@pytest.fixture(autouse=True)
def quick_environment(monkeypatch):
    monkeypatch.setattr("recsysml.results.environment", lambda: {"python": "3"})


def harness(folder, scores, *, date=DATE, samples=True, **more):
    """A folder as lm_eval writes it: scores {task: {metric: (n,) values}}."""
    folder.mkdir(parents=True, exist_ok=True)
    results, counts = {}, {}
    for task, columns in scores.items():
        results[task] = {"alias": task, "sample_len": len(next(iter(columns.values())))}
        for metric, values in columns.items():
            results[task][f"{metric},none"] = float(values.mean())
            results[task][f"{metric}_stderr,none"] = float(stats.sem(values))
            counts[task] = {"original": len(values), "effective": len(values)}
        if samples:
            rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
            lines = [json.dumps({"doc_id": i, "filter": "none", "target": "x", **row}) for i, row in enumerate(rows)]
            (folder / f"samples_{task}_{date}.jsonl").write_text("\n".join(lines) + "\n")
    content = {
        "results": results,
        "versions": dict.fromkeys(scores, 1.0),
        "n-shot": dict.fromkeys(scores, 0),
        "n-samples": counts,
        "higher_is_better": {task: dict.fromkeys(columns, True) for task, columns in scores.items()},
        "config": {"model": "hf", "model_args": "pretrained=gpt2", "limit": None},
        "model_name": "gpt2",
        "lm_eval_version": "0.4.13",
    }
    path = folder / f"results_{date}.json"
    path.write_text(json.dumps({**content, **more}))
    return path


def columns(seed, gain=0.0, n=400):
    rng, shared = np.random.default_rng(seed), np.random.default_rng(99)
    acc = (shared.random(n) + 0.1 * rng.normal(size=n) < 0.5 + gain).astype(float)
    return {"acc": acc, "acc_norm": acc}


def test_two_harness_folders_are_paired_and_judged(tmp_path):
    left, right = columns(1), columns(2, 0.2)
    harness(tmp_path / "a" / "gpt2", {"arc_easy": left})
    harness(tmp_path / "b" / "gpt2", {"arc_easy": right})
    found = compare(tmp_path / "a", tmp_path / "b")
    assert [row.name for row in found.metrics] == ["lm/arc_easy/acc", "lm/arc_easy/acc_norm"]
    row = found.metrics[0]
    gained, lost = int((right["acc"] > left["acc"]).sum()), int((right["acc"] < left["acc"]).sum())
    assert (row.test, row.verdict, row.n) == ("exact McNemar", BETTER, 400)
    assert row.p == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)
    assert main(str(tmp_path / "b"), str(tmp_path / "a"), fail_on_regression=True) == 3


def test_without_samples_the_standard_errors_decide(tmp_path):
    left, right = columns(1), columns(2)
    paths = [harness(tmp_path / name, {"t": side}, samples=False) for name, side in (("a", left), ("b", right))]
    row = compare(*paths).metrics[0]
    z = (right["acc"].mean() - left["acc"].mean()) / np.hypot(stats.sem(left["acc"]), stats.sem(right["acc"]))
    assert (row.test, row.verdict) == ("two standard errors", NOISE)
    assert row.p == pytest.approx(2 * stats.norm.sf(abs(z)))


def test_tasks_that_differ_are_refused_one_by_one(tmp_path):
    scores = {"t": columns(1), "u": columns(2)}
    first = harness(tmp_path / "a", scores)
    for more, words in (
        ({"n-shot": {"t": 5, "u": 0}}, "num_fewshot 0 against 5"),
        ({"versions": {"t": 2.0, "u": 1.0}}, "version 1.0 against 2.0"),
    ):
        rows = {row.name: row for row in compare(first, harness(tmp_path / "b", scores, **more)).metrics}
        assert rows["lm/t/acc"].verdict == REFUSED
        assert words in rows["lm/t/acc"].reason
        assert rows["lm/u/acc"].verdict == NOISE
    hashed = [harness(tmp_path / name, scores, task_hashes={"t": name}) for name in ("c", "d")]
    assert "questions and prompts" in compare(*hashed).metrics[0].reason
    limited = harness(tmp_path / "e", scores, config={"limit": 10})
    assert all("different protocol: limit" in row.reason for row in compare(first, limited).metrics)
    shorter = harness(tmp_path / "f", {"t": columns(1, n=300)})
    assert compare(first, shorter).metrics[0].reason == "different examples: 400 against 300"


def test_our_run_against_a_harness_file(tmp_path):
    left, right = columns(1), columns(2, 0.2)
    run = Run.create(tmp_path, "eval", "x", argv=[], config={}, overrides=[])
    run.set_data("tasks", "d" * 64, {})
    run.set_protocol(split="test", context_length=1024)
    run.metric("lm/t/acc", left["acc"].mean(), stderr=0.02, n=400, better="higher", baseline=0.25)
    run.add_examples("lm/t/acc", [str(i) for i in range(400)], left["acc"])
    run.finish("ok")
    found = compare(run.path, harness(tmp_path / "theirs", {"t": right}))
    row = found.metrics[0]
    assert (row.test, row.verdict) == ("exact McNemar", BETTER)
    assert any("B does not say which data" in note for note in found.notes)
    assert compare(tmp_path / "theirs", run.path).metrics[0].verdict == WORSE


@pytest.mark.parametrize("listed", [False, True])
def test_our_run_and_a_harness_file_pair_where_both_asked_the_same(tmp_path, listed):
    """By number and prompt: what else the two files say of a document (ids, fields) does not matter."""
    left, right = columns(1, n=50), columns(2, 0.3, n=50)
    asked = [[(f"Question: {i}\nAnswer:", f" {word}") for word in ("yes", "no")] for i in range(50)]
    run = Run.create(tmp_path, "eval", "x", argv=[], config={}, overrides=[])
    run.set_data("t", "d" * 64, {}, tasks={"t": {"version": 1.0, "num_fewshot": 0}})
    run.metric("lm/t/acc", left["acc"].mean(), stderr=0.07, n=50, better="higher", baseline=0.5)
    ids = [question_id(i, [text for pair in pairs for text in pair]) for i, pairs in enumerate(asked)]
    run.add_examples("lm/t/acc", ids, left["acc"])
    run.finish("ok")
    path = harness(tmp_path / "theirs", {"t": right})
    samples = path.parent / f"samples_t_{DATE}.jsonl"

    def write(asked):
        lines = []
        for i, (pairs, value) in enumerate(zip(asked, right["acc"], strict=True)):
            named = {f"gen_args_{j}": {"arg_0": a, "arg_1": b} for j, (a, b) in enumerate(pairs)}
            row = {"doc_id": i, "doc": {"any": i}, "arguments": pairs if listed else named, "acc": value}
            lines.append(json.dumps(row))
        samples.write_text("\n".join(reversed(lines)))

    write(asked)
    row = next(row for row in compare(run.path, path).metrics if row.name == "lm/t/acc")
    gained, lost = int((right["acc"] > left["acc"]).sum()), int((right["acc"] < left["acc"]).sum())
    assert (row.test, row.n) == ("exact McNemar", 50)
    assert row.p == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)
    write([*asked[:-1], [("Question: other", " yes")]])
    row = next(row for row in compare(run.path, path).metrics if row.name == "lm/t/acc")
    assert (row.test, row.reason) == ("two standard errors", "the per-example scores are of different examples")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "n-shot": {"t": 5}}))
    row = next(row for row in compare(run.path, path).metrics if row.name == "lm/t/acc")
    assert (row.verdict, row.reason) == (REFUSED, "different task: num_fewshot 0 against 5")


def test_the_newest_file_of_a_folder_and_filters(tmp_path):
    harness(tmp_path, {"t": columns(1)}, date="2026-04-01T00-00-00.0")
    newest = harness(tmp_path, {"t": columns(2)})
    found = compare(tmp_path, newest)
    assert (found.a, found.b) == (str(newest), str(newest))
    assert "newest of 2" in found.notes[0]
    content = json.loads(newest.read_text())
    content["results"]["g"] = {"exact_match,strict": 0.5, "exact_match_stderr,strict": "N/A", "perplexity,none": 9.0}
    newest.write_text(json.dumps(content))
    rows = {row.name: row for row in compare(newest, newest).metrics}
    assert rows["lm/g/exact_match,strict"].verdict == REFUSED
    assert rows["lm/g/perplexity"].better == "lower"


def test_damage_is_named(tmp_path):
    path = harness(tmp_path, {"t": columns(1)})
    whole = json.loads(path.read_text())
    for change, words in (
        ({"n-shot": [1]}, "damaged at n-shot"),
        ({"results": {"t": 3}}, r"damaged at results\.t"),
        ({"results": {"t": {"acc,none": "high"}}}, r"damaged at results\.t\.acc,none"),
    ):
        path.write_text(json.dumps({**whole, **change}))
        with pytest.raises(ConfigError, match=words):
            compare(path, path)
    for number in ("NaN", "-Infinity", "1e999"):
        path.write_text(json.dumps(whole).replace('"acc_stderr,none": ', f'"acc_stderr,none": {number}, "x": '))
        with pytest.raises(ConfigError, match=r"not strict JSON: it holds (nan|-?inf) at results\.t\.acc_stderr,none"):
            compare(path, path)
    path.write_text(json.dumps(whole))
    samples = tmp_path / f"samples_t_{DATE}.jsonl"
    samples.write_text('{"doc_id": 1, "acc": 1.0}\n{"doc_id": 2, "acc": NaN}')
    with pytest.raises(ConfigError, match=r"samples_t.*damaged at line 2: it holds NaN"):
        compare(path, path)
    samples.write_text('{"doc_id": 1}\n{"doc')
    with pytest.raises(ConfigError, match=r"samples_t.*damaged at line 2"):
        compare(path, path)


@pytest.mark.slow
def test_a_file_that_the_harness_itself_wrote(tmp_path, monkeypatch):
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"q": f"Question {i}", "choices": ["yes", "no"], "gold": i % 2} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "toy.yaml").write_text(f"""
task: toy
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "rows.jsonl"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: choices
doc_to_target: gold
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
""")
    manager = TaskManager(include_defaults=False, include_path=str(tmp_path))
    said = {}
    for name in ("a", "b"):
        found = lm_eval.simple_evaluate("dummy", tasks=["toy"], task_manager=manager, log_samples=True)
        tracker = EvaluationTracker(output_path=str(tmp_path / name))
        tracker.general_config_tracker.model_name_sanitized = "dummy"
        samples = found.pop("samples")
        said[name] = found["results"]["toy"]
        tracker.save_results_aggregated(found, samples)
        tracker.save_results_samples("toy", samples["toy"])
    comparison = compare(tmp_path / "a", tmp_path / "b")
    assert {row.name for row in comparison.metrics} == {"lm/toy/acc", "lm/toy/acc_norm"}
    for row in comparison.metrics:
        metric = row.name.rpartition("/")[2]
        assert (row.a, row.b) == (said["a"][f"{metric},none"], said["b"][f"{metric},none"])
        assert (row.test, row.n) == ("exact McNemar", 40)
