"""A policy judged from a log: the world's truth beside the estimates, flags, what is recorded, the Open Bandit logs."""

import dataclasses
import json

import numpy as np
import pytest

from recsysml.data.slates import ESTIMATED
from recsysml.data.world import load_slates
from recsysml.diff import REFUSED, compare
from recsysml.errors import ConfigError, DataError
from recsysml.evals import policy
from recsysml.examples import read_examples
from recsysml.files import data_dir
from recsysml.metrics.policy import ESTIMATORS
from recsysml.results import Run
from recsysml.schemas.data import WorldConfig
from recsysml.schemas.evals import PolicyEvalConfig
from recsysml.schemas.slates import OpenBanditConfig
from recsysml.sweep import best

HOW = PolicyEvalConfig(policy="uniform", split="all", folds=2)
needs_obd = pytest.mark.skipif(
    data_dir() is None or not (data_dir() / "obd").is_dir(), reason="needs the Open Bandit Dataset in RECSYSML_DATA"
)


@pytest.fixture(scope="module")
def world():
    """A small world's log, its config, and the true rewards of all candidates."""
    config = WorldConfig(users=150, items=200, events=8_000)
    log = load_slates(config)
    return log, config, policy.worth(policy.true_chances(config), log.weights)


@pytest.fixture(autouse=True)
def quick_environment(monkeypatch):
    monkeypatch.setattr("recsysml.results.environment", lambda: {"python": "3"})


def judged(log, config, known, name="uniform", how=HOW, rows=None):
    rows = policy.rows_of(log, "all") if rows is None else rows
    pi, truth = policy.simple_policy(name, log, rows, config)
    if known is not None:
        logging = None if log.logging is None else log.logging[rows]
        truth = policy.enumerated(pi, log.mask[rows], logging, known[rows])
    reward = log.rewards()
    expected = policy.rewards_expected(log, rows, reward, how)
    return policy.judge(log, rows, pi, reward, expected, how, truth)


def test_the_truth_is_the_sum_over_the_slate_and_lies_near_the_estimates(world):
    log, config, known = world
    found = judged(log, config, known)
    own = [np.mean([known[row, place] for place in np.flatnonzero(log.mask[row])]) for row in range(len(log))]
    assert found.truth.value == pytest.approx(np.mean(own))
    np.testing.assert_allclose(found.truth.each, own)
    assert found.truth.others["uniform"] == pytest.approx(found.truth.value)
    best = np.mean([max(known[row, log.mask[row]]) for row in range(len(log))])
    assert found.truth.others["optimum"] == pytest.approx(best)
    for name in ("ips", "snips", "dr"):
        one = found.estimates[name]
        assert one.ess_share > 0.1
        assert one.unreliable is None
        assert abs(one.value - found.truth.value) < 4 * one.stderr, name


def test_rewards_that_are_all_alike_have_no_error_and_win_nothing(world, tmp_path):
    """One policy shows what earned, the other what did not: what they keep is 1 throughout, and 0 throughout."""
    log, _, _ = world
    rows, earned = np.arange(len(log)), np.arange(len(log)) % 2 == 0
    other = np.where(np.arange(log.mask.shape[1]) == log.shown[:, None], 0, log.mask).argmax(axis=1)
    mask = np.zeros_like(log.mask)
    mask[rows, log.shown] = mask[rows, other] = True
    log = dataclasses.replace(
        log, actions=np.where(earned[:, None], 1, 0) * np.ones((1, len(log.tasks)), np.float32), logging=None,
        mask=mask, propensity=np.full(len(log), 0.5), weights={next(iter(log.tasks)): 1.0},
    )  # fmt: skip
    paths = []
    for keeps in (earned, ~earned):
        pi = np.zeros(log.mask.shape)
        pi[rows, np.where(keeps, log.shown, other)] = 1
        found = policy.judge(log, rows, pi, log.rewards(), np.zeros(log.mask.shape), HOW)
        for name in ("replay", "snips"):
            one = found.estimates[name]
            assert (one.value, one.stderr, one.low, one.high) == (float(keeps[0]), None, None, None), name
        assert found.estimates["dm"].stderr is None and found.estimates["replay"].unreliable is None
        run = Run.create(tmp_path, "eval", "policy", argv=[], config={}, overrides=[])
        policy.record(run, "all", found, log)
        run.finish("ok")
        paths.append(run.path)
        (said,) = [line for line in policy.sentences("all", found, log) if "without an error" in line]
        assert {"replay", "snips", "dm"} <= set(said.removeprefix("all: ").partition(":")[0].split(", "))
        table = json.loads((run.path / "sections" / "policy_all.json").read_text())["parts"][1]
        assert "without an error" in next(row for row in table["rows"] if row[0] == "dm")[-1]
    verdicts = {row.name: row for row in compare(*paths).metrics}
    for name in ("replay", "snips"):
        row = verdicts[f"all/policy/{name}"]
        assert (row.a, row.b, row.verdict) == (1.0, 0.0, REFUSED), name
        assert "no standard error in both" in row.reason


def test_the_split_and_the_clip_are_those_asked_for(world):
    log, config, _ = world
    for split, (start, stop) in log.bounds.items():
        assert policy.rows_of(log, split).tolist() == list(range(start, stop))
    assert len(policy.rows_of(log, "all")) == len(log)
    rows = policy.rows_of(log, "val")
    found = judged(log, config, None, how=dataclasses.replace(HOW, clip=0.7), rows=rows)
    pi = 1 / log.mask.sum(axis=1)
    by_hand = [min(pi[row] / log.propensity[row], 0.7) * log.rewards()[row] for row in rows]
    assert found.estimates["clipped_ips"].value == pytest.approx(np.mean(by_hand))


def test_the_log_of_its_own_policy_is_its_mean(world):
    log, config, known = world
    found = judged(log, config, known, "logging")
    for name in ("replay", "ips", "clipped_ips", "snips"):
        assert found.estimates[name].value == pytest.approx(log.rewards().mean()), name
    assert found.weight.value == pytest.approx(1)
    assert found.truth.value == pytest.approx(found.truth.others["logging"])
    assert abs(found.truth.value - log.rewards().mean()) < 4 * found.logged.stderr


def test_what_is_recorded(world, tmp_path):
    log, config, known = world
    found = judged(log, config, known)
    run = Run.create(tmp_path, "eval", "uniform", argv=[], config={}, overrides=[])
    policy.record(run, "test", found, log)
    run.finish("ok")
    metrics = json.loads((run.path / "results.json").read_text())["metrics"]
    assert list(metrics) == ["test/policy/value", *(f"test/policy/{name}" for name in ESTIMATORS)]
    scores = read_examples(run.path / "examples.parquet")
    for name, entry in metrics.items():
        assert entry["better"] == "higher"
        assert scores[name][1].mean() == pytest.approx(entry["value"]), name  # what diff pairs on
        assert len(set(scores[name][0])) == entry["n"] == len(log)
    dr = metrics["test/policy/dr"]
    assert dr["low"] < dr["value"] < dr["high"]
    assert dr["truth"] == metrics["test/policy/value"]["value"]
    assert dr["baseline"] == pytest.approx(log.rewards().mean())
    assert 0.1 < dr["ess_share"] == pytest.approx(dr["ess"] / len(log))
    assert "unreliable" not in dr
    assert "propensities" not in dr
    assert metrics["test/policy/value"]["baseline"] == pytest.approx(found.truth.others["logging"])
    section = json.loads((run.path / "sections" / "policy_test.json").read_text())
    bars, table, beside = section["parts"]
    assert [bar["label"] for bar in bars["bars"]] == list(ESTIMATORS)
    assert {bar["baseline"] for bar in bars["bars"]} == {found.truth.value}
    row = dict(zip(table["columns"], table["rows"][ESTIMATORS.index("snips")], strict=True))
    snips = found.estimates["snips"]
    assert row["error / stderr"] == pytest.approx((snips.value - found.truth.value) / snips.stderr)
    assert beside["rows"][0][:2] == ["the policy's true value, by enumeration", found.truth.value]


def test_few_effective_requests_and_estimated_propensities_are_said(world, tmp_path):
    log = world[0]
    rows = np.arange(300)
    worst = np.where(log.mask, log.logging, np.inf).argmin(axis=1)  # what the log hardly ever shows
    pi = np.eye(log.mask.shape[1])[worst][rows]
    guessed = dataclasses.replace(log, propensity_source=ESTIMATED)
    expected = policy.rewards_expected(log, rows, log.rewards(), HOW)
    found = policy.judge(guessed, rows, pi, log.rewards(), expected, HOW)
    run = Run.create(tmp_path, "eval", "worst", argv=[], config={}, overrides=[])
    policy.record(run, "test", found, guessed)
    run.finish("ok")
    for name, entry in run.record["metrics"].items():
        assert "it is not to be believed" in entry["unreliable"], name
        assert entry["propensities"] == ESTIMATED
    said = policy.sentences("test", found, guessed)
    assert any("no estimate is to be believed" in line for line in said)
    assert any("propensities are estimated" in line for line in said)
    assert "estimated" in json.loads((run.path / "sections" / "policy_test.json").read_text())["note"]


def test_an_estimated_value_is_doubted_where_it_or_its_baseline_is(world, tmp_path):
    log, rows = world[0], np.arange(300)
    rarest = np.eye(log.mask.shape[1])[np.where(log.mask, log.logging, np.inf).argmin(axis=1)][rows]
    expected = np.zeros(rarest.shape)
    good, bad = (policy.judge(log, rows, pi, log.rewards(), expected, HOW) for pi in (log.logging[rows], rarest))
    run = Run.create(tmp_path, "eval", "two", argv=[], config={}, overrides=[])
    for name, first, second in (("own", bad, good), ("baseline", good, bad), ("neither", good, good)):
        policy.record_estimated_value(run, name, first, second, log)
        entry = run.record["metrics"][f"{name}/policy/value"]
        assert (entry["value"], entry["baseline"]) == (first.estimates["dr"].value, second.estimates["dr"].value)
        assert ("not to be believed" in entry.get("unreliable", "")) == (name != "neither"), name
    run.finish("ok")


@pytest.mark.parametrize(("wrong", "unsupported"), [(1.3, False), (0.8, False), (1.0, True), (1.0, False)])
def test_weights_that_are_not_1_on_average_are_said_to_be_wrong(world, tmp_path, wrong, unsupported):
    """By propensities that are all too large or too small, or a log that never shows what the policy mostly shows."""
    log, rows = world[0], np.arange(len(world[0]))
    pi = log.mask / log.mask.sum(axis=1, keepdims=True)
    if unsupported:
        others = log.mask.copy()
        others[rows, log.shown] = False
        pi = 0.5 * pi + 0.5 * others / others.sum(axis=1, keepdims=True)
    log = dataclasses.replace(log, propensity=np.minimum(log.propensity * wrong, 1.0))
    found = policy.judge(log, rows, pi, log.rewards(), np.zeros(pi.shape), HOW)
    weights = [pi[row, log.shown[row]] / log.propensity[row] for row in rows]
    assert found.weight.value == pytest.approx(np.mean(weights))
    assert found.weight.stderr == pytest.approx(np.std(weights, ddof=1) / len(rows) ** 0.5)
    run = Run.create(tmp_path, "eval", "uniform", argv=[], config={}, overrides=[])
    policy.record(run, "test", found, log)
    run.finish("ok")
    metrics = {name.rpartition("/")[2]: entry for name, entry in run.record["metrics"].items()}
    assert "unreliable" in metrics.pop("replay")  # it keeps a twentieth
    said = {name: entry.get("unreliable", "") for name, entry in metrics.items()}
    last = policy.sentences("test", found, log)[-1]
    if wrong == 1.0 and not unsupported:
        assert not any(said.values()) and "believed" not in last
        return
    assert last.startswith(f"test: no estimate is to be believed: its mean weight is {np.mean(weights):.3f}")
    own = said.pop("dm")  # it has no weights: its reason is another one
    assert f"the mean weight is {np.mean(weights):.3f}" in own and "knows nothing of such a bias" in own
    assert all("not 1: the propensities are wrong" in one for one in said.values())


def test_nothing_is_picked_by_dm_where_the_log_never_shows_what_the_policy_shows(world, tmp_path):
    """The reward model says 5 or 1 of what was never shown, and no request of the log can say otherwise."""
    log, rows = world[0], np.arange(len(world[0]))
    others = log.mask.copy()
    others[rows, log.shown] = False
    pi = 0.5 * log.mask / log.mask.sum(axis=1, keepdims=True) + 0.5 * others / others.sum(axis=1, keepdims=True)
    runs = []
    for guess in (1.0, 5.0):
        expected = np.where(others, guess, log.rewards()[:, None])
        found = policy.judge(log, rows, pi, log.rewards(), expected, HOW)
        assert found.estimates["dm"].ess_share > 0.1
        run = Run.create(tmp_path, "eval", f"guess-{guess:g}", argv=[], config={}, overrides=[])
        policy.record(run, "test", found, log)
        run.finish("ok")
        runs.append(run)
    (row,) = [row for row in compare(*(run.path for run in runs)).metrics if row.name == "test/policy/dm"]
    assert row.b > row.a + 1 and row.verdict == REFUSED and "knows nothing of such a bias" in row.reason
    jobs = [
        {"status": "ok", "run": run.id, "metrics": {"test/policy/dm": run.record["metrics"]["test/policy/dm"]}}
        for run in runs
    ]
    assert best(jobs) is None


def test_shares_by_place_are_those_of_a_count():
    class Log:
        context_names = ("hour", "position=1", "position=2")
        contexts = np.array([[9, 1, 0], [9, 1, 0], [9, 0, 1], [9, 1, 0]])
        mask = np.ones((4, 3), bool)
        shown = np.array([2, 0, 1, 2])

    np.testing.assert_allclose(policy.shares_by_place(Log()), [[1 / 3, 0, 2 / 3], [0, 1, 0]])


def test_a_policy_of_other_data_is_refused():
    with pytest.raises(ConfigError, match="use data=open_bandit"):
        PolicyEvalConfig(policy="bts").check_data(WorldConfig())
    with pytest.raises(ConfigError, match="only the probabilities of what was shown"):
        PolicyEvalConfig(policy="logging").check_data(OpenBanditConfig(behaviour="bts"))
    with pytest.raises(ConfigError, match=r"eval\.split=all"):
        PolicyEvalConfig(split="all").validate()
    with pytest.raises(ConfigError, match=r"Did you mean: uniform"):
        PolicyEvalConfig(policy="unifrom").validate()


@needs_obd
def test_the_bts_log_of_women_says_nothing_of_a_uniform_policy():
    config = OpenBanditConfig(behaviour="bts", campaign="women")
    log = policy.load(config)
    found = judged(log, config, None)
    assert found.estimates["ips"].ess == pytest.approx(2, abs=0.5)
    assert all(one.unreliable for one in found.estimates.values())
    assert found.truth.source == "own log"
    assert found.truth.value == pytest.approx(0.0046)
    with pytest.raises(DataError, match="only the probabilities of what was shown"):
        policy.simple_policy("logging", log, np.arange(5), config)


@needs_obd
@pytest.mark.parametrize("campaign", ["men", "women"])
def test_the_random_log_judges_bts(campaign):
    config = OpenBanditConfig(behaviour="random", campaign=campaign)
    log = policy.load(config)
    found = judged(log, config, None, "bts")
    for name in ("ips", "snips", "dr"):
        one = found.estimates[name]
        assert one.unreliable is None
        both = np.hypot(one.stderr, found.truth.stderr)
        assert abs(one.value - found.truth.value) < 3 * both, name
    assert found.weight.value == pytest.approx(1, abs=0.05)


# --- the command ------------------------------------------------------------------------------------------------------

SMALL = ["data.users=150", "data.items=200", "data.events=8000", "tracker.mode=disabled", "threads=1"]


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs `recsysml WORDS` with outputs in tmp_path: (exit code, newest results.json or None)."""
    from recsysml.cli import main

    monkeypatch.setenv("RECSYSML_OUTPUTS", str(tmp_path))

    def run(*words):
        code = main([*words, *SMALL])
        made = sorted(tmp_path.glob(f"{words[0]}/*/results.json"))
        return code, json.loads(made[-1].read_text()) if made else None

    return run


def test_a_policy_that_is_no_model_is_judged_without_a_checkpoint(command, capsys):
    code, results = command("eval", "eval.policy=uniform", "eval.folds=2", "eval.split=all")
    assert code == 0
    assert results["model"]["name"] == results["config"]["model"]["name"] == "uniform"
    assert results["run"]["parents"] == []
    assert "all/policy/dr" in capsys.readouterr().out
    entry = results["metrics"]["all/policy/snips"]
    assert abs(entry["value"] - entry["truth"]) < 4 * entry["stderr"]


def test_a_run_is_judged_again_with_its_supervised_ranker_beside_it(command, tmp_path, capsys):
    words = ["trainer.max_steps=4", "trainer.eval_every=2", "trainer.supervised_steps=20", "eval.folds=2"]
    code, trained = command(
        "train", "model=policy_ranker", *words, "trainer.supervised_lrs=[3e-2]", "trainer.reward_model_trees=10"
    )
    assert code == 0
    code, again = command("eval", "eval=policy", "eval.folds=2")
    assert code == 0
    assert again["run"]["parents"] == [trained["run"]["id"]]
    for name in ("value", "dr", "snips", "gap_closed"):
        before, now = (results["metrics"][f"test/policy/{name}"] for results in (trained, again))
        assert now["value"] == pytest.approx(before["value"], rel=1e-5), name
        assert now["baseline"] == pytest.approx(before["baseline"], rel=1e-5), name
    # a policy that is no model takes the data of a run that is named
    from recsysml.cli import main

    (home,) = tmp_path.glob("train/*")
    assert main(["eval", f"checkpoint={home}", "eval.policy=uniform", "eval.folds=2", "tracker.mode=disabled"]) == 0
    uniform = json.loads(max(tmp_path.glob("eval/*/results.json")).read_text())
    assert (uniform["model"]["name"], uniform["run"]["parents"]) == ("uniform", [trained["run"]["id"]])
    assert uniform["data"]["fingerprint"] == trained["data"]["fingerprint"]
    # what is judged without the run is checked all the same, before there is a directory
    code, last = command("eval", "++eval.policy=nonsense")
    assert (code, last["run"]["id"]) == (2, uniform["run"]["id"])
    assert "eval.policy=nonsense: it is one of model" in capsys.readouterr().err


@pytest.fixture
def table(tmp_path):
    """200 requests of 4 candidates with their logged propensities."""
    rng = np.random.default_rng(1)
    rows = ["request_id,item_id,shown,p,x,click"]
    for request in range(200):
        x = rng.normal(size=4)
        p = np.exp(x) / np.exp(x).sum()
        top = rng.choice(4, p=p)
        rows += [f"r{request:03},{i},{int(i == top)},{p[i]},{x[i]},{int(rng.random() < 0.5)}" for i in range(4)]
    path = tmp_path / "slates.csv"
    path.write_text("\n".join(rows))
    return path


def test_a_run_on_a_table_of_ones_own_is_judged_again_as_it_was(tmp_path, monkeypatch, table):
    """Where no truth is known: value, calibration and baseline too, whether the run has trained the supervised ranker
    itself or started from another's; and every policy metric says that the propensities are estimated."""
    from recsysml.cli import main

    monkeypatch.setenv("RECSYSML_OUTPUTS", str(tmp_path))
    more = ["tracker.mode=disabled", "threads=1", "eval.folds=2"]
    words = ["data=logged_slates", f"data.path={table}", "data.dense=[x]", "+data.labels.click=binary", *more]
    short = ["trainer.max_steps=4", "trainer.supervised_steps=60", "trainer.supervised_lrs=[1e-1]", "trainer.folds=2"]
    short += ["trainer.reward_model_trees=20", "trainer.eval_every=2", "trainer.lr=0.1"]

    def newest(command):
        path = max(tmp_path.glob(f"{command}/*/results.json"), key=lambda file: file.stat().st_mtime_ns)
        return path.parent, json.loads(path.read_text())["metrics"]

    assert main(["train", "model=policy_ranker", *words, *short]) == 0
    first, trained = newest("train")
    start = next((first / "supervised").glob("lr-*")) / "checkpoints" / "best"
    assert main(["train", "model=policy_ranker", f"model.init_from={start}", *words, *short]) == 0
    second, again = newest("train")
    for run, metrics in ((first, trained), (second, again)):
        assert main(["eval", f"checkpoint={run}", *more]) == 0
        _, judged = newest("eval")
        expected = {name: each for name, each in metrics.items() if name.startswith("test/")}
        record = json.loads((run / "results.json").read_text())
        assert record["protocol"]["propensities"] == "estimated"  # so that it never compares with a logged one
        assert judged.keys() == expected.keys() and {"test/policy/value", "test/click/ece"} <= judged.keys()
        for name, each in expected.items():
            for key in ("value", "baseline"):
                assert judged[name][key] == pytest.approx(each[key], rel=1e-4), (name, key)
            for found in (each, judged[name]):
                assert found.get("propensities") == ("estimated" if "policy" in name else None), name
        value, dr = judged["test/policy/value"], judged["test/policy/dr"]
        assert value["estimated_by"] == "dr" and value["baseline"] != dr["baseline"]
        assert all(value[key] == dr[key] for key in ("value", "stderr", "low", "high"))


def test_train_refuses_a_policy_that_it_would_not_judge(command, capsys):
    code, results = command("train", "model=policy_ranker", "eval.policy=uniform")
    assert (code, results) == (2, None)
    assert "belongs to `recsysml eval`" in capsys.readouterr().err
