"""True reward of slates: against a walk down each slate, place by place, and against what orders must give."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from recsysml import sections
from recsysml.cli import main
from recsysml.data.world import load_impressions
from recsysml.data.world_laws import responses
from recsysml.data.world_log import open_world
from recsysml.errors import ConfigError
from recsysml.evals import true_reward
from recsysml.schemas.data import WorldConfig
from recsysml.schemas.evals import TrueRewardEvalConfig
from recsysml.schemas.impressions import KuaiRandConfig
from recsysml.schemas.run import RunConfig

WEIGHTS = {"click": 1.0, "like": 4.0, "leave": -0.5}


@pytest.fixture(scope="module", params=[1, 5])
def world(request):
    config = WorldConfig(users=60, items=150, events=3000, seed=request.param)
    return config, load_impressions(config)


def test_it_is_what_a_walk_down_each_slate_brings(world):
    config, table = world
    rows = table.bounds["test"]
    shown = true_reward.shown(config, table, rows)
    scores = np.random.default_rng(0).random(shown.real.shape)
    found = shown.value(scores, WEIGHTS)
    assert shown.real.sum() == rows[1] - rows[0]
    for row in range(0, len(found), 7):
        own = np.flatnonzero(shown.real[row])
        order = own[np.argsort(-scores[row, own])]
        moment = dataclasses.replace(
            shown.moment,
            **{field.name: getattr(shown.moment, field.name)[[row]] for field in dataclasses.fields(shown.moment)},
        )
        value, there = 0.0, 1.0
        for place, item in enumerate(shown.items[row, order]):
            laws = responses(shown.truth.population, shown.truth.latent, moment, np.array([[item]]), np.array([place]))
            value += there * (laws.click * (1 + 4 * laws.like) - 0.5 * laws.leave).item()
            there *= 1 - laws.leave.item()
        assert found[row] == pytest.approx(value, rel=1e-9)


def test_items_and_requests_are_those_of_the_table(world):
    config, table = world
    rows = table.bounds["test"]
    shown = true_reward.shown(config, table, rows)
    by_id = {}
    for requests, impressions in open_world(config):
        for row, item in zip(impressions.requests, impressions.items, strict=True):
            by_id.setdefault(int(requests.ids[row]), set()).add(int(item))
    for id_, items, real in zip(shown.requests, shown.items, shown.real, strict=True):
        assert set(items[real].tolist()) == by_id[int(id_)]


def test_the_best_order_is_found_among_all_and_the_truth_is_near_it(world):
    config, table = world
    shown = true_reward.shown(config, table, table.bounds["test"])
    three = np.flatnonzero(shown.real.sum(axis=1) == 3)
    weights = {"click": 1.0, "like": 4.0}
    orders = []
    for order in itertools.permutations(range(3)):
        scores = np.zeros(shown.real.shape)
        scores[:, :3] = -np.array(order)
        orders.append(shown.value(scores, weights)[three])
    by_truth = shown.value(shown.true_scores(weights), weights)[three]
    assert (by_truth <= np.max(orders, axis=0) + 1e-12).all()
    assert by_truth.mean() > 0.995 * np.max(orders, axis=0).mean() > np.mean(orders)


def test_from_the_command_line(own_outputs):
    words = ["model=mtml", "data.users=60", "data.items=150", "data.events=3000", "threads=1", "device=cpu"]
    words += ["eval=true_reward", "model.expert_widths=[8]", "model.d_embedding=8", "trainer.max_steps=20"]
    assert main(["train", *words]) == 0
    (path,) = (own_outputs / "train").iterdir()
    trained = json.loads((path / "results.json").read_text())["metrics"]
    entry = trained["test/true_reward"]
    assert entry["baselines"].keys() == {"by_truth", "uncalibrated"} and entry["value"] < entry["baselines"]["by_truth"]
    assert any(name.startswith("test/history_") for name in trained)
    section = sections.read(path / "sections" / "true_reward_test.json")
    bars = {bar["label"]: bar for bar in section["parts"][0]["bars"]}
    assert bars["served"]["value"] == pytest.approx(entry["value"] - entry["baseline"], rel=1e-6)
    assert bars["by_truth"]["low"] > 0 and "calibration adds" in section["note"]
    assert main(["eval", f"checkpoint={path}", "eval=true_reward"]) == 0
    (judged,) = (own_outputs / "eval").iterdir()
    again = json.loads((judged / "results.json").read_text())["metrics"]["test/true_reward"]
    assert again["value"] == pytest.approx(entry["value"], rel=1e-6)


def test_other_data_have_no_truth():
    with pytest.raises(ConfigError, match="only of data=world"):
        true_reward.check(RunConfig(data=KuaiRandConfig(), eval=TrueRewardEvalConfig()))
    with pytest.raises(ConfigError, match=r"eval\.reward=purchase"):
        TrueRewardEvalConfig(reward={"purchase": 1.0}).validate()
