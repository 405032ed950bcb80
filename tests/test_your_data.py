"""docs/your_data.md does what it says: its commands run, one after the other, on tables with the columns it shows."""

import re
import shlex
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsysml.cli import main
from tests.trainers.running import results

PAGE = (Path(__file__).parents[1] / "docs" / "your_data.md").read_text()
COMMANDS = re.findall(r"^    recsysml (.*)$", PAGE.replace("\\\n        ", ""), re.MULTILINE)
# as little as a training can be, whatever is trained
QUICK = {
    "gpt2_modern": [
        "model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.context_length=32", "data.vocab_size=300",
        "trainer.batch_size=4", "trainer.compile=false", "trainer.sample_tokens=2", "data.val_fraction=0.2",
        "data.test_fraction=0.2",
    ],
    "two_tower": ["eval.baselines=[popularity]"],
    "mtml": ["model.expert_widths=[16]", "trainer.batch_size=100", "eval.baselines=[base_rate]"],
    "policy_ranker": ["trainer.supervised_lrs=[3e-2]", "trainer.supervised_steps=2", "trainer.reward_model_trees=2"],
}  # fmt: skip


def columns(*first):
    """The columns of the table on the page that begins with these."""
    (line,) = re.findall(rf"^    ({','.join(first)},.*)$", PAGE, re.MULTILINE)
    return line.split(",")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random, n = np.random.default_rng(0), 2000
    of = {
        "time": np.arange(n), "timestamp": np.arange(n), "user": random.integers(0, 30, n), "age": random.random(n),
        "item": random.integers(0, 20, n), "category": random.integers(0, 3, n), "request": np.arange(n) // 4,
        "request_id": np.arange(n) // 4, "item_id": np.arange(n) % 20, "user_id": random.integers(30, 60, n),
        "shown": (np.arange(n) % 4 == 0).astype(int), "propensity": np.full(n, 0.25), "score": random.random(n),
        "click": random.integers(0, 2, n), "like": random.integers(0, 2, n),
    }  # fmt: skip
    for name, first in (("events", ["user_id"]), ("log", ["time"]), ("slates", ["request_id"])):
        pl.DataFrame({column: of[column] for column in columns(*first)}).write_csv(f"{name}.csv")
    Path("notes").mkdir()
    for number in range(6):
        Path(f"notes/{number}.txt").write_text(" ".join(random.choice(["what", "comes", "next"], 2000)))
    (text,) = re.findall(r"`mine/data/shop.yaml`\n\n((?:    .*\n)+)", PAGE)
    Path("mine/data").mkdir(parents=True)
    Path("mine/data/shop.yaml").write_text(re.sub(r"^    ", "", text, flags=re.MULTILINE))
    return tmp_path


def test_every_command_of_the_page_runs(folder, own_outputs, capsys):
    assert len(COMMANDS) == 8
    for command in COMMANDS:
        words = shlex.split(command)
        models = [word.partition("=")[2] for word in words if word.startswith("model=")]
        quick = [word for model in models for word in ["trainer.max_steps=2", "trainer.warmup_steps=0", *QUICK[model]]]
        more = ["threads=1", "device=cpu", "tracker.mode=disabled"] if words[0] in ("train", "eval") else []
        words = [word.replace("outputs/", f"{own_outputs}/") for word in words]
        assert main([*words, *quick, *more]) == 0, command
    runs = sorted(map(results, (own_outputs / "train").iterdir()), key=lambda run: run["run"]["started"])
    assert [run["data"]["name"] for run in runs] == ["text", "interactions", "impressions", "shop", "logged_slates"]
    (judged,) = (own_outputs / "eval").iterdir()
    found, before = results(judged), runs[3]
    assert found["run"]["parents"] == [before["run"]["id"]]
    assert found["metrics"]["test/click/mce"]["segments"] > before["metrics"]["test/click/mce"]["segments"]

    slates = pl.read_csv("slates.csv").with_columns(score=pl.when(pl.col("request_id") > 3).then("score"))
    slates.write_csv("slates.csv")
    capsys.readouterr()
    assert main(["eval", "eval=policy", "+data.weights.click=3", "threads=1", "tracker.mode=disabled"]) == 0
    said = capsys.readouterr().err
    assert "numbers that are missing count as the mean of train: score 16" in said
    assert "judged by the reward it was trained for, {'click': 1.0}; the data pay {'click': 3.0}" in said
    capsys.readouterr()
    assert main(["eval", "data.cohorts=[category]"]) == 2  # the newest run is a policy's
    said = capsys.readouterr().err
    assert "data.cohorts: there is no such key" in said
    assert "model=policy_ranker, data=logged_slates: those of the newest run; checkpoint=RUN takes another" in said
    for words in (["eval.policy=uniform", "data.evnts=3"], ["seed=some"]):  # nothing that a run has to do with
        assert main(["eval", *words]) == 2
        assert "newest run" not in capsys.readouterr().err
