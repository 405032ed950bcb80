"""lm_eval's tasks on our models, against lm_eval's own evaluator, its own Hugging Face model and its own task files."""

from __future__ import annotations

import copy
import dataclasses
import gzip
import json
import math
from pathlib import Path
from types import SimpleNamespace

import datasets
import lm_eval
import numpy as np
import pytest
import torch
import transformers
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from recsysml.data.tokenizers import train_bpe
from recsysml.diff import NOISE, compare
from recsysml.engine import opening
from recsysml.engine.answering import Answerer, windows
from recsysml.engine.device import Machine
from recsysml.errors import DataError, JobError
from recsysml.evals import lm_harness
from recsysml.files import data_dir
from recsysml.models import hf_tokenizer
from recsysml.results import Run

CPU = Machine(torch.device("cpu"), "fp32")
TEXT = "the cat sat on the mat and the dog ran to the cat while a bird sang of rain and 12 apples\n" * 30
needs_data = pytest.mark.skipif(
    not (data_dir() and (data_dir() / "hellaswag").is_dir()), reason="RECSYSML_DATA does not hold the real questions"
)
NOUNS = ("cat", "dog", "mat", "bird", "rain", "apples")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random GPT-2 made by transformers, with a tokenizer of its own."""
    path = tmp_path_factory.mktemp("tiny")
    tokenizer = train_bpe([TEXT], 300)
    torch.manual_seed(3)
    config = transformers.GPT2Config(
        vocab_size=tokenizer.vocab_size, n_positions=48, n_embd=32, n_layer=2, n_head=2, bos_token_id=tokenizer.eot,
        eos_token_id=tokenizer.eot,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    for p in model.parameters():  # far from uniform
        p.data.add_(0.1 * torch.randn_like(p))
    model.save_pretrained(path)
    hf_tokenizer.write_tokenizer(tokenizer, path, 48)
    return path


@pytest.fixture(scope="module")
def opened(folder):
    return opening.open_language_model(folder)


@pytest.fixture(scope="module")
def theirs(folder):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder), device="cpu", batch_size=4, dtype="float32")


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory):
    """One task of every kind, over local lines."""
    path = tmp_path_factory.mktemp("own tasks")
    random = np.random.default_rng(4)
    rows = []
    for i in range(14):
        words = random.permutation(NOUNS)
        choices = [f"the {word}" for word in words[: 3 + i % 2]]
        question = " ".join(random.choice(NOUNS, size=3 + 5 * (i % 4)))  # some are too long for the context
        rows.append({"question": question, "choices": choices, "label": int(random.integers(3)), "text": question})
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    head = "dataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n"
    choice = "doc_to_target: label\ndoc_to_choice: choices\nmetric_list:\n" + "".join(
        f"  - {{metric: {name}, aggregation: mean, higher_is_better: true}}\n" for name in ("acc", "acc_norm")
    )
    bodies = {
        "own_choice": f'output_type: multiple_choice\ndoc_to_text: "Q: {{{{question}}}}\\nA:"\n{choice}',
        "own_rolling": 'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{text}}"\nmetric_list:\n'
        "  - metric: bits_per_byte\n  - metric: word_perplexity\n",
        "own_text": 'output_type: generate_until\ndoc_to_text: "{{text}}"\ndoc_to_target: "the cat"\n'
        "generation_kwargs: {until: [' rain', '\\n'], max_gen_toks: 8, do_sample: false}\n"
        "metric_list:\n  - {metric: exact_match, aggregation: mean, higher_is_better: true}\n",
        "own_last": 'output_type: loglikelihood\ndoc_to_text: "{{text}}"\ndoc_to_target: " {{choices[0]}}"\n'
        "metric_list:\n  - metric: perplexity\n  - {metric: acc, aggregation: mean, higher_is_better: true}\n",
    }
    for name, body in bodies.items():
        (path / f"{name}.yaml").write_text(f"task: {name}\n{head}{body}")
    return path


def answerer(opened, **options):
    return lm_harness.LanguageModel(Answerer(opened, CPU, use_cache=False, **options))


@pytest.mark.parametrize("num_fewshot", [0, 2])
def test_scores_are_those_of_lm_evals_evaluator_and_of_its_own_model(opened, theirs, task_folder, num_fewshot):
    names = ["own_choice", "own_rolling", "own_text", "own_last"]
    names = names if num_fewshot == 0 else names[:1]
    tasks = lm_harness.load(names, task_folder=str(task_folder), num_fewshot=num_fewshot)
    ours = {metric.name: metric for metric in lm_harness.judge(answerer(opened), tasks).metrics}
    again = lm_harness.load(names, task_folder=str(task_folder), num_fewshot=num_fewshot)
    for task in again.tasks.values():
        task.set_fewshot_seed(1234)
    expected = lm_eval.evaluate(theirs, {"tasks": again.tasks}, bootstrap_iters=100)["results"]
    for name in names:
        for key, value in expected[name].items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            own = ours[f"lm/{name}/{metric}"]
            assert own.value == pytest.approx(value, rel=1e-4), (name, metric)
            error = expected[name][f"{metric}_stderr,{filtered}"]
            if own.scores is not None and metric != "bits_per_byte":
                assert own.stderr == pytest.approx(error)
                assert own.scores.mean() == pytest.approx(own.value)
    chance = np.mean([1 / (3 + i % 2) for i in range(14)])
    assert ours["lm/own_choice/acc"].baseline == pytest.approx(chance)
    p = ours["lm/own_choice/acc"].value
    assert ours["lm/own_choice/acc"].stderr == pytest.approx((p * (1 - p) / 13) ** 0.5)


def test_diff_pairs_our_eval_with_what_lm_eval_writes(opened, theirs, task_folder, tmp_path):
    from lm_eval.loggers import EvaluationTracker

    names = ["own_choice", "own_last", "own_text"]
    tasks = lm_harness.load(names, task_folder=str(task_folder))
    judged = lm_harness.judge(answerer(opened), tasks)
    run = Run.create(tmp_path, "eval", "x", argv=[], config={}, overrides=[])
    run.set_data("t", "d" * 64, judged.sizes, tasks=lm_harness.describe(judged, tasks))
    lm_harness.record(run, judged)
    run.finish("ok")
    again = lm_harness.load(names, task_folder=str(task_folder))
    found = lm_eval.evaluate(theirs, {"tasks": again.tasks}, log_samples=True, bootstrap_iters=100)
    tracker = EvaluationTracker(output_path=str(tmp_path / "theirs"))
    tracker.general_config_tracker.model_name_sanitized = "x"
    samples = found.pop("samples")
    tracker.save_results_aggregated(found, samples)
    for name in names:
        tracker.save_results_samples(name, samples[name])
    rows = {row.name: row for row in compare(run.path, tmp_path / "theirs").metrics}
    for name in ("own_choice/acc", "own_choice/acc_norm", "own_last/acc", "own_text/exact_match"):
        row = rows[f"lm/{name}"]
        assert (row.test, row.n, row.effect, row.verdict) == ("exact McNemar", 14, 0, NOISE), (name, row.reason)


def test_more_examples_than_there_are(opened, task_folder):
    tasks = lm_harness.load(["own_choice"], task_folder=str(task_folder), num_fewshot=15)
    with pytest.raises(DataError, match="num_fewshot=15: own_choice has 14 examples, a question itself included"):
        lm_harness.judge(answerer(opened), tasks)


def test_a_model_that_answers_nothing_is_no_score(opened, task_folder):
    wrong = copy.deepcopy(opened.model)
    with torch.no_grad():
        next(wrong.parameters()).fill_(torch.nan)
    tasks = lm_harness.load(["own_choice"], task_folder=str(task_folder))
    with pytest.raises(JobError, match="own_choice: the model answers with NaN"):
        lm_harness.judge(answerer(dataclasses.replace(opened, model=wrong)), tasks)


def test_log_likelihoods_are_those_of_lm_evals_own_model(opened, theirs, task_folder):
    """Also with spaces at the end, no context, contexts that are cut, and our own model with the same weights."""
    from recsysml.models.hf_gpt2 import load_hf_folder

    pairs = [
        ("the cat", " sat"),
        ("the cat ", "sat on"),
        ("", "the dog ran"),
        ("a bird\n", "sang"),
        ("the " * 60, "cat"),
    ]
    pairs += [("the dog ran to", end) for end in (" the cat", " the mat", " 12 apples", " the")]
    requests = [SimpleNamespace(args=pair, task_name="t", doc_id=i // 4) for i, pair in enumerate(pairs)]
    expected = theirs.loglikelihood(requests, disable_tqdm=True)
    found = [answerer(opened).loglikelihood(requests)]
    model, _ = load_hf_folder(theirs.model.config._name_or_path)
    tokenizer = train_bpe([TEXT], 300)
    found.append(answerer(opening.wrap(model.eval(), tokenizer, "ours", "gpt", "")).loglikelihood(requests))
    for scores in found:
        assert [nats for nats, _ in scores] == pytest.approx([nats for nats, _ in expected], abs=1e-3)
        assert [flag for _, flag in scores] == [flag for _, flag in expected]
    assert opened.shares


@pytest.mark.parametrize("length", [1, 2, 5, 10, 11, 23])
def test_windows_are_those_of_lm_eval(length):
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    for n in (1, 4, 5, 10, 22):
        ids = list(range(100, 100 + n))
        expected = get_rolling_token_windows(token_list=ids, prefix_token=7, max_seq_len=length, context_len=1)
        assert list(windows(ids, 7, length)) == [make_disjoint_window(pair) for pair in expected]


def test_answers_are_kept_by_model_and_requests(opened, task_folder, monkeypatch):
    tasks = lm_harness.load(["own_choice"], task_folder=str(task_folder))
    lm = lm_harness.LanguageModel(Answerer(opened, CPU))
    first = lm_harness.judge(lm, tasks)
    asked = []
    score = Answerer._score
    monkeypatch.setattr(Answerer, "_score", lambda self, requests, what: asked.append(1) or score(self, requests, what))
    again = lm_harness.judge(lm_harness.LanguageModel(Answerer(opened, CPU)), tasks)
    assert not asked
    assert [m.value for m in again.metrics] == [m.value for m in first.metrics]
    assert again.requests == first.requests
    lm_harness.judge(lm, tasks, limit=5)  # other requests
    lm_harness.judge(answerer(opened), tasks)  # use_cache=False
    assert len(asked) == 2
    other = dataclasses.replace(opened, fingerprint="of other weights")
    for answering in (Answerer(other, CPU), Answerer(opened, dataclasses.replace(CPU, precision="bf16"))):
        lm_harness.judge(lm_harness.LanguageModel(answering), tasks)
    assert len(asked) == 4


def test_a_score_near_chance_is_flagged():
    from recsysml.metrics.task_scores import of_mean

    ids = [str(i) for i in range(100)]
    right = [1.0] * 30 + [0.0] * 70
    assert of_mean("a", right, ids, higher=True, baseline=0.25).at_chance
    assert not of_mean("a", right, ids, higher=True, baseline=0.5).at_chance
    assert of_mean("a", right, ids, higher=True).at_chance is None


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("baseline", [0.25, 0.5])
def test_few_answers_that_are_all_alike_may_be_chance(value, baseline):
    """Their standard error of 0 would say that it cannot be; guessing by the binomial law says how often it is."""
    from recsysml.metrics.task_scores import of_mean

    for n in range(2, 40):
        flagged = of_mean("a", [value] * n, [str(i) for i in range(n)], higher=True, baseline=baseline).at_chance
        hits = np.arange(n + 1)
        by_law = np.array([math.comb(n, k) * baseline**k * (1 - baseline) ** (n - k) for k in hits])
        spread = math.sqrt((by_law * (hits / n - baseline) ** 2).sum())
        assert flagged == (abs(value - baseline) <= 2 * spread + 1e-12), n


class Published(LM):
    """Answers with numbers from a file, one an ending, in order."""

    def __init__(self, numbers):
        super().__init__()
        self.numbers = numbers.ravel().tolist()

    def loglikelihood(self, requests):
        return [(number, False) for number in self.numbers[: len(requests)]]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError

    def generate_until(self, requests):
        raise NotImplementedError


@needs_data
@pytest.mark.slow
def test_the_accuracy_of_pythia_1b_from_its_published_scores():
    tasks = lm_harness.load(["hellaswag"])
    assert "split by a rule" in tasks.about["hellaswag"]["notes"][0]
    task = tasks.tasks["hellaswag"]
    task.build_all_requests()
    for prompt, accuracy in (("full", 0.4529), ("zero", 0.3710)):
        file = data_dir() / "hellaswag" / "reference_scores" / f"pythia-1b.{prompt}_prompt.csv.gz"
        with gzip.open(file, "rt") as lines:
            numbers = np.loadtxt(lines, delimiter=",", skiprows=1)
        lm_harness.ask(Published(numbers), task)
        acc = next(metric for metric in lm_harness.collect("hellaswag", task) if metric.name == "lm/hellaswag/acc")
        assert acc.n == 10042
        assert acc.value == pytest.approx(accuracy, abs=5e-5)


def made_up(root):
    """Questions as they were published: answers by letter and number, labels in a second file, WikiHow's brackets."""
    rows = {"arc_easy/ARC-Easy-Test.jsonl": [], "piqa/valid.jsonl": [], "hellaswag/hellaswag_val.jsonl": []}
    arc, piqa, hellaswag = rows.values()
    for i in range(12):
        letters = "ABCDE" if i % 2 else "12345"
        choices = [{"text": f"{noun} {i}.", "label": letters[j]} for j, noun in enumerate(NOUNS[: 3 + i % 3])]
        stem = {"stem": f"Which of these,  {i}?", "choices": choices}
        arc.append({"id": f"q{i}", "question": stem, "answerKey": letters[i % 3]})
        piqa.append({"goal": f"To do {i} ", "sol1": f" first {i}", "sol2": "second"})
        context = {"ctx_a": f"[header] How to do {i} [title] Do it.", "ctx_b": ["", "the man"][i % 2], "ctx": "x"}
        endings = [f"does  {noun} [substeps] it [title] Then." for noun in NOUNS[:4]]
        about = {"ind": i, "activity_label": "Cats", "label": i % 4, "source_id": "s", "endings": endings}
        hellaswag.append(about | context)
    for name, lines in rows.items():
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("".join(json.dumps(row) + "\n" for row in lines))
    (root / "piqa" / "valid-labels.lst").write_text("".join(f"{i % 2}\n" for i in range(12)))


@pytest.mark.parametrize("real", [pytest.param(True, marks=needs_data), False])
@pytest.mark.parametrize("name", ["arc_easy", "piqa", "hellaswag"])
def test_requests_are_those_of_lm_evals_own_file_on_the_same_rows(name, real, tmp_path, monkeypatch):
    """The harness's YAML, `!function` included, over rows of the hub's form, against ours over converted files."""
    if not real:
        made_up(tmp_path)
        monkeypatch.setenv("RECSYSML_DATA", str(tmp_path))
    size = 300 if real else 12
    ours = lm_harness.load([name]).tasks[name]
    place = Path(lm_eval.__file__).parent / "tasks" / {"arc_easy": "arc"}.get(name, name)
    rows = list(ours.eval_docs.select(range(size)))
    if name == "hellaswag":  # rows as the hub has them, without what our conversion added
        rows = [{key: row[key] for key in row if key not in ("query", "choices")} for row in rows]
    split = ours.config.test_split or ours.config.validation_split
    manager = TaskManager(include_defaults=False, include_path=str(place))
    data = datasets.DatasetDict(dict.fromkeys({split, "train", "validation"}, datasets.Dataset.from_list(rows)))
    given = {"task": name, "custom_dataset": lambda **more: data}
    theirs = manager.load([{"group": "g", "task": [given]}])["tasks"][name]
    for task in (ours, theirs):
        task.set_config("num_fewshot", 0)
        task.build_all_requests(limit=size)
    assert len(ours.instances) == len(theirs.instances) >= 2 * size
    for a, b in zip(ours.instances, theirs.instances, strict=True):
        assert a.args == b.args
        assert ours.doc_to_target(a.doc) == theirs.doc_to_target(b.doc)


@pytest.mark.parametrize(("metric", "words"), [("accc", "Did you mean: acc"), ("zzzzzzzz", "It is one of acc, ")])
def test_a_metric_that_does_not_exist_is_named(tmp_path, monkeypatch, metric, words):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # the harness looks for it among those of the hub
    (tmp_path / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n"
        'output_type: multiple_choice\ndoc_to_text: "{{query}}"\ndoc_to_target: gold\ndoc_to_choice: choices\n'
        f"metric_list: [{{metric: {metric}}}]\n"
    )
    (tmp_path / "rows.jsonl").write_text('{"query": "x", "choices": ["a", "b"], "gold": 0}\n')
    with pytest.raises(DataError, match=f"mine.yaml: there is no metric {metric}. {words}"):
        lm_harness.load(["mine"], task_folder=str(tmp_path))


QUESTION = (
    "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {test: [rows.jsonl, more.jsonl]}}\n"
    'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "{{query}}"\ndoc_to_target: gold\n'
    "doc_to_choice: choices\n"
)
GOOD = {"query": "x", "choices": ["a", "b"], "gold": 0}


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gold": 7}, "its target 7 is none of its 2 choices"),
        ({"gold": -1}, "its target -1 is none of its 2 choices"),
        ({"choices": ["a", ""]}, "a choice is missing, empty or no text"),
        ({"choices": None}, "TypeError"),
    ],
)
def test_a_question_that_cannot_be_answered_is_named_with_its_line(opened, tmp_path, number, change, words):
    """lm_eval raises an error without a place for the first question and counts the others as wrong."""
    (tmp_path / "mine.yaml").write_text(QUESTION)
    rows = [GOOD | (change if i == number else {}) for i in range(1, 7)]
    for name, part in (("rows", rows[:4]), ("more", rows[4:])):  # an empty line is none
        (tmp_path / f"{name}.jsonl").write_text("\n\n".join(json.dumps(row) for row in part) + "\n")
    place = {1: "rows.jsonl line 1", 2: "rows.jsonl line 3", 5: "more.jsonl line 1"}[number]
    with pytest.raises(DataError, match=f"tasks=mine: .*{place} cannot be asked: .*{words}"):
        lm_harness.judge(answerer(opened), lm_harness.load(["mine"], task_folder=str(tmp_path)))


def test_questions_of_the_hub_without_an_answer_are_said_and_asked(opened, tmp_path, caplog):
    (tmp_path / "mine.yaml").write_text(QUESTION.replace(", more.jsonl", ""))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(GOOD | {"gold": gold}) + "\n" for gold in (0, 1, 2, 3)))
    tasks = lm_harness.load(["mine"], task_folder=str(tmp_path))
    tasks.tasks["mine"].DATASET_PATH = "some/where"
    assert lm_harness.judge(answerer(opened), tasks).sizes == {"mine": 4}
    assert "mine: 2 of its questions have no answer that can be right" in caplog.text


def test_word_problems_are_judged_by_their_number(opened, tmp_path, monkeypatch):
    """GSM8K's form: `#### 72` alone is strict, the last number of what was said is flexible; commas do not matter."""
    (tmp_path / "gsm8k").mkdir()
    rows = [{"question": f"How many {w}?", "answer": f"There are <<2*5=10>>10.\n#### {n}"} for w, n in
            (("cats", "1,072"), ("dogs", "5"), ("birds", "8"))]  # fmt: skip
    (tmp_path / "gsm8k" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("RECSYSML_DATA", str(tmp_path))
    asked = []

    class Says(LM):
        def loglikelihood(self, requests):
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

        def generate_until(self, requests):
            asked.extend(request.args for request in requests)
            return [" 1000 and 72.\n#### 1,072", " so it is $5.", " 7"]

    found = {m.name: m for m in lm_harness.judge(Says(), lm_harness.load(["gsm8k_local"])).metrics}
    assert found["lm/gsm8k_local/exact_match,strict-match"].scores.tolist() == [1, 0, 0]
    assert found["lm/gsm8k_local/exact_match,flexible-extract"].scores.tolist() == [1, 1, 0]
    assert asked[0][0] == "Question: How many cats?\nAnswer:"
    assert asked[0][1]["until"] == ["Question:"]
    said = answerer(opened).generate_until([SimpleNamespace(args=pair, task_name="t") for pair in asked])
    assert len(said) == 3  # a model of ours is asked the same way
