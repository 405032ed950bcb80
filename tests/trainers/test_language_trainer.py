"""The real trainer on a tiny model: stopped by force, resumed, shared between processes."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recsysml import job
from recsysml.engine import checkpoint
from recsysml.errors import JobError
from recsysml.evals.language import evaluate_checkpoint
from recsysml.models.gpt import GPT
from recsysml.results import Run
from recsysml.schemas.data import TextConfig
from recsysml.schemas.evals import LanguageEvalConfig
from recsysml.schemas.models import GPTConfig
from recsysml.schemas.run import RunConfig, TrackerConfig
from recsysml.schemas.trainers import LanguageTrainerConfig
from tests.trainers.running import lines, results, train

ROOT = Path(__file__).parents[2]
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "how", "one", "dog", "ran", "to", "it"]


@pytest.fixture
def text(tmp_path, monkeypatch):
    """Forty short documents of a language with few words."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "text"
    folder.mkdir()
    for i in range(40):
        words = [WORDS[(i * 7 + j * (j + i % 5)) % len(WORDS)] for j in range(40)]
        (folder / f"{i:02d}.txt").write_text(" ".join(words) + ".\n")
    return folder


def configure(text, *, model=None, **trainer):
    small = {"size": "nano", "n_layers": 1, "n_heads": 2, "d_model": 16, "context_length": 16, "dropout": 0.1}
    plain = {"max_steps": 8, "batch_size": 4, "lr": 1e-2, "warmup_steps": 2, "compile": False, "precision": "fp32"}
    plain |= {"eval_every": 3, "checkpoint_every": 2, "sample_tokens": 5, "sample_prompt": "the"}
    return RunConfig(
        model=GPTConfig(**{**small, **(model or {})}),
        data=TextConfig(path=[str(text)], tokenizer="bytes", val_fraction=0.2, test_fraction=0.1),
        trainer=LanguageTrainerConfig(**{**plain, **trainer}),
        eval=LanguageEvalConfig(batch_size=8),
        tracker=TrackerConfig(mode="disabled"),
        device="cpu",
        threads=1,
        progress="never",
    )


# what a killed process runs: the real thing, with a SIGKILL to itself where the test wants it
CHILD = """
import os, signal, sys, json
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from recsysml import config, job
from recsysml.engine import checkpoint
from recsysml.results import Run
where, at, root = sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
settings = config.from_dict(json.loads(sys.argv[5]))
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
if where == "log":
    log = Run.log
    def patched(self, step, values):
        log(self, step, values)
        if step == at:
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write('{"step": 6, "train/lo')  # as a kill in the middle of a line leaves it
            die()
    Run.log = patched
else:
    put = checkpoint._put
    def patched(hidden, final):
        if final.name.endswith(str(at)):
            die()
        put(hidden, final)
    checkpoint._put = patched
run = Run.create(root, "train", "gpt", argv=[], config=job.to_dict(settings), overrides=[])
job.run(settings, run)
"""


# at step 0 nothing is saved yet
@pytest.mark.parametrize(("where", "step"), [("log", 0), ("log", 5), ("checkpoint", 4)])
def test_kill_minus_nine_and_resume_repeats_the_uninterrupted_run_bit_for_bit(text, tmp_path, where, step):
    config = job.resolve(configure(text, optimizer="muon"))
    whole = train(config, tmp_path / "whole")
    settings = json.dumps(job.to_dict(config))
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(ROOT), where, str(step), str(tmp_path / "killed"), settings],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    (killed,) = (tmp_path / "killed" / "train").iterdir()
    assert results(killed)["run"]["status"] == "running"
    assert train(config, tmp_path, resume=killed) == killed
    assert lines(killed) == lines(whole)
    assert lines(killed, "samples.jsonl") == lines(whole, "samples.jsonl")
    assert results(killed)["metrics"] == results(whole)["metrics"]
    assert results(killed)["run"]["status"] == "ok"
    ours, theirs = (checkpoint.load(path / "checkpoints" / "last").tensors for path in (killed, whole))
    for name in ours:
        assert torch.equal(ours[name], theirs[name])


@pytest.mark.slow  # two compilations
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_that_is_resumed_repeats_the_uninterrupted_one_bit_for_bit(text, tmp_path):
    config = configure(text, compile=True, max_steps=6, checkpoint_every=2, keep_checkpoints=9, sample_tokens=0)
    whole = train(config, tmp_path / "whole")
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut, symlinks=True)
    for step in (4, 6):
        shutil.rmtree(cut / "checkpoints" / f"step-{step:08d}")
    train(config, tmp_path, resume=cut)
    log = (cut / "run.log").read_text()
    assert log.count("compiled in") == 2
    assert "going on from" in log
    assert "step-00000003" in log  # the best until then, saved when it was found
    assert lines(cut) == lines(whole)
    assert results(cut)["metrics"] == results(whole)["metrics"]


def test_a_damaged_newest_checkpoint_costs_only_its_steps(text, tmp_path, caplog):
    config = configure(text, keep_checkpoints=3)
    path = train(config, tmp_path)
    before = lines(path)
    newest = (path / "checkpoints" / "last").resolve() / "state.pt"
    newest.write_bytes(newest.read_bytes()[:100])
    train(config, tmp_path, resume=path)
    assert f"damaged checkpoint: {newest}" in caplog.text
    assert lines(path) == before


def test_a_run_killed_after_its_last_step_is_only_scored_when_resumed(text, tmp_path):
    config = configure(text)
    path = train(config, tmp_path)
    before, metrics = lines(path), results(path)["metrics"]
    record = results(path)
    record["run"]["status"] = "running"  # as a kill during the last scoring leaves it
    (path / "results.json").write_text(json.dumps(record | {"metrics": {}}))
    train(config, tmp_path, resume=path)
    assert lines(path) == before
    assert results(path)["metrics"] == metrics


def test_two_gloo_processes_give_the_single_process_loss(text, tmp_path):
    config = job.resolve(
        configure(text, model={"dropout": 0.0}, batch_size=8, grad_accum=2, max_steps=6, grad_clip=0.1)
    )
    single = train(
        dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, grad_accum=1)), tmp_path / "one"
    )
    script = tmp_path / "two.py"
    script.write_text(
        "import json, sys, time\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[1])\n"
        "from recsysml import config, job\nfrom recsysml.results import Run\n"
        "settings = config.from_dict(json.loads(sys.argv[2]))\n"
        # a slow disk: no process may read what the main one has not written yet
        "from recsysml.engine import checkpoint\nsave = checkpoint.save\n"
        "checkpoint.save = lambda *a, **k: (time.sleep(0.5), save(*a, **k))[1]\n"
        "run = None\n"
        "if job.main_process():\n"
        "    run = Run.create(Path(sys.argv[3]), 'train', 'gpt', argv=[], config=job.to_dict(settings), overrides=[])\n"
        "job.run(settings, run)\n"
        "import torch\nprint('seed', torch.initial_seed(), flush=True)\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(script), str(ROOT), json.dumps(job.to_dict(config)), str(tmp_path / "two")],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    # else both would leave out the same places
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("seed")) == ["seed 1", "seed 2"]
    (double,) = (tmp_path / "two" / "train").iterdir()  # only one process wrote
    one, two = lines(single), lines(double)
    assert [(row["step"], sorted(row)) for row in one] == [(row["step"], sorted(row)) for row in two]
    for a, b in zip(one, two, strict=True):
        for name in ("train/loss", "val/loss", "grad_norm"):
            if name in a:
                assert b[name] == pytest.approx(a[name], abs=1e-5), (a["step"], name)
    ours, theirs = results(double)["metrics"], results(single)["metrics"]
    for name in theirs:
        assert ours[name]["value"] == pytest.approx(theirs[name]["value"], abs=1e-5)
    assert results(double)["throughput"]["processes"] == 2


def test_the_record_is_complete_and_the_best_weights_are_scored(text, tmp_path):
    config = configure(text, max_steps=40, eval_every=10, model={"dropout": 0.0})
    path = train(config, tmp_path)
    record = results(path)
    validations = [row["val/loss"] for row in lines(path) if "val/loss" in row]
    assert len(validations) == 5
    assert set(record["metrics"]) == {f"{s}/{m}" for s in ("val", "test") for m in ("loss", "bits_per_byte")}
    loss = record["metrics"]["val/loss"]
    assert loss["value"] == pytest.approx(min(validations), abs=1e-6)
    assert loss["value"] < validations[0] - 1.0  # it learns
    assert loss["better"] == "lower"
    assert 0 < loss["stderr"] < 1
    assert loss["n"] == 8
    assert 1.0 < loss["baseline"] < math.log(257)
    assert set(record["metrics"]["val/bits_per_byte"]["baselines"]) == {"gzip", "lzma"}
    assert record["model"]["parameters"] == record["model"]["trainable"] > 0
    assert record["data"]["sizes"]["train"] > 0
    assert record["throughput"]["unit"] == "tokens/s"
    assert record["throughput"]["steps"] == 39
    assert 0 < record["throughput"]["mfu"] < 1
    assert record["artifacts"].items() >= {"checkpoint": "checkpoints/best", "plots": ["plots/loss.png"]}.items()
    assert (path / "plots" / "loss.png").stat().st_size > 1000
    samples = lines(path, "samples.jsonl")
    assert [sample["step"] for sample in samples] == [0, 10, 20, 30, 40]
    assert samples[0]["prompt"] == "the"
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path / "examples.parquet").to_pandas()
    for name, metric in record["metrics"].items():
        values = table[table.metric == name].value
        assert values.mean() == pytest.approx(metric["value"])
        assert len(values) == metric["n"]


def test_what_is_scored_is_the_best_and_not_the_last(text, tmp_path):
    """A learning rate far too high: the loss is higher at the end than on the way."""
    path = train(configure(text, lr=0.3, schedule="constant", eval_every=1, model={"dropout": 0.0}), tmp_path)
    validations = [row["val/loss"] for row in lines(path) if "val/loss" in row]
    assert validations[-1] > min(validations) + 0.1
    metrics = results(path)["metrics"]
    assert metrics["val/loss"]["value"] == pytest.approx(min(validations), abs=1e-6)
    best = checkpoint.read_metadata(path / "checkpoints" / "best")["step"]
    assert validations[best] == min(validations)
    data = TextConfig(path=[str(text)], tokenizer="bytes", val_fraction=0.2, test_fraction=0.1)
    judged = Run.create(tmp_path, "eval", "gpt", argv=[], config={}, overrides=[])
    config = dataclasses.replace(configure(text), data=data, eval=LanguageEvalConfig(split="test", batch_size=8))
    evaluate_checkpoint(job.resolve(config), path / "checkpoints" / "best", judged)
    again = judged.record["metrics"]["test/loss"]["value"]
    judged.finish("ok")
    assert metrics["test/loss"]["value"] == pytest.approx(again, abs=1e-6)


def test_sampling_and_validating_leave_training_untouched(text, tmp_path):
    often = train(configure(text, eval_every=1, sample_tokens=8), tmp_path / "often")
    never = train(configure(text, eval_every=0, sample_tokens=0, checkpoint_every=0), tmp_path / "never")
    losses = [[row["train/loss"] for row in lines(path) if "train/loss" in row] for path in (often, never)]
    assert losses[0] == losses[1]


def test_gradient_checkpointing_and_a_loss_in_rows_change_no_number_that_matters(text, tmp_path, monkeypatch):
    asked = []
    forward = GPT.forward

    def spied(self, *batch, loss_chunk=0):
        asked.append((self.gradient_checkpointing, loss_chunk))
        return forward(self, *batch, loss_chunk=loss_chunk)

    monkeypatch.setattr(GPT, "forward", spied)
    plain = train(configure(text), tmp_path / "plain")
    frugal = train(configure(text, gradient_checkpointing=True, loss_chunk=16), tmp_path / "frugal")
    assert asked == [(False, 0)] * 8 + [(True, 16)] * 8
    for a, b in zip(lines(plain), lines(frugal), strict=True):
        for name in set(a) & {"train/loss", "val/loss"}:
            assert b[name] == pytest.approx(a[name], abs=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_follows_float32_and_keeps_float32_weights(text, tmp_path, precision):
    exact = lines(train(configure(text), tmp_path / "exact"))
    path = train(configure(text, precision=precision), tmp_path / precision)
    half = lines(path)
    assert results(path)["environment"]["precision"] == precision
    for name in ("train/loss", "val/loss"):
        one, other = ([row[name] for row in rows if name in row] for rows in (half, exact))
        assert one != other  # it was not float32 all the same
        assert one == pytest.approx(other, abs=0.02)
    norms = [[row["grad_norm"] for row in rows if "grad_norm" in row] for rows in (half, exact)]
    assert norms[0] == pytest.approx(norms[1], rel=0.05)  # not multiplied by what kept it from vanishing
    assert {tensor.dtype for tensor in checkpoint.load(path / "checkpoints" / "last").tensors.values()} == {
        torch.float32
    }


def test_a_run_starts_from_another_runs_weights(text, tmp_path):
    first = train(configure(text, max_steps=20, eval_every=10), tmp_path / "first")
    config = configure(text, model={"init_from": str(first)}, max_steps=1)
    second = train(config, tmp_path / "second")
    best = min(row["val/loss"] for row in lines(first) if "val/loss" in row)
    assert lines(second)[0]["val/loss"] == pytest.approx(best, abs=1e-6)


def test_a_run_does_not_go_on_with_other_data(text, tmp_path):
    config = configure(text)
    path = train(config, tmp_path)
    before = lines(path)
    (text / "07.txt").write_text("the dog ran to it.\n")
    with pytest.raises(JobError, match=r"the data is no longer what .*step-00000008 was trained with.*init_from="):
        train(config, tmp_path, resume=path)
    assert lines(path) == before


def test_weights_of_another_vocabulary_are_said(text, tmp_path, caplog):
    def vocabulary(folder):
        config = configure(folder, max_steps=1, sample_tokens=0)
        config.data.tokenizer, config.data.vocab_size = "bpe", 270
        return config

    first = train(vocabulary(text), tmp_path / "first")
    other = tmp_path / "other"
    other.mkdir()
    for file in text.iterdir():  # the same letters, other words
        (other / file.name).write_text(file.read_text()[::-1])
    for folder, said in ((text, False), (other, True)):
        caplog.clear()
        config = vocabulary(folder)
        config.model.init_from = str(first)
        train(config, tmp_path / "second")
        assert ("another tokenizer" in caplog.text) == said


def test_divergence_names_windows_and_the_last_good_checkpoint(text, tmp_path):
    config = configure(text, lr=1e20, warmup_steps=0, grad_clip=0.0, max_steps=50, schedule="constant", sample_tokens=0)
    with pytest.raises(
        JobError, match=r"at step \d+ \(learning rate 1e\+20, batch \d+, windows at tokens \[.*step-0000"
    ):
        train(config, tmp_path)
    (path,) = (tmp_path / "train").iterdir()
    assert results(path)["run"]["status"] == "failed"
    assert "learning rate" in results(path)["run"]["error"]


def test_tasks_on_the_way_leave_the_losses_as_they_were(text, tmp_path, monkeypatch):
    questions = tmp_path / "data" / "arc_easy"
    questions.mkdir(parents=True)
    rows = [{"query": f"Question: how {WORDS[i]}?", "choices": WORDS[i : i + 4], "gold": i % 4} for i in range(9)]
    (questions / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("RECSYSML_DATA", str(tmp_path / "data"))
    plain = train(configure(text), tmp_path / "one")
    asked = train(configure(text, eval_tasks=["arc_easy"], eval_tasks_limit=7), tmp_path / "two")
    without = [{k: v for k, v in row.items() if not k.startswith("lm/")} for row in lines(asked)]
    assert without == lines(plain)
    rows = [row for row in lines(asked) if "lm/arc_easy/acc_norm" in row]
    assert [row["step"] for row in rows] == [0, 3, 6, 8]
    metric = results(asked)["metrics"]["lm/arc_easy/acc"]
    assert (metric["n"], metric["baseline"]) == (7, 0.25)
    assert results(asked)["data"]["tasks"]["arc_easy"]["num_fewshot"] == 0
