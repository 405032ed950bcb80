"""The real trainer on a small table: it learns what is planted; stopped and resumed it gives the same numbers."""

import dataclasses

import numpy as np
import polars as pl
import pytest
import torch
from scipy.special import expit

from recsysml.cli import main
from recsysml.data.impression_batches import ImpressionInputs
from recsysml.data.impressions import load_impressions
from recsysml.diff import REFUSED, compare
from recsysml.errors import ConfigError
from recsysml.evals import ranking as evals
from recsysml.models.mtml import MTML
from recsysml.ranking.calibrating import calibrate, fit_calibration, map_to_judge
from recsysml.ranking.calibration_losses import CalibrationLosses
from recsysml.ranking.opening import open_ranker
from recsysml.ranking.scoring import logits
from recsysml.schemas.evals import RankingEvalConfig
from recsysml.schemas.impressions import ImpressionsConfig
from recsysml.schemas.rankers import MTMLConfig
from recsysml.schemas.run import RunConfig, TrackerConfig
from recsysml.schemas.trainers import RankingTrainerConfig
from recsysml.trainers.ranking import TaskLoss, gradient_norms
from tests.trainers.running import lines, results, stopped, train

N = 2400


@pytest.fixture
def file(tmp_path):
    """A click where user and item are of one parity, nearly always; a like only of clicked ones; places hide a half."""
    rng = np.random.default_rng(0)
    users, items, places = rng.integers(0, 6, N), rng.integers(0, 6, N), rng.integers(0, 2, N)
    relevant = rng.random(N) < np.where((users + items) % 2 == 0, 0.9, 0.1)
    click = relevant & ((places == 0) | (rng.random(N) < 0.5))
    like = click & (rng.random(N) < np.where(items < 3, 0.8, 0.2))
    columns = {"user": users, "item": items, "place": places, "noise": rng.normal(size=N).round(3)}
    columns |= {"slate": np.arange(N) // 4, "click": click.astype(int), "like": like.astype(int)}
    path = tmp_path / "log.csv"
    pl.DataFrame(columns).write_csv(path)
    return path


def data(file):
    return ImpressionsConfig(
        path=str(file), position_column="place", request_column="slate", user_column="user", target_column="item",
        cohorts=["item"], dense=["noise"], sparse=["user", "item"], labels={"click": "binary", "like": "binary"},
    )  # fmt: skip


def configure(file, model=None, **trainer):
    plain = {"max_steps": 120, "batch_size": 100, "lr": 2e-2, "warmup_steps": 5, "precision": "fp32"}
    plain |= {"eval_every": 20, "checkpoint_every": 10}
    small = {"d_embedding": 8, "expert_widths": [16], "tower_widths": [8], "n_experts": 2}
    return RunConfig(
        model=MTMLConfig(**small | (model or {})),
        data=data(file),
        trainer=RankingTrainerConfig(**{**plain, **trainer}),
        eval=RankingEvalConfig(baselines=["base_rate", "logistic_regression"]),
        tracker=TrackerConfig(mode="disabled"),
        device="cpu",
        threads=1,
        progress="never",
    )


CHOICES = [
    {},
    {"position": "examination", "factorised": {"like": "click"}, "weighting": "uncertainty"},
    {"mixer": "ple", "interaction": "dot", "weighting": "gradnorm"},
]


@pytest.mark.parametrize("model", CHOICES, ids=str)
def test_what_is_planted_is_learnt_and_no_linear_model_finds_it(file, tmp_path, model):
    path = train(configure(file, model), tmp_path)
    found = results(path)
    auc = found["metrics"]["test/click/auc"]
    assert auc["value"] > 0.8
    assert auc["baseline"] == 0.5
    assert auc["baselines"]["logistic_regression"] < 0.75
    assert 0 < auc["stderr"] < 0.05
    assert found["metrics"]["test/click/ne"]["value"] < 0.9
    assert found["metrics"]["test/click/ne"]["baseline"] == pytest.approx(1, abs=0.02)
    assert found["metrics"]["test/like/auc"]["value"] > 0.75
    assert found["protocol"]["positions"] == "as shown"
    assert found["throughput"]["unit"] == "impressions/s"
    assert found["data"]["sizes"] == {"train": 1680, "val": 120, "calibration": 120, "test": 480}


def test_a_checkpoint_scores_as_the_trained_model_did(file, tmp_path):
    path = train(configure(file, {"factorised": {"like": "click"}}), tmp_path)
    opened = open_ranker(path / "checkpoints" / "best")
    table = load_impressions(data(file), opened.encoder)
    assert table.fingerprint == results(path)["data"]["fingerprint"]
    scores = logits(opened.model, table, table.bounds["test"], batch_size=50)
    judged = evals.judge(scores, table, table.bounds["test"], opened.model.tasks)
    for task in ("click", "like"):
        for name, (value, error, n) in judged[task].items():
            metric = results(path)["metrics"][f"test/{task}/{name}"]
            assert metric["value"] == pytest.approx(value, abs=1e-6)
            assert metric["stderr"] == pytest.approx(error, abs=1e-6)
            assert metric["n"] == n
    served = logits(opened.model, table, table.bounds["test"], batch_size=77, placed=False)
    start, stop = table.bounds["test"]
    top = table.positions[start:stop] == 0
    assert np.allclose(served[top], scores[top], atol=1e-5)
    assert served[~top, 0].mean() > scores[~top, 0].mean() + 0.2  # what the lower place hid is given back


def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(file, tmp_path, monkeypatch):
    config = configure(file, {"weighting": "gradnorm", "dropout": 0.1}, max_steps=25)
    whole = train(config, tmp_path / "whole")
    path = stopped(config, tmp_path / "stopped", monkeypatch, at=17)
    train(config, tmp_path, resume=path)
    assert lines(path) == lines(whole)
    assert results(path)["metrics"] == results(whole)["metrics"]


@pytest.mark.parametrize("kind", ["temperature", "platt", "beta", "isotonic", "isotonic_layer"])
def test_a_calibration_is_kept_with_the_checkpoint_and_leaves_the_order_as_it_is(file, tmp_path, kind):
    """What is served on test is fit_calibration's map of the raw logits of all rows that are held out before test, on
    val that of those which val does not hold."""
    config = configure(file, {"calibration": kind}, max_steps=60)
    config.data.val_fraction = 0.4
    path = train(config, tmp_path)
    opened = open_ranker(path / "checkpoints" / "best")
    table = load_impressions(config.data, opened.encoder)
    val, later, rows = (table.bounds[name] for name in ("val", "calibration", "test"))
    assert table.fitted[1] == val[0] and val[1] == later[0] and later[1] == rows[0]
    assert table.requests[later[0] - 1] != table.requests[later[0]]

    def mapped(fitted_on, judged):
        raw = [logits(opened.model, table, span, batch_size=64, calibrated=False) for span in (fitted_on, judged)]
        fitted = fit_calibration(kind, raw[0], table.labels[slice(*fitted_on)].astype(float))
        return fitted(torch.tensor(raw[1]).float()).numpy()

    served = logits(opened.model, table, rows, batch_size=64)
    assert np.allclose(served, mapped((val[0], rows[0]), rows), atol=2e-3)
    judged = evals.judge(mapped(later, val).astype(float), table, val, opened.model.tasks)
    for task in ("click", "like"):
        loss = results(path)["metrics"][f"val/{task}/logloss"]["value"]
        assert loss == pytest.approx(judged[task]["logloss"][0], abs=1e-5)
    found = results(path)["metrics"]
    for task in ("click", "like"):
        auc = found[f"test/{task}/auc"]
        assert abs(auc["value"] - auc["baselines"]["uncalibrated"]) <= 5e-4
        assert "uncalibrated" in found[f"test/{task}/ece"]["baselines"] and found[f"test/{task}/ece"]["perfect"] > 0
        assert (path / "plots" / f"reliability_test_{task}.png").is_file()
    assert (path / "sections" / "calibration_test.json").is_file()


def test_a_planted_miscalibration_is_mended(file, tmp_path):
    """Every logit four times as large: raw probabilities are far off, calibrated ones are as good as they were."""
    config = configure(file, {"position": "none"}, max_steps=60)
    config.data.val_fraction = 0.4
    path = train(config, tmp_path)
    opened = open_ranker(path / "checkpoints" / "best")
    table = load_impressions(config.data, opened.encoder)
    with torch.no_grad():
        opened.model.towers.last.mul_(4)
        opened.model.towers.last_bias.mul_(4)
    assert calibrate(opened.model, table, table.held_out, batch_size=100, device="cpu")
    rows, found = table.bounds["test"], {}
    for calibrated in (False, True):
        scores = logits(opened.model, table, rows, batch_size=100, calibrated=calibrated)
        found[calibrated] = evals.judge(scores, table, rows, opened.model.tasks)
    for task in ("click", "like"):
        before = results(path)["metrics"][f"test/{task}/ne"]["value"]
        assert found[False][task]["ne"][0] > before + 0.2
        assert found[True][task]["ne"][0] == pytest.approx(before, abs=1e-3)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_shift_of_a_cohort_is_fitted_to_its_own_rows_and_served_to_its_own(file, seed):
    """Of a ranker that says nearly the same of all rows, odd items being clicked more: by hand, the logit of each one's
    own rate among the held-out rows."""
    rng, odd = np.random.default_rng(seed), pl.read_csv(file)["item"].to_numpy() % 2 == 1
    clicks = (rng.random(N) < np.where(odd, 0.75, 0.25)).astype(int)
    pl.read_csv(file).with_columns(click=clicks).write_csv(file)
    config = data(file)
    config.val_fraction = 0.5
    table = load_impressions(config)
    torch.manual_seed(seed)
    small = {"d_embedding": 4, "expert_widths": [8], "n_experts": 2, "position": "none"}
    model = MTML(MTMLConfig(calibration="none", calibrate_cohorts=True, **small), table.shape).eval()
    assert calibrate(model, table, table.held_out, batch_size=100, device="cpu")
    start, stop = table.bounds["test"]
    served, raw = (
        logits(model, table, (start, stop), batch_size=70, calibrated=c)[:, 0].astype(np.float32) for c in (True, False)
    )
    known = dict(enumerate(["other", *table.encoder.vocabularies["item"]]))
    item = np.array([int(known[i]) for i in table.cohort("item")])
    click, held = table.labels[:, 0], np.zeros(len(table), bool)
    held[slice(*table.held_out)] = True
    for cohort in range(6):
        (shift,) = np.unique((served - raw)[item[start:stop] == cohort].round(4))
        own = click[held & (item == cohort)].mean()
        wanted = np.log(own / (1 - own)) - raw.mean()
        assert shift == pytest.approx(wanted, abs=0.2) and abs(shift) > 0.7  # the prior pulls a little


def test_losses_can_be_added_and_are_logged_by_name(file, tmp_path):
    more = {"bucket_weight": 1.0, "cohort_weight": 1.0, "listwise_weight": 0.2}
    path = train(configure(file, {"calibration": "none"}, max_steps=3, **more), tmp_path)
    first = lines(path)[1]
    assert {"train/bucket", "train/listwise", "train/cohort"} <= set(first)
    assert "uncalibrated" not in results(path)["metrics"]["test/click/ne"]["baselines"]
    assert not results(path)["metrics"]["test/click/ece"]["baselines"]


def test_gradnorm_is_given_each_tasks_own_gradient(file):
    """The norms by one backward pass a task, on a model of its own."""
    table = load_impressions(data(file))
    torch.manual_seed(0)
    model = MTML(configure(file, {"weighting": "gradnorm"}).model, table.shape)
    batch = ImpressionInputs(table, 5).of(np.arange(50))
    kinds = ["binary", "binary"]
    loss = TaskLoss(model, [0, 1], kinds, CalibrationLosses(RankingTrainerConfig(), model, kinds))
    value, named = loss(model, *batch)
    assert named["train/loss"].item() == pytest.approx(
        (named["train/click/loss"] + named["train/like/loss"]).item() / 2
    )
    logits_ = model(*batch[:-2])
    for task in range(2):
        own = torch.nn.functional.binary_cross_entropy_with_logits(logits_[:, task], batch[-1][:, task])
        model.zero_grad()
        own.backward(retain_graph=True)
        wanted = model.mixer.shared_weight().grad.norm()
        torch.testing.assert_close(gradient_norms(own[None], model.mixer.shared_weight())[0], wanted)
    value.backward()
    assert model.task_weights.scores.grad.abs().sum() > 0


def test_from_the_command_line_and_judged_again(file, own_outputs, capsys):
    words = [
        "train", "model=mtml", "data=impressions", f"data.path={file}", "data.position_column=place",
        "data.sparse=[user,item]", "+data.labels.click=binary", "+data.labels.like=binary", "model.expert_widths=[16]",
        "model.d_embedding=8", "trainer.max_steps=30", "trainer.lr=1e-2", "trainer.batch_size=100",
        "eval.baselines=[base_rate]", "threads=1", "device=cpu",
    ]  # fmt: skip
    assert main(words) == 0
    (path,) = (own_outputs / "train").iterdir()
    assert main(["eval", f"checkpoint={path}"]) == 0
    (judged,) = (own_outputs / "eval").iterdir()
    test = {name: entry for name, entry in results(path)["metrics"].items() if name.startswith("test/")}
    again = results(judged)["metrics"]
    assert again.keys() == test.keys()
    for name, entry in test.items():
        assert again[name]["value"] == pytest.approx(entry["value"], abs=1e-6)
    capsys.readouterr()
    for extra, line in (
        (["model.tasks=[clik]"], "model.tasks: clik is no task here. Did you mean: click?"),
        (["data.sparse=[user,thing]"], "no column 'thing' (data.sparse)"),
    ):
        assert main([*words, *extra]) == 2
        assert line in capsys.readouterr().err
    assert main(["train", "model=mtml", "data=ml-100k"]) == 2
    assert "data that fit model=mtml: impressions, kuairand, world" in capsys.readouterr().err
    assert len(list((own_outputs / "train").iterdir())) == 1  # nothing was written


def test_val_is_judged_by_no_map_that_has_seen_it_whichever_command_judges(file, own_outputs, caplog):
    """`eval` of val is training's own judgement of it; of rows cut otherwise nobody knows, and nothing is compared."""
    words = [
        "data=impressions", f"data.path={file}", "data.sparse=[user,item]", "+data.labels.click=binary",
        "+data.labels.like=binary", "data.request_column=slate", "eval.baselines=[base_rate]", "threads=1",
        "device=cpu", "tracker.mode=disabled",
    ]  # fmt: skip
    small = ["model.expert_widths=[16]", "model.d_embedding=8", "trainer.max_steps=10", "trainer.warmup_steps=1"]
    assert main(["train", "model=mtml", "trainer.lr=1e-2", "trainer.batch_size=100", *small, *words]) == 0
    (path,) = (own_outputs / "train").iterdir()
    trained, seen = results(path), {}
    for name, more in (("val", []), ("test", []), ("cut", ["data.val_fraction=0.2"])):
        split, known = ("test" if name == "test" else "val"), set((own_outputs / "eval").glob("*"))
        assert main(["eval", f"checkpoint={path}", f"eval.split={split}", *words, *more]) == 0
        (judged,) = set((own_outputs / "eval").glob("*")) - known
        seen[name] = results(judged)
        row = next(row for row in compare(path, judged).metrics if row.name == f"{split}/click/logloss")
        assert (row.verdict == REFUSED) == (name == "cut")
    for name in ("val", "test"):
        own = {key: entry for key, entry in trained["metrics"].items() if key.startswith(f"{name}/")}
        assert (
            seen[name]["metrics"].keys() == own.keys() - {"val/loss"} and seen[name]["protocol"] == trained["protocol"]
        )
        for key, entry in seen[name]["metrics"].items():
            assert entry["value"] == pytest.approx(own[key]["value"], abs=1e-6), key
    assert seen["cut"]["protocol"]["calibrated_on"]["val"] != trained["protocol"]["calibrated_on"]["val"]
    assert caplog.text.count("may be among those that its calibration was fitted to") == 1

    # the map that is kept has seen val, and says other things of it
    opened = open_ranker(path / "checkpoints" / "best")
    config = dataclasses.replace(data(file), position_column=None, target_column=None, user_column=None, dense=[])
    table = load_impressions(config, opened.encoder)
    own, val = trained["metrics"]["val/click/logloss"]["value"], table.bounds["val"]
    kept = evals.judge(logits(opened.model, table, val, batch_size=64), table, val, opened.model.tasks)
    assert abs(kept["click"]["logloss"][0] - own) > 1e-4


@pytest.fixture
def shifted(file):
    """From the middle on two of three clicks no longer come: who learns from train alone expects too many."""
    table = pl.read_csv(file)
    rng = np.random.default_rng(1)
    lost = (np.arange(N) >= 0.5 * N) & (rng.random(N) < 2 / 3)
    clicks = (table["click"].to_numpy() == 1) & ~lost
    table.with_columns(click=clicks.astype(int), like=(table["like"].to_numpy() * clicks).astype(int)).write_csv(file)
    return file


def test_a_calibration_trained_along_learns_from_rows_of_its_own_and_the_ranker_does_not_feel_it(shifted, tmp_path):
    """The same ranker bit for bit, and a map near the one that is fitted to it afterwards."""
    found, opened, paths = {}, {}, {}
    for fit in ("post_hoc", "in_model"):
        # the norm that clips is one of all gradients together
        config = configure(
            shifted, {"calibration_fit": fit, "dropout": 0.1}, grad_clip=0.0, max_steps=200, eval_every=200
        )
        config.data.val_fraction = 0.3
        path = paths[fit] = train(config, tmp_path / fit)
        opened[fit] = open_ranker(path / "checkpoints" / "last").model
        table = load_impressions(config.data)
        found[fit] = logits(opened[fit], table, table.bounds["test"], batch_size=100)
    weights = {fit: model.state_dict() for fit, model in opened.items()}
    for name, tensor in weights["post_hoc"].items():
        assert torch.equal(tensor, weights["in_model"][name]) or name.startswith("calibration"), name
    raw = logits(opened["in_model"], table, table.bounds["test"], batch_size=100, calibrated=False)
    clicks = table.labels[slice(*table.bounds["test"]), 0].mean()
    ratio = {name: float(expit(z[:, 0]).mean() / clicks) for name, z in {"raw": raw, **found}.items()}
    assert ratio["raw"] > 1.8
    assert ratio["in_model"] == pytest.approx(ratio["post_hoc"], abs=0.15) and abs(ratio["in_model"] - 1) < 0.3

    # what is said of the rows that the maps have seen, in training and when judged again, and that they still compare
    rows = {"post_hoc": "all held out before it", "in_model": "calibration"}
    for fit, said in rows.items():
        trained = results(paths[fit])["protocol"]["calibrated_on"]
        assert trained == {"val": "calibration", "test": said}
        again = open_ranker(paths[fit] / "checkpoints" / "best")
        assert map_to_judge(again, "test", table, batch_size=100, device="cpu") == trained
    assert compare(paths["post_hoc"], paths["in_model"]).refused is None


def test_a_calibration_trained_along_is_the_same_after_a_stop(file, tmp_path, monkeypatch):
    config = configure(file, {"calibration_fit": "in_model"}, max_steps=20, grad_accum=2)
    whole = train(config, tmp_path / "whole")
    assert "train/calibration" in lines(whole)[1]
    path = stopped(config, tmp_path / "stopped", monkeypatch, at=13)
    train(config, tmp_path, resume=path)
    assert lines(path) == lines(whole)
    assert results(path)["metrics"] == results(whole)["metrics"]


def test_what_cannot_be_trained_along_says_so():
    for wrong in ({"calibration": "isotonic"}, {"calibration": "none"}, {"calibrate_cohorts": True}):
        with pytest.raises(ConfigError, match=r"use model\.calibration_fit=post_hoc"):
            MTMLConfig(calibration_fit="in_model", **wrong).validate()


@pytest.mark.parametrize(
    ("model", "trainer", "line"),
    [
        ({"norm": "batch"}, {"grad_accum": 2}, "norms over a whole batch"),
        ({"weighting": "gradnorm"}, {"compile": True}, "looks into the backward pass"),
        ({"calibration_fit": "in_model"}, {"compile": True}, "in_model needs"),
    ],
)
def test_what_cannot_be_trained_so_is_not_trained_in_silence_where_a_config_is_made_in_code(
    file, tmp_path, model, trainer, line
):
    with pytest.raises(ConfigError, match=line):
        train(configure(file, model, **trainer, max_steps=1), tmp_path)


def test_a_norm_over_the_batch_is_served_by_what_training_saw(file, tmp_path):
    config = configure(file, {"norm": "batch"}, max_steps=20)
    path = train(config, tmp_path / "whole")
    model = open_ranker(path / "checkpoints" / "best").model
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    assert norms and all(module.running_mean.abs().max() > 0 and module.running_var.ne(1).all() for module in norms)


def test_a_task_that_happens_without_its_parent_is_said(file, tmp_path, caplog):
    rows = pl.read_csv(file)
    few = {"max_steps": 2, "warmup_steps": 0, "eval_every": 0, "checkpoint_every": 0}
    train(configure(file, {"factorised": {"like": "click"}}, **few), tmp_path / "a")
    assert "happened without" not in caplog.text
    orphans = pl.arange(0, N).is_in([0, 1, 2, N - 1]) & (pl.col("click") == 0)
    rows.with_columns(pl.when(orphans).then(1).otherwise(pl.col("like")).alias("like")).write_csv(file)
    n = int((rows["click"][:3] == 0).sum())  # the last row is none that is learnt from
    assert n > 0
    train(configure(file, {"factorised": {"like": "click"}}, **few), tmp_path / "b")
    assert f"like happened without click in {n} of its" in caplog.text


def test_examination_of_a_real_label_costs_no_run():
    config = MTMLConfig(position="examination")
    real = ImpressionsConfig(labels={"click": "binary", "seconds": "real"})
    with pytest.raises(ConfigError, match="which the real label seconds has not"):
        config.check_data(real)
    MTMLConfig(position="examination", tasks=["click"]).check_data(real)
