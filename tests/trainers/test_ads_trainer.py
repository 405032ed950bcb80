"""Ad placement through the whole command: learnt from a log, judged by the truth, opened again, swept over its dial."""

import json
import shutil

import numpy as np
import pytest

from recsysml import sections
from recsysml.cli import main
from recsysml.config import compose
from recsysml.evals import ads
from recsysml.results import Run
from recsysml.schemas.trainers import AdsTrainerConfig
from recsysml.trainers.ads import ignored

SMALL = ["data.sessions=6000", "device=cpu", "threads=1", "tracker.mode=disabled", "progress=never"]
SHORT = ["trainer.max_steps=60", "trainer.batch_size=256", "trainer.warmup_steps=5", "trainer.eval_every=20"]
QUICK = [*SMALL, *SHORT]
MIDDLE = ["data.sessions=25000", *SMALL[1:], "trainer.max_steps=250", "trainer.warmup_steps=30"]


def train(folder, *words):
    before = set((folder / "train").iterdir()) if (folder / "train").is_dir() else set()
    assert main(["train", *words]) == 0
    (path,) = set((folder / "train").iterdir()) - before
    return path, json.loads((path / "results.json").read_text())


def values(results):
    return {name: entry["value"] for name, entry in results["metrics"].items()}


def test_a_run_is_recorded_and_judged_again(own_outputs):
    path, results = train(own_outputs, "model=ad_placement", *QUICK)
    metrics = results["metrics"]
    value, gap = metrics["test/policy/value"], metrics["test/policy/gap_closed"]
    best = value["baselines"]["best"]
    assert value["baseline"] < best
    assert gap["value"] == pytest.approx((value["value"] - value["baseline"]) / (best - value["baseline"]))
    parts = metrics["test/policy/revenue"]["value"], metrics["test/policy/engagement"]["value"]
    assert value["value"] == pytest.approx(sum(parts))  # dial and minute_value are 1
    assert metrics["test/policy/dr"]["stderr"] < metrics["test/policy/ips"]["stderr"]
    assert results["artifacts"]["plots"] == ["plots/trade_off.png", "plots/loss.png"]
    curve = sections.read(path / "sections" / "ads.json")["parts"][0]["points"]
    assert {"best possible", "this model, its dial turned", "the log", "this policy, dial 1"} == {
        point["curve"] for point in curve
    }

    assert main(["eval", f"checkpoint={path}", *SMALL[1:]]) == 0
    (again,) = (own_outputs / "eval").iterdir()
    judged = values(json.loads((again / "results.json").read_text()))
    assert judged == {name: value for name, value in values(results).items() if name.startswith("test/")}

    turned = []
    for dial in (0, 1, 4):
        assert main(["eval", f"checkpoint={path}", f"eval.dial={dial}", *SMALL[1:]]) == 0
        newest = max((own_outputs / "eval").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
        record = json.loads((newest / "results.json").read_text())
        assert record["protocol"]["dial"] == dial
        turned.append(values(record))
    assert turned[1] == judged
    for name, sign in (("revenue", -1), ("engagement", 1)):
        assert (np.diff([sign * each[f"test/policy/{name}"] for each in turned]) > 0).all()
    # the curve of the report is of the same policies, at every setting of the dial in between
    points = [point for point in curve if point["curve"] == "this model, its dial turned"]
    minutes, revenue = (np.array([point[axis] for point in points]) for axis in ("x", "y"))
    assert (np.diff(minutes) >= 0).all() and (np.diff(revenue) <= 0).all() and len(points) == 9
    assert (minutes[0], revenue[0]) == pytest.approx(
        [turned[0][f"test/policy/{name}"] for name in ("engagement", "revenue")]
    )


def test_the_same_config_gives_the_same_numbers(own_outputs):
    first, again, other = (train(own_outputs, "model=ad_placement", f"seed={seed}", *QUICK)[1] for seed in (1, 1, 2))
    assert values(first) == values(again) != values(other)


def test_what_is_best_is_learnt_wherever_the_rewards_zero_is(own_outputs):
    words = ["model=ad_placement", "data.seed=2", *MIDDLE]
    plain, moved = (
        values(train(own_outputs, *words, f"trainer.reward_shift={shift}")[1])["test/policy/gap_closed"]
        for shift in (0, -3)
    )
    assert plain > 0.9
    assert moved == pytest.approx(plain, abs=1e-3)


def test_reinforce_needs_its_baseline_and_its_weights(own_outputs):
    def found(model, shift):
        words = [f"model=ad_placement_with/{model}", f"trainer.reward_shift={shift}", *MIDDLE]
        metrics = values(train(own_outputs, *words)[1])
        return metrics["test/policy/gap_closed"], metrics["test/policy/revenue"]

    whole, plain = ([found(model, shift) for shift in (0, -3)] for model in ("reinforce", "plain_reinforce"))
    assert whole[1] == pytest.approx(whole[0], abs=0.01)
    assert whole[0][0] > 0.8 > 0.65 > max(gap for gap, _ in plain)
    assert plain[1][1] > 2 * plain[0][1]  # below zero whatever is often done is unlearnt, above it copied


def test_a_sweep_of_the_dial_draws_the_trade(own_outputs):
    dials = "0,5"
    words = ["model=ad_placement_with/ipw", f"model.dial={dials}", "data.seed=1,2", "sweep.name=dial", *QUICK]
    assert main(["train", "-m", *words]) == 0
    folder = own_outputs / "sweep" / "dial"
    assert (folder / "plots" / "trade_off.png").is_file()
    rows = json.loads((folder / "sweep.json").read_text())["jobs"]
    revenue, minutes = (
        np.array([row["metrics"][f"test/policy/{name}"]["value"] for row in rows]).reshape(2, 2)
        for name in ("revenue", "engagement")
    )
    assert (np.diff(revenue, axis=0) < 0).all()
    assert (np.diff(minutes, axis=0) > 0).all()
    (path, *_) = [folder / row["path"] for row in rows]
    assert main(["eval", f"checkpoint={path}", *SMALL[1:]]) == 0  # by a name that no file of conf/ has


def test_a_mistake_costs_no_run(own_outputs, capsys):
    for word, said in (
        ("model.method=bandits", "Did you mean: bandit?"),
        ("trainer.learning=drr", "Did you mean: dr?"),
        ("data=world", "data that fit model=ad_placement: ad_world"),
        ("data.places=5", "3 places at most"),
        ("eval.dial=2", "belongs to `recsysml eval`"),
        ("eval.dial=-2", "at least 0"),
    ):
        assert main(["train", "model=ad_placement", word, *SMALL[1:]]) == 2
        assert said in capsys.readouterr().err
    assert not own_outputs.exists()


def test_what_a_method_does_not_read_is_said():
    def said(method, **change):
        return ignored(AdsTrainerConfig(**change), method)

    assert not said("bandit", learning="ipw") and not said("reinforce", baseline="mean", max_weight=5.0)
    assert said("reinforce", learning="ipw") == ["trainer.learning=ipw is not read: model.method=reinforce"]
    assert len(said("blending", baseline="none", importance_weights=False)) == 2


def test_what_reinforce_has_learnt_is_turned_to_no_other_dial(own_outputs, capsys):
    path, _ = train(own_outputs, "model=ad_placement_with/reinforce", *QUICK, "model.dial=1.5")
    capsys.readouterr()
    assert main(["eval", f"checkpoint={path}", "eval.dial=2", *SMALL[1:]]) == 2
    said = capsys.readouterr().err
    assert "eval.dial=2: reinforce has learnt its own for good, model.dial=1.5" in said and said.count("\n") == 1
    assert not (own_outputs / "eval").exists()
    bare = own_outputs / "bare"
    shutil.copytree((path / "checkpoints" / "best").resolve(), bare)  # of which no run tells
    assert main(["eval", f"checkpoint={bare}", "eval.dial=2", "data=ad_world", *SMALL]) == 2
    assert "eval.dial=2: reinforce has learnt" in capsys.readouterr().err
    assert main(["eval", f"checkpoint={path}", *SMALL[1:]]) == 0
    # nor by a config that no command has composed
    config = compose(["model=ad_placement_with/reinforce", *QUICK])
    config.eval.dial = 2.0
    run = Run.create(own_outputs, "eval", "ads", argv=[], config={}, overrides=[])
    with pytest.raises(AssertionError, match="cannot be turned"):
        ads.evaluate_checkpoint(config, bare, run)


def test_a_log_of_other_actions_is_refused(own_outputs, capsys):
    path, _ = train(own_outputs, "model=ad_placement_with/ipw", *QUICK)
    assert main(["eval", f"checkpoint={path}", "data.ads=3", *SMALL[1:]]) == 1
    assert "other features" in capsys.readouterr().err


def test_a_stopped_run_goes_on_to_the_same_numbers(own_outputs):
    _, whole = train(own_outputs, "model=ad_placement_with/reinforce", *QUICK, "trainer.checkpoint_every=20")
    path, _ = train(own_outputs, "model=ad_placement_with/reinforce", *QUICK, "trainer.checkpoint_every=20")
    record = json.loads((path / "results.json").read_text())
    record["run"]["status"] = "interrupted"
    record["metrics"] = {}
    (path / "results.json").write_text(json.dumps(record))
    for name in ("step-00000060", "last"):  # as if it had been killed after step 40
        place = path / "checkpoints" / name
        place.rename(path / "checkpoints" / f"gone-{name}")
    assert main(["train", "--resume", str(path)]) == 0
    assert values(json.loads((path / "results.json").read_text())) == values(whole)
