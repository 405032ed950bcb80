"""Rounds of deploying, logging and learning: each from the log of the one before, and again to the same numbers."""

import json

import numpy as np
import pytest

from recsysml import job
from recsysml.config import compose
from recsysml.data import world
from recsysml.data.world_deployed import answered, top_alone
from recsysml.data.world_truth import top_rewards
from recsysml.engine.checkpoint import read_metadata
from recsysml.errors import ConfigError, Interrupted
from recsysml.ranking.policies import log_probabilities, open_policy
from recsysml.ranking.policy_loss import PolicyLoss
from recsysml.results import Run
from tests.trainers.running import lines, results, train

SMALL = [
    "model=policy_ranker", "trainer=feedback_loop", "trainer.rounds=2", "data.users=200", "data.items=200",
    "data.events=6000", "threads=1", "trainer.supervised_steps=50", "trainer.supervised_lrs=[1e-1]",
    "trainer.max_steps=10", "trainer.reward_model_steps=50", "trainer.reward_model_hidden=[16]", "trainer.eval_every=5",
    "trainer.batch_size=256", "trainer.checkpoint_every=5", "trainer.exploration=0.1", "tracker.mode=disabled",
    "progress=never", "trainer.keep_memory=false", "trainer.deterministic=true",
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(compose(SMALL), tmp_path_factory.mktemp("loop"))


def test_a_round_learns_from_what_the_round_before_has_shown(whole):
    config = job.resolve(compose(SMALL))
    own = world.load_slates(config.data)
    true = top_rewards(config.data, own.weights)
    rows, log = np.arange(*own.bounds["test"]), top_alone(own)
    told = [row for row in lines(whole) if "test/policy/value" in row]
    assert [row["step"] for row in told] == [1, 2]
    for number, row in enumerate(told, start=1):
        folder = whole / "rounds" / str(number) / "checkpoints" / "best"
        assert read_metadata(folder)["data"]["fingerprint"] == log.fingerprint
        pi = np.exp(log_probabilities(open_policy(folder).model, log, np.arange(len(own)), batch_size=512)[0])
        assert row["test/policy/value"] == pytest.approx((pi * true)[rows].sum(axis=1).mean(), rel=1e-6)
        best = [true[each, pi[each].argmax()] for each in rows]
        assert row["test/policy/greedy_value"] == pytest.approx(np.mean(best), rel=1e-6)
        w = [pi[each, log.shown[each]] / log.propensity[each] for each in rows]
        assert row["test/policy/ess_share"] == pytest.approx(sum(w) ** 2 / sum(x * x for x in w) / len(w))
        spread = [np.exp(-sum(p * np.log(p) for p in pi[each] if p > 0)) for each in rows]
        assert row["test/policy/candidates"] == pytest.approx(np.mean(spread))
        items = np.zeros(len(own.items))
        for each in rows:
            for item, p in zip(own.candidates[each][own.mask[each]], pi[each][own.mask[each]], strict=True):
                items[item] += p / len(rows)
        items = items[items > 0]
        assert row["test/policy/items"] == pytest.approx(np.exp(-(items * np.log(items)).sum()))
        log = answered(config.data, own, pi, np.random.default_rng([config.seed, 11, number]), 0.1)
    last = results(whole)["metrics"]["test/policy/value"]
    assert last["value"] == pytest.approx(told[-1]["test/policy/value"]) and last["baselines"]["logging"] > 0


def test_the_rounds_are_in_the_report_and_the_last_policy_is_kept(whole):
    section = json.loads((whole / "sections" / "feedback_loop.json").read_text())
    table = next(part for part in section["parts"] if part["kind"] == "table")
    told = [row for row in lines(whole) if "test/policy/value" in row]
    assert [row[:2] for row in table["rows"]] == [[row["step"], row["test/policy/value"]] for row in told]
    curve = next(part for part in section["parts"] if part["kind"] == "curves")
    assert [point["y"] for point in curve["points"]] == [row["test/policy/value"] for row in told]
    kept, last = (
        open_policy(folder / "checkpoints" / "best").model.state_dict() for folder in (whole, whole / "rounds" / "2")
    )
    assert all((kept[name] == last[name]).all() for name in last)


def test_a_loop_that_was_stopped_goes_on_to_the_same_numbers(whole, tmp_path, monkeypatch):
    config = job.resolve(compose(SMALL))
    run = Run.create(tmp_path, "train", "stopped", argv=[], config=job.to_dict(config), overrides=[])
    kept, calls = PolicyLoss.__call__, []

    def stopping(self, *args):
        calls.append(1)
        if len(calls) == 18:  # in the second round, behind its first checkpoint
            raise KeyboardInterrupt
        return kept(self, *args)

    monkeypatch.setattr(PolicyLoss, "__call__", stopping)
    with pytest.raises(Interrupted):
        job.run(config, run)
    monkeypatch.undo()
    assert [row["step"] for row in lines(run.path)] == [1]
    job.run(config, Run.reopen(run.path))
    assert lines(run.path) == lines(whole)
    for number in (1, 2):
        assert lines(run.path / "rounds" / str(number)) == lines(whole / "rounds" / str(number))
    assert results(run.path)["metrics"] == results(whole)["metrics"]


def test_only_the_world_answers():
    with pytest.raises(ConfigError, match="only the simulated world answers"):
        compose([*SMALL[:2], "data=open_bandit"])
    with pytest.raises(ConfigError, match=r"trainer\.rounds=0"):
        compose([*SMALL[:2], "trainer.rounds=0"])
