"""The script that tries settings: its rankers are those of `train`, and no answer of test has a part in them."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsysml.data import kuairand
from recsysml.engine import device
from recsysml.ranking.opening import open_ranker
from recsysml.ranking.scoring import logits
from recsysml.schemas.evals import RankingEvalConfig
from recsysml.schemas.impressions import KuaiRandConfig
from recsysml.schemas.run import RunConfig, TrackerConfig
from tests.trainers.running import train

_SPEC = importlib.util.spec_from_file_location(
    "kuairand_choice", Path(__file__).parents[1] / "scripts" / "kuairand_choice.py"
)
assert _SPEC is not None and _SPEC.loader is not None
choice = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = choice  # where dataclasses look
_SPEC.loader.exec_module(choice)

SETTING = "norm=batch,embedding_std=0.05,d_embedding=4,n_experts=2,lr=5e-3,batch_size=32,max_steps=6"


@pytest.fixture
def data(tmp_path: Path) -> KuaiRandConfig:
    rng, n = np.random.default_rng(0), 300
    columns = {"user_id": rng.integers(0, 9, n), "video_id": rng.integers(0, 20, n), "date": [20220410] * n}
    columns |= {"hourmin": rng.integers(0, 24, n) * 100, "time_ms": 1649581149287 + 1000 * np.arange(n)}
    columns |= {"duration_ms": rng.integers(0, 90_000, n)}
    columns |= {name: rng.integers(0, 2, n) for name in kuairand.OUTCOMES}
    pl.DataFrame(columns).write_csv(tmp_path / "log.tsv", separator="\t")
    return KuaiRandConfig(path=str(tmp_path / "log.tsv"), users_path=None, val_fraction=0.2)


def test_a_setting_is_words_of_the_model_and_of_the_trainer() -> None:
    model, trainer = choice.setting("norm=batch,dropout=0.5,lr=1e-3,max_steps=7")
    assert (model.norm, model.dropout, trainer.lr, trainer.max_steps) == ("batch", 0.5, 1e-3, 7)
    assert (model.history, model.interaction, trainer.eval_every) == ("none", "concat", 0)


@pytest.mark.parametrize("seed", [1, 2])
def test_its_rankers_are_those_of_train_and_know_nothing_of_test(
    data: KuaiRandConfig, tmp_path: Path, seed: int
) -> None:
    model, trainer = choice.setting(SETTING)
    machine = device.prepare("cpu", device.resolve_precision("auto", "cpu"), threads=1, deterministic=True)
    table = kuairand.load_impressions(data)
    found = choice.scores(model, trainer, seed, table, machine)

    settings = dataclasses.replace(trainer, deterministic=True, precision=machine.precision)
    run = RunConfig(
        model=dataclasses.replace(model, calibration="none"), data=data, trainer=settings, device="cpu", threads=1,
        eval=RankingEvalConfig(baselines=["base_rate"]), tracker=TrackerConfig(mode="disabled"), seed=seed,
        progress="never",
    )  # fmt: skip
    opened = open_ranker(train(run, tmp_path) / "checkpoints" / "last")
    rows = table.bounds["train"][1], table.bounds["test"][0]
    assert rows[1] - rows[0] == 60 and len(found) == 60
    assert np.array_equal(found, logits(opened.model, table, rows, batch_size=4096))

    labels = table.labels.copy()
    labels[rows[1] :] = 1 - labels[rows[1] :]
    other = dataclasses.replace(table, labels=labels)
    assert np.array_equal(found, choice.scores(model, trainer, seed, other, machine))
