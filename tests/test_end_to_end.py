"""The commands one after the other on a real, tiny model: what one writes the next one reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from recsysml.cli import main

TINY = [
    "data=text", "data.val_fraction=0.2", "data.test_fraction=0.2", "data.vocab_size=300", "model=gpt2",
    "model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.context_length=32", "trainer.max_steps=4",
    "trainer.batch_size=4", "trainer.warmup_steps=1", "trainer.compile=false", "trainer.eval_every=2",
    "trainer.sample_tokens=2", "trainer.precision=fp32", "device=cpu", "threads=1", "progress=never",
    "tracker.mode=disabled",
]  # fmt: skip


@pytest.fixture
def text(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(20):
        (folder / f"{i:02d}.txt").write_text("".join(f"line {j} of text {i}: {i * j}\n" for j in range(30)))
    return folder


def results(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())


def test_train_eval_generate_export_and_start_from_the_export(
    text: Path, own_outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *TINY, f"data.path={text}"]) == 0
    (trained,) = (own_outputs / "train").iterdir()
    record = results(trained)
    assert record["run"]["status"] == "ok"
    assert (trained / "plots" / "loss.png").is_file()
    assert len((trained / "samples.jsonl").read_text().splitlines()) == 3

    assert main(["eval", "eval.split=test", "tracker.mode=disabled"]) == 0
    (judged,) = (own_outputs / "eval").iterdir()
    assert results(judged)["run"]["parents"] == [trained.name]
    test_loss = results(judged)["metrics"]["test/loss"]["value"]
    assert test_loss == pytest.approx(record["metrics"]["test/loss"]["value"], rel=1e-5)
    capsys.readouterr()
    assert main(["diff", str(trained), str(judged), "--json"]) == 0
    compared = {row["name"]: row for row in json.loads(capsys.readouterr().out)["metrics"]}
    assert compared["test/loss"]["test"] == "paired t"  # the same documents, the same protocol
    assert compared["test/loss"]["verdict"] == "within noise"

    texts = []
    for seed in ("1", "1", "2"):
        assert main(["generate", "last", "line 3", "-n", "20", "--seed", seed]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0].startswith("line 3")
    assert texts[0] == texts[1] != texts[2]

    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "export"
    assert main(["export", trained.name, str(folder)]) == 0
    other = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer.encode("line 3")]])
        greedy = other.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    capsys.readouterr()
    assert main(["generate", str(trained), "line 3", "-n", "8", "--temperature", "0"]) == 0
    assert capsys.readouterr().out.rstrip("\n") == tokenizer.decode(greedy[0, 1:], skip_special_tokens=True)

    assert main(["train", *TINY, f"data.path={text}", f"model.init_from={folder}", "trainer.max_steps=1"]) == 0
    (second,) = (path for path in (own_outputs / "train").iterdir() if path != trained)
    assert results(second)["run"]["parents"] == []  # a folder is no run
    first_row = json.loads((second / "metrics.jsonl").read_text().splitlines()[0])
    assert first_row["val/loss"] == pytest.approx(record["metrics"]["val/loss"]["value"], abs=1e-5)


def test_two_checkpoints_of_different_tokenizers_are_compared_by_bits_per_byte_alone(
    text: Path, own_outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = []
    for tokenizer in ("bytes", "bpe"):
        assert main(["train", *TINY, f"data.path={text}", f"data.tokenizer={tokenizer}"]) == 0
        # the data is chosen anew, so that the config's tokenizer is the same for both: the checkpoint's counts
        assert main(["eval", "data=text", f"data.path={text}", "data.val_fraction=0.2", "tracker.mode=disabled"]) == 0
        judged.append(max((own_outputs / "eval").iterdir(), key=lambda run: results(run)["run"]["started"]))
    capsys.readouterr()
    assert main(["diff", *map(str, judged), "--json"]) == 0
    verdicts = {row["name"]: row["verdict"] for row in json.loads(capsys.readouterr().out)["metrics"]}
    assert verdicts["val/loss"] == "cannot be compared"
    assert verdicts["val/bits_per_byte"] != "cannot be compared"


def test_two_processes_of_torchrun_are_one_run(text: Path, tmp_path: Path) -> None:
    words = ["train", *TINY, f"data.path={text}", "trainer.loader_workers=2"]
    alone = [sys.executable, "-m", "recsysml"]
    together = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "recsysml",
    ]
    found = {}
    for name, command in (("alone", alone), ("together", together)):
        environment = {**os.environ, "RECSYSML_OUTPUTS": str(tmp_path / name), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        (run,) = (tmp_path / name / "train").iterdir()
        found[name] = results(run)
    assert found["together"]["throughput"]["processes"] == 2
    for metric, entry in found["alone"]["metrics"].items():
        assert found["together"]["metrics"][metric]["value"] == pytest.approx(entry["value"], abs=1e-5), metric
