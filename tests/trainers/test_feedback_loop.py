"""Rounds of deploying, logging and learning: each from the log of the one before, and again to the same numbers."""

import json
import shutil

import numpy as np
import pytest
from matplotlib.image import imread

from recsysml import job
from recsysml.config import compose
from recsysml.data import world
from recsysml.data.world_deployed import answered, top_alone
from recsysml.data.world_truth import top_rewards
from recsysml.engine import device
from recsysml.engine.checkpoint import read_metadata
from recsysml.engine.distributed import World
from recsysml.engine.loop import Fitted
from recsysml.errors import ConfigError, Interrupted
from recsysml.evals.policy import supervised_folder
from recsysml.ranking import policy_training
from recsysml.ranking.policies import log_probabilities, open_policy
from recsysml.ranking.policy_training import Phase
from recsysml.results import Run
from recsysml.trainers import feedback_loop
from tests.trainers.running import lines, results, train

DATA = [
    "model=policy_ranker", "data.users=150", "data.items=150", "data.events=3000", "threads=1",
    "trainer.supervised_steps=50", "trainer.supervised_lrs=[1e-1]", "tracker.mode=disabled", "progress=never",
    "trainer.keep_memory=false", "trainer.deterministic=true", "trainer.batch_size=128",
]  # fmt: skip
SMALL = [
    *DATA, "trainer=feedback_loop", "trainer.rounds=2", "trainer.max_steps=10", "trainer.reward_model_trees=5",
    "trainer.folds=2", "trainer.eval_every=5", "trainer.checkpoint_every=5",
    "trainer.refresh_every=3", "trainer.exploration=0.1",
]  # fmt: skip


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """A whole run with a policy loss, each trained once."""
    made = {}

    def get(loss):
        if loss not in made:
            made[loss] = train(compose([*SMALL, f"trainer.policy_loss={loss}"]), tmp_path_factory.mktemp(loss))
        return made[loss]

    return get


@pytest.fixture(scope="module")
def whole(run_of):
    return run_of("dr")


def test_a_round_learns_from_what_the_round_before_has_shown(whole):
    config = job.resolve(compose(SMALL))
    own = world.load_slates(config.data)
    true = top_rewards(config.data, own.weights)
    log, pi = top_alone(own), own.logging
    told = lines(whole)
    assert [row["step"] for row in told] == [0, 1, 2]
    for number, row in enumerate(told):
        if number:
            folder = whole / "rounds" / str(number) / "checkpoints" / "best"
            assert read_metadata(folder)["data"]["fingerprint"] == log.fingerprint
            pi = np.exp(log_probabilities(open_policy(folder).model, log, np.arange(len(own)), batch_size=1024)[0])
        for split in ("val", "test"):
            rows = np.arange(*own.bounds[split])
            has = {name.rpartition("/")[2]: value for name, value in row.items() if name.startswith(f"{split}/policy/")}
            assert has["value"] == pytest.approx((pi * true)[rows].sum(axis=1).mean(), rel=1e-6)
            best = [true[each, pi[each].argmax()] for each in rows]
            assert has["greedy_value"] == pytest.approx(np.mean(best), rel=1e-6)
            w = [pi[each, log.shown[each]] / log.propensity[each] for each in rows]
            ess = sum(w) ** 2 / sum(x * x for x in w) / len(w)
            assert has.get("ess_share") == (pytest.approx(ess) if number else None)
            spread = [np.exp(-sum(p * np.log(p) for p in pi[each] if p > 0)) for each in rows]
            assert has["candidates"] == pytest.approx(np.mean(spread))
            items = np.zeros(len(own.items))
            for each in rows:
                for item, p in zip(own.candidates[each][own.mask[each]], pi[each][own.mask[each]], strict=True):
                    items[item] += p / len(rows)
            items = items[items > 0]
            assert has["items"] == pytest.approx(np.exp(-(items * np.log(items)).sum()))
        if number:
            log = answered(config.data, own, pi, np.random.default_rng([config.seed, 11, number]), 0.1)
    for split in ("val", "test"):
        last = results(whole)["metrics"][f"{split}/policy/value"]
        assert last["value"] == pytest.approx(told[-1][f"{split}/policy/value"])
        assert last["baselines"]["logging"] == pytest.approx(told[0][f"{split}/policy/value"])


def test_its_record_says_how_it_was_judged_and_how_fast_it_was(whole):
    found = results(whole)
    protocol, own = found["protocol"], world.load_slates(compose(SMALL).data)
    assert {name: protocol[name] for name in ("split", "fit_range", "propensities", "candidates", "rounds")} == {
        "split": "test", "fit_range": own.fit_range, "propensities": own.propensity_source,
        "candidates": "the slate's", "rounds": 2,
    }  # fmt: skip
    assert (protocol["exploration"], protocol["rewards"]) == (0.1, own.weights) and "folds" not in protocol
    assert found["throughput"]["unit"] == "slates/s" and found["throughput"]["value"] > 0
    assert found["throughput"]["steps"] == 2 * 9  # a first step of each is not timed
    assert found["artifacts"]["plots"] == ["plots/rounds.png"] and imread(whole / "plots" / "rounds.png").size > 0


def test_the_speed_is_that_of_all_rounds_together():
    """90 slates in a second and 90 in three; a round that was already done took no step."""

    class Kept:
        def set_throughput(self, unit, value, steps, peak_memory_bytes, **more):
            self.got = value, steps, peak_memory_bytes

    def fitted(value, steps, memory):
        speed = {"unit": "slates/s", "value": value, "steps": steps, "peak_memory_bytes": memory, "processes": 1}
        return Fitted(10, None, None, False, speed)

    run = Kept()
    feedback_loop._time(run, [fitted(90.0, 9, 5), fitted(None, 0, 9), fitted(30.0, 9, 7)])
    assert run.got == (pytest.approx(45.0), 18, 7)


def test_the_rounds_are_in_the_report_and_the_last_policy_is_kept(whole):
    section = json.loads((whole / "sections" / "feedback_loop.json").read_text())
    table = next(part for part in section["parts"] if part["kind"] == "table")
    told = lines(whole)
    assert [row[:2] for row in table["rows"]] == [[row["step"], row["test/policy/value"]] for row in told]
    assert [row[3] for row in table["rows"]] == [row.get("test/policy/ess_share") for row in told]
    curves = [part for part in section["parts"] if part["kind"] == "curves"]
    assert [point["y"] for point in curves[0]["points"]] == [row["test/policy/value"] for row in told]
    assert [point["x"] for point in curves[1]["points"]] == [1, 2]
    kept, last = (
        open_policy(folder / "checkpoints" / "best").model.state_dict() for folder in (whole, whole / "rounds" / "2")
    )
    assert all((kept[name] == last[name]).all() for name in last)
    start = supervised_folder(whole / "checkpoints" / "best")
    assert start is not None and start.is_relative_to(whole / "rounds" / "2" / "supervised")


def interrupted(config, root, monkeypatch, folder, at):
    """A run that ended before the row of step `at` of a phase was written."""
    config = job.resolve(config)
    run = Run.create(root, "train", "stopped", argv=[], config=job.to_dict(config), overrides=[])
    log = Phase.log

    def stopping(self, step, values):
        if self.path == run.path / folder and step == at:
            raise KeyboardInterrupt
        log(self, step, values)

    monkeypatch.setattr(Phase, "log", stopping)
    with pytest.raises(Interrupted):
        job.run(config, run)
    monkeypatch.setattr(Phase, "log", log)
    return run.path


SUPERVISED, POLICY = ("rounds/1/supervised/lr-0.1", 30), ("rounds/2", 8)


@pytest.mark.parametrize(
    ("place", "loss", "every"),
    [
        (SUPERVISED, "dr", 5), (SUPERVISED, "grpo", 0), (POLICY, "dr", 5), (POLICY, "dr", 0), (POLICY, "grpo", 5),
        (POLICY, "grpo", 0),
    ],
)  # fmt: skip
def test_a_loop_that_was_stopped_goes_on_to_the_same_numbers(run_of, tmp_path, monkeypatch, place, loss, every):
    whole = run_of(loss)
    config = compose([*SMALL, f"trainer.policy_loss={loss}", f"trainer.checkpoint_every={every}"])
    path = interrupted(config, tmp_path, monkeypatch, *place)
    assert [row["step"] for row in lines(path)] == ([0, 1] if place == POLICY else [0])
    fits, cross_fit = [], policy_training.cross_fit
    monkeypatch.setattr(policy_training, "cross_fit", lambda *args, **how: fits.append(1) or cross_fit(*args, **how))
    train(config, tmp_path, resume=path)
    assert len(fits) == (1 if place == POLICY else 2)  # a round that is done needs no reward model
    assert lines(path) == lines(whole)
    for folder in ("rounds/1", "rounds/2", "rounds/1/supervised/lr-0.1", "rounds/2/supervised/lr-0.1"):
        assert lines(path / folder) == lines(whole / folder)
    assert results(path)["metrics"] == results(whole)["metrics"]


def test_every_round_starts_from_the_run_that_is_given_whatever_becomes_of_it(tmp_path, monkeypatch):
    """A run that has learnt from all places, of which a deployed policy logs one."""
    first = train(compose([*DATA, "trainer.policy_loss=none"]), tmp_path)
    start = tmp_path / "start"
    shutil.copytree((first / "checkpoints" / "best").resolve(), start)
    weights = open_policy(start).model.state_dict()
    assert len(weights["places"]) > 1
    config = compose([*SMALL, f"model.init_from={start}"])
    whole = train(config, tmp_path / "whole")
    cut = interrupted(config, tmp_path / "cut", monkeypatch, "rounds/1", 8)
    begun = interrupted(config, tmp_path / "cut", monkeypatch, "rounds/2", 8)
    shutil.rmtree(start)
    with pytest.raises(ConfigError, match="there is no checkpoint any more"):  # the second round has not begun
        train(config, tmp_path, resume=cut)
    train(config, tmp_path, resume=begun)
    assert lines(begun) == lines(whole) and results(begun)["metrics"] == results(whole)["metrics"]
    for number in (1, 2):
        opened = open_policy(whole / "rounds" / str(number) / "supervised" / "opened" / "checkpoints" / "best")
        assert all(
            (tensor == weights[name]).all() for name, tensor in opened.model.state_dict().items() if name != "places"
        )


def test_another_process_than_the_main_one_touches_no_row(tmp_path, monkeypatch):
    """As a late one would, that comes to a phase when the main process has already written there."""
    config = job.resolve(compose(SMALL))
    machine = device.prepare("cpu", "fp32", threads=1, deterministic=True)
    begun = policy_training.begin(config, tmp_path, top_alone(world.load_slates(config.data)), machine, World(rank=1))
    phase = Phase(tmp_path / "supervised" / "lr-0.1")
    phase.log(0, {"val/loss": 1.0})
    with pytest.raises(ConfigError, match=r"best\.json cannot be read"):  # which the main process would have written
        policy_training.learn(config, phase, begun, None, machine, World(rank=1))
    assert lines(phase.path) == [{"step": 0, "val/loss": 1.0}]
    assert [each.name for each in phase.path.iterdir()] == ["metrics.jsonl"]


def test_what_is_not_read_is_said(tmp_path):
    assert not feedback_loop.ignored(compose(SMALL))
    words = ["trainer.rounds=1", "trainer.anchor=logging", "eval.folds=3", "eval.clip=2", "eval.split=val"]
    path = train(compose([*SMALL, *words, "trainer.max_steps=1", "trainer.reward_model_trees=1"]), tmp_path)
    said = (path / "run.log").read_text()
    for name in (
        "eval.folds=3",
        "eval.clip=2.0",
        "eval.split=val",
        "trainer.anchor=logging",
        "trainer.exploration=0.1",
    ):
        assert f"{name} is not read" in said, name


def test_only_the_world_answers_and_only_with_what_was_on_top():
    with pytest.raises(ConfigError, match="only the simulated world answers"):
        compose([*SMALL[:1], "trainer=feedback_loop", "data=open_bandit"])
    with pytest.raises(ConfigError, match=r"trainer\.rounds=0"):
        compose([*SMALL, "trainer.rounds=0"])
    with pytest.raises(ConfigError, match=r"trainer\.places=all: .* use trainer\.places=top"):
        compose([*SMALL, "trainer.places=all"])
    assert compose(SMALL).trainer.places == "top"
