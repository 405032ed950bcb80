"""The real trainer on a small world: it earns more than what it starts from, repeats itself, goes on after a stop."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from recsysml import job
from recsysml.config import compose
from recsysml.data import world, world_truth
from recsysml.data.slate_batches import ShownItems, SlateBatches
from recsysml.engine import checkpoint
from recsysml.errors import ConfigError, Interrupted
from recsysml.evals import policy as evals
from recsysml.examples import read_examples
from recsysml.ranking.policies import build, log_probabilities, open_policy
from recsysml.ranking.policy_loss import PolicyLoss, clipped_value
from recsysml.results import Run
from recsysml.runs import read_json
from recsysml.schemas.data import WorldConfig
from recsysml.schemas.policies import PolicyRankerConfig
from recsysml.schemas.policy_trainers import POLICY_LOSSES, SNAPSHOT_LOSSES, PolicyTrainerConfig
from recsysml.trainers import policy as trainer
from tests.trainers.running import lines, results, stopped, train

SMALL = [
    "model=policy_ranker", "data.users=300", "data.items=300", "data.events=12000", "trainer.max_steps=40",
    "trainer.batch_size=256", "trainer.supervised_steps=150", "trainer.supervised_lrs=[1e-1]", "trainer.eval_every=20",
    "trainer.reward_model_trees=10", "trainer.refresh_every=20", "threads=1",
    "trainer.checkpoint_every=20", "tracker.mode=disabled", "progress=never", "trainer.keep_memory=false",
    "eval.folds=2", "model.temperature=0.3",
]  # fmt: skip
START = ("supervised", "lr-0.1", "checkpoints", "best")


def trained(root, *more):
    return train(compose([*SMALL, *more]), root)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs"))


def test_it_earns_more_than_the_supervised_ranker_and_says_the_truth(first):
    found = results(first)["metrics"]
    value = found["test/policy/value"]
    assert value["value"] > value["baseline"] and found["test/policy/gain"]["value"] > 0
    assert (
        value["baselines"]["uniform"]
        < value["baselines"]["logging"]
        < value["baseline"]
        < value["baselines"]["optimum"]
    )
    # the truth by hand
    config = compose(SMALL)
    log = world.load_slates(config.data)
    opened = open_policy(first / "checkpoints" / "best")
    rows = np.arange(*log.bounds["test"])
    pi = np.exp(log_probabilities(opened.model, log, rows, batch_size=512)[0])
    true = world_truth.top_rewards(config.data, config.data.reward_weights)[rows]
    assert value["value"] == pytest.approx((pi * true).sum(1).mean(), rel=1e-6)
    best = np.where(log.mask[rows], true, -1).max(1).mean()
    logged = (log.logging[rows] * true).sum(1).mean()
    assert found["test/policy/gap_closed"]["value"] == pytest.approx((value["value"] - logged) / (best - logged))
    for name in ("dr", "snips", "ips"):
        assert found[f"test/policy/{name}"]["truth"] == pytest.approx(value["value"])
    assert {"test/click/logloss", "test/click/ece"} <= set(found)
    clicked = world_truth.top_rewards(config.data, {"click": 1.0})[rows]
    rates = read_examples(first / "examples.parquet")["test/click/rate"][1]
    np.testing.assert_allclose(rates, (pi * clicked).sum(1), rtol=1e-5)
    assert found["test/click/rate"]["value"] == pytest.approx((pi * clicked).sum(1).mean(), rel=1e-6)
    assert found["test/click/rate"]["baselines"]["logging"] == pytest.approx(
        (log.logging[rows] * clicked).sum(1).mean()
    )
    assert found["test/leave/rate"]["better"] == "lower" and (first / "sections" / "policy_rates_test.json").is_file()
    # on the way the truth is looked at, and says at step 0 what the supervised ranker earns
    looked = [row["val/policy/value"] for row in lines(first) if "val/policy/value" in row]
    assert looked[0] == pytest.approx(found["val/policy/value"]["baseline"], rel=1e-6) and len(looked) == 3
    assert (first / "sections" / "policy_gain_test.json").is_file() and (first / "plots" / "loss.png").is_file()


def test_the_baseline_is_the_supervised_ranker_trained_alone(first, tmp_path):
    alone = results(trained(tmp_path, "trainer.policy_loss=none"))["metrics"]
    assert alone["test/policy/value"]["value"] == pytest.approx(
        results(first)["metrics"]["test/policy/value"]["baseline"]
    )
    assert alone["test/policy/gain"]["value"] == 0


def test_it_starts_from_another_run_and_may_be_paid_otherwise(first, tmp_path):
    start = first.joinpath(*START)
    again = trained(tmp_path, f"model.init_from={start}")
    assert sorted(each.name for each in (again / "supervised").iterdir()) == ["best.json", "opened"]
    assert results(again)["metrics"]["test/policy/value"]["baseline"] == pytest.approx(
        results(first)["metrics"]["test/policy/value"]["baseline"]
    )
    rewards = [f"+model.weights.{task}={int(task == 'share')}" for task in ("click", "long_view", "like", "share")]
    shares = trained(tmp_path, f"model.init_from={start}", *rewards, "model.temperature=0.02", "trainer.max_steps=5")
    assert results(shares)["protocol"]["rewards"]["share"] == 1.0
    opened = open_policy(shares / "checkpoints" / "best").model
    assert opened.worth.tolist() == [0, 0, 0, 1] and opened.temperature.item() == pytest.approx(0.02)
    with pytest.raises(ConfigError, match="it has tasks"):
        trained(tmp_path, f"model.init_from={start}", "model.hidden=[4]")


def test_a_run_from_another_one_goes_on_from_what_that_was(first, tmp_path, monkeypatch):
    """Its features stand in another order, one is not logged any more; stopped, it finds neither run nor order again
    but in its own folder, which also says what it started from when it is judged later."""
    log = world.load_slates(job.resolve(compose(SMALL)).data)
    order = np.random.default_rng(3).permutation(len(log.item_names))[1:]
    other = dataclasses.replace(log, items=log.items[:, order], item_names=[log.item_names[i] for i in order])
    monkeypatch.setattr(world, "load_slates", lambda _: other)
    start = tmp_path / "start"
    shutil.copytree(first.joinpath(*START).resolve(), start)
    words = [*SMALL, f"model.init_from={start}", "model.temperature=0.1", "trainer.policy_loss=grpo"]
    words += ["trainer.max_steps=8", "trainer.eval_every=4", "trainer.checkpoint_every=4", "trainer.refresh_every=3"]
    words += ["trainer.reward_model_trees=5"]
    whole = train(compose(words), tmp_path / "whole")
    cut = stopped(compose(words), tmp_path / "cut", monkeypatch, at=6)
    shutil.rmtree(start)
    train(compose(words), tmp_path, resume=cut)
    assert lines(cut) == lines(whole)
    assert results(cut)["metrics"] == results(whole)["metrics"]
    # what it started from: the other run's weights, as this log has its features, as sharp as this run is
    opened = open_policy(first.joinpath(*START))
    opened.model.temperature.fill_(0.1)
    rows = np.arange(*log.bounds["test"])
    lacking = np.where(np.isin(np.arange(len(log.item_names)), order), log.items, 0.0).astype(np.float32)
    reads = dataclasses.replace(log, items=lacking)
    pi = np.exp(log_probabilities(opened.model, reads, rows, batch_size=512)[0])
    true = world_truth.top_rewards(compose(SMALL).data, log.weights)[rows]
    value = results(cut)["metrics"]["test/policy/value"]
    assert value["baseline"] == pytest.approx((pi * true).sum(1).mean(), rel=1e-6) != value["value"]
    config = job.resolve(compose(words))
    run = Run.create(tmp_path, "eval", "policy", argv=[], config=job.to_dict(config), overrides=[])
    evals.evaluate_checkpoint(config, cut / "checkpoints" / "best", run)
    run.finish("ok")
    again = run.record["metrics"]["test/policy/value"]
    assert (again["value"], again["baseline"]) == pytest.approx((value["value"], value["baseline"]), rel=1e-6)


def test_the_same_seed_gives_the_same_bits_and_a_stopped_run_goes_on(first, tmp_path, monkeypatch):
    """Stopped between two snapshots, which the losses of a snapshot must find again."""
    whole = trained(tmp_path, "trainer.policy_loss=ecpo")
    config = job.resolve(compose([*SMALL, "trainer.policy_loss=ecpo"]))
    run = Run.create(tmp_path, "train", "stopped", argv=[], config=job.to_dict(config), overrides=[])
    kept, calls = PolicyLoss.__call__, []

    def stopping(self, *args):
        calls.append(1)
        if len(calls) == 33:
            raise KeyboardInterrupt
        return kept(self, *args)

    monkeypatch.setattr(PolicyLoss, "__call__", stopping)
    with pytest.raises(Interrupted):
        job.run(config, run)
    monkeypatch.undo()
    again = Run.reopen(run.path)
    job.run(config, again)
    assert lines(run.path) == lines(whole)
    assert results(run.path)["metrics"]["test/policy/value"] == results(whole)["metrics"]["test/policy/value"]


def test_every_loss_moves_the_policy_and_logs_what_it_is_made_of(tmp_path):
    log = world.load_slates(WorldConfig(users=200, items=200, events=3000))
    rewards = dict(log.weights)
    torch.manual_seed(0)
    model = build(PolicyRankerConfig(), log, rewards, 8)
    rows = np.arange(len(log))
    anchor, _ = log_probabilities(model, log, rows, batch_size=512)
    q = np.random.default_rng(0).random(log.mask.shape).astype(np.float32)
    batch = SlateBatches(log, log.fitted, batch_size=64, seed=0, tasks=list(rewards))[0]
    gradients = []
    for kind in POLICY_LOSSES:
        how = PolicyTrainerConfig(policy_loss=kind, kl_weight=0.1, policy_weight=2.0)
        loss = PolicyLoss(model, log, how, q, anchor, tmp_path / kind)
        total, named = loss(model, *batch)
        whole = named["train/loss"] + 2.0 * named["train/policy_loss"] + 0.1 * named["train/kl"]
        assert torch.allclose(total, whole) and named["train/kl"].abs() < 1e-5  # nothing has moved yet
        gradients.append(torch.autograd.grad(named["train/policy_loss"], model.parts[1].weight)[0].flatten())
        assert gradients[-1].norm() > 1e-4, kind
        assert (tmp_path / kind).exists() == (kind in SNAPSHOT_LOSSES)
    # all of them point where the log paid more than was expected of it
    alike = [float(torch.cosine_similarity(gradients[2], other, dim=0)) for other in gradients]
    assert min(alike) > 0.0


def test_an_anchor_holds_the_policy_back(first, tmp_path):
    start = f"model.init_from={first.joinpath(*START)}"
    free, held = (
        lines(trained(tmp_path, start, f"trainer.kl_weight={weight}", "trainer.max_steps=20")) for weight in (0.0, 3.0)
    )
    assert held[-1]["val/policy/kl"] < 0.2 * free[-1]["val/policy/kl"]


def test_nothing_is_learnt_from_the_test_and_the_best_of_several_rates_is_what_it_starts_from(tmp_path, monkeypatch):
    """With every action of the test turned round the weights are the same, of both rankers."""
    log = world.load_slates(WorldConfig(users=150, items=150, events=3000))
    start, stop = log.bounds["test"]
    turned = {name: getattr(log, name).copy() for name in ("actions", "slate_actions")}
    for values in turned.values():
        values[start:stop] = 1 - values[start:stop]
    words = [
        "trainer.supervised_lrs=[1e-6,3e-1]",
        "trainer.max_steps=20",
        "trainer.kl_weight=0.5",
    ]
    small = ["data.users=150", "data.items=150", "data.events=3000", "trainer.supervised_steps=500"]
    config = job.resolve(compose([*SMALL, *words, *small, "trainer.anchor=logging"]))
    found = []
    for each in (log, dataclasses.replace(log, **turned)):
        run = Run.create(tmp_path, "train", "policy", argv=[], config=job.to_dict(config), overrides=[])
        monkeypatch.setattr(world, "load_slates", lambda _, each=each: each)
        trainer.train(config, run)
        run.finish("ok")
        best = read_json(run.path / "supervised" / "best.json")
        places = run.path / "supervised" / best["folder"] / "checkpoints" / "best", run.path / "checkpoints" / "best"
        found.append((run, best, [checkpoint.load_weights(place)[0] for place in places]))
    (run, best, weights), (_, _, others) = found
    for own, other in zip(weights, others, strict=True):
        assert all(torch.equal(own[name], other[name]) for name in own)
    least = {
        folder.name: min(row["val/loss"] for row in lines(folder) if "val/loss" in row)
        for folder in (run.path / "supervised").glob("lr-*")
    }
    assert len(least) == 2 and best == {"folder": min(least, key=least.__getitem__), "log_loss": min(least.values())}
    # the weights kept are those of that loss, and where the policy starts; its distance is from the policy that logged
    kept = run.path / "supervised" / best["folder"] / "checkpoints"
    assert checkpoint.read_metadata(kept / "best")["step"] < checkpoint.read_metadata(kept / "last")["step"]
    model = open_policy(kept / "best").model
    shown = ShownItems(log, model.tasks)
    *features, place, actions = shown.of(shown.within(log.bounds["val"]))
    with torch.no_grad():
        logits = model.placed(model(*features)[:, 0], place)
    missed = torch.nn.functional.binary_cross_entropy_with_logits(logits, actions)
    assert missed.item() == pytest.approx(best["log_loss"], rel=1e-5)
    val = np.arange(*log.bounds["val"])
    logits = log_probabilities(model, log, val, batch_size=512)[1]
    missed = (
        np.logaddexp(0, logits) - logits * log.actions[val][:, [list(log.tasks).index(task) for task in model.tasks]]
    )
    assert lines(run.path)[0]["val/loss"] == pytest.approx(missed.mean(), rel=1e-5)
    first = next(row for row in lines(run.path) if "train/kl" in row)
    batch = SlateBatches(log, log.fitted, batch_size=256, seed=config.seed, tasks=model.tasks)[0]
    pi = model.log_policy(model(*batch[:3]), batch[3]).exp().detach().numpy()
    gap = np.where(pi > 0, pi * np.log(np.maximum(pi, 1e-30) / np.maximum(log.logging[batch[6]], 1e-12)), 0)
    assert first["train/kl"] == pytest.approx(gap.sum(1).mean(), rel=1e-2) and first["train/kl"] > 0.01
    # and what is judged are the weights of the best validation, by what is said to choose them
    looked = {row["step"]: row["val/policy/clipped_dr"] for row in lines(run.path) if "val/policy/clipped_dr" in row}
    step = checkpoint.read_metadata(run.path / "checkpoints" / "best")["step"]
    assert step == max(looked, key=looked.__getitem__) < 20
    rows = np.arange(*log.bounds["test"])
    pi = np.exp(log_probabilities(open_policy(run.path / "checkpoints" / "best").model, log, rows, batch_size=512)[0])
    true = world_truth.top_rewards(config.data, log.weights)[rows]
    assert run.record["metrics"]["test/policy/value"]["value"] == pytest.approx((pi * true).sum(1).mean(), rel=1e-6)


def test_what_is_not_read_is_said_and_that_there_is_nothing_to_gain(tmp_path, caplog, monkeypatch):
    assert not PolicyTrainerConfig().ignored()
    assert not PolicyTrainerConfig(kl_weight=0.1, anchor="logging").ignored()
    assert not PolicyTrainerConfig(reward_model="network", reward_model_steps=9).ignored()
    assert "trainer.reward_model_steps=9" in PolicyTrainerConfig(reward_model_steps=9).ignored()[0]
    assert (
        "trainer.reward_model_trees=9" in PolicyTrainerConfig(reward_model="network", reward_model_trees=9).ignored()[0]
    )
    assert "trainer.kl_weight=0.1" in PolicyTrainerConfig(kl_weight=0.1, policy_loss="none").ignored()[0]
    assert "trainer.anchor=logging" in PolicyTrainerConfig(anchor="logging").ignored()[0]
    log = world.load_slates(WorldConfig(users=150, items=150, events=3000))
    same = dataclasses.replace(log, actions=np.zeros_like(log.actions))
    small = ["data.users=150", "data.items=150", "data.events=3000", "trainer.supervised_steps=2"]
    config = job.resolve(compose([*SMALL, *small, "trainer.policy_loss=none", "trainer.anchor=logging"]))
    for each, said in ((log, False), (same, True)):
        caplog.clear()
        run = Run.create(tmp_path, "train", "policy", argv=[], config=job.to_dict(config), overrides=[])
        monkeypatch.setattr(world, "load_slates", lambda _, each=each: each)
        trainer.train(config, run)
        run.finish("ok")
        assert ("there is nothing to gain" in caplog.text) == said and "trainer.kl_weight is 0" in caplog.text


def test_an_anchor_or_a_split_that_the_data_cannot_have_costs_no_run():
    bts = ["data=open_bandit", "data.behaviour=bts", "trainer.anchor=logging"]
    compose([*SMALL[:1], *bts])  # without a weight it is not asked for
    with pytest.raises(ConfigError, match=r"trainer\.anchor=logging: bts has logged only"):
        compose([*SMALL[:1], *bts, "trainer.kl_weight=0.1"])
    with pytest.raises(ConfigError, match=r"use data\.split=time"):
        compose([*SMALL, "data.split=last_out"])


def test_clipped_value_is_doubly_robust_without_a_clip():
    config = WorldConfig(users=300, items=300, events=15_000)
    log = world.load_slates(config)
    true = world_truth.top_rewards(config, log.weights)
    rows = np.arange(len(log))
    pi = 0.5 * log.logging + 0.5 * log.mask / log.mask.sum(1, keepdims=True)
    with np.errstate(divide="ignore"):
        found = clipped_value(np.log(pi), log, rows, log.rewards(), np.zeros_like(true), 0.0)
    assert found == pytest.approx((pi * true).sum(1).mean(), abs=0.08)
    with np.errstate(divide="ignore"):
        sure = clipped_value(np.log(pi), log, rows, log.rewards(), true, 1.0)
    assert sure == pytest.approx((pi * true).sum(1).mean(), abs=0.02)


def test_a_checkpoint_is_judged_again_as_it_was(first, tmp_path):
    config = job.resolve(compose([*SMALL]))
    run = Run.create(tmp_path, "eval", "policy", argv=[], config=job.to_dict(config), overrides=[])
    evals.evaluate_checkpoint(config, first / "checkpoints" / "best", run)
    before = results(first)["metrics"]["test/policy/value"]["value"]
    assert run.record["metrics"]["test/policy/value"]["value"] == pytest.approx(before, rel=1e-6)
    run.finish("ok")
