"""Logged slates: the world's against its truth, one's own against what was planted."""

import dataclasses

import numpy as np
import polars as pl
import pytest
import yaml

from recsysml.data import logged_slates, logging_policy, world, world_truth
from recsysml.data.slate_batches import ShownBatches, ShownItems, SlateBatches
from recsysml.data.slates import ESTIMATED, LOGGED
from recsysml.errors import ConfigError, DataError
from recsysml.files import conf_dir
from recsysml.schemas.data import WorldConfig
from recsysml.schemas.slates import LoggedSlatesConfig, OpenBanditConfig


@pytest.fixture(scope="module")
def small():
    config = WorldConfig(users=300, items=300, events=12_000, seed=4)
    return config, world.load_slates(config)


def test_what_the_world_logged_is_a_draw_of_its_truth(small):
    config, log = small
    rows = np.arange(len(log))
    true = world_truth.top_rewards(config, log.weights)
    reward = log.rewards()
    gap = reward - true[rows, log.shown]
    assert abs(gap.mean()) < 3 * gap.std() / len(log) ** 0.5
    for low, high in ((0, 0.5), (0.5, 1.0), (1.0, 9.0)):  # also where little and where much is expected
        inside = (true[rows, log.shown] >= low) & (true[rows, log.shown] < high)
        assert abs(gap[inside].mean()) < 4 * gap[inside].std() / inside.sum() ** 0.5
    # what the log earned is what its policy is worth
    worth = (log.logging * true).sum(1)
    assert abs((reward - worth).mean()) < 3 * (reward - worth).std() / len(log) ** 0.5


def test_the_propensity_is_that_of_the_whole_policy(small):
    _, log = small
    rows = np.arange(len(log))
    assert np.allclose(log.logging.sum(1), 1) and (log.logging[~log.mask] == 0).all()
    assert np.allclose(log.propensity, log.logging[rows, log.shown], rtol=1e-9)
    assert np.allclose(log.propensity, log.slate_propensity[:, 0])
    # shown as often as the policy says: by tenths of the probability
    chances, shown = log.logging[log.mask], np.zeros_like(log.logging)
    shown[rows, log.shown] = 1
    hits = shown[log.mask]
    for part in np.array_split(np.argsort(chances), 10):
        error = (chances[part] * (1 - chances[part])).sum() ** 0.5
        assert abs(hits[part].sum() - chances[part].sum()) < 4 * error + 1e-9


def test_slates_stand_in_order_of_time_and_know_nothing_of_what_comes(small):
    config, log = small
    assert (np.diff(log.times) >= 0).all() and sum(log.sizes.values()) == len(log)
    assert log.propensity_source == LOGGED and log.slate[:, 0].tolist() == log.shown.tolist()
    assert np.array_equal(log.slate_actions[:, 0], log.actions)
    first = np.unique(log.users, return_index=True)[1]
    clicked = log.pairs[..., log.pair_names.index("like_clicked")]
    assert (clicked[first] == 0).all() and (clicked != 0).any()  # who never clicked has no past
    turn = log.contexts[:, log.context_names.index("turn")]
    session = log.pairs[..., log.pair_names.index("like_session")]
    assert (session[turn == 0] == 0).all() and (session[turn > 0] != 0).any()
    again = world.load_slates(config)
    assert again.fingerprint == log.fingerprint
    assert world.load_slates(dataclasses.replace(config, seed=5)).fingerprint != log.fingerprint
    with pytest.raises(ConfigError, match=r"data\.split=last_out"):
        world.load_slates(dataclasses.replace(config, split="last_out"))


def test_features_are_context_item_and_pair_side_by_side(small):
    _, log = small
    rows = np.array([5, 700])
    found = log.features(rows)
    assert found.shape == (2, 40, len(log.feature_names)) and len(set(log.feature_names)) == found.shape[2]
    item = log.candidates[700, 9]
    expected = [*log.contexts[700], *log.items[item], *log.pairs[700, 9]]
    assert np.array_equal(found[1, 9], np.array(expected, np.float32))


def test_a_reward_is_what_its_weights_say(small):
    _, log = small
    by_hand = log.actions[:, list(log.tasks).index("click")] - 2.0 * log.actions[:, list(log.tasks).index("leave")]
    assert np.allclose(log.rewards({"click": 1.0, "leave": -2.0}), by_hand)
    with pytest.raises(ValueError, match="hug is no task"):
        log.rewards({"hug": 1.0})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"propensity": 0.0}, "propensity"),
        ({"propensity": 1.5}, "propensity"),
        ({"shown": 99}, "no candidate"),
        ({"actions": np.nan}, "action"),
        ({"pairs": np.inf}, "feature"),
        ({"logging": 0.5}, "do not sum to 1"),
    ],
)
def test_a_log_that_no_policy_made_is_refused(small, change, said):
    _, log = small
    ((name, value),) = change.items()
    wrong = getattr(log, name).copy()
    wrong[7] = value
    with pytest.raises(DataError, match=rf"request 8 .*{said}"):
        dataclasses.replace(log, **{name: wrong})


def test_batches_depend_on_seed_and_number_alone_and_visit_every_request_once(small):
    _, log = small
    tasks = list(log.weights)
    batches = SlateBatches(log, log.fitted, batch_size=64, seed=3, tasks=tasks)
    seen = [batches[i][-2].numpy() for i in range(-(-log.sizes["train"] // 64))]
    epoch = np.concatenate(seen)[: log.sizes["train"]]
    assert np.array_equal(np.sort(epoch), np.arange(log.sizes["train"]))
    other = SlateBatches(log, log.fitted, batch_size=64, seed=3, tasks=tasks)
    assert all((a == b).all() for a, b in zip(batches[2], other[2], strict=True))
    halves = [
        SlateBatches(log, log.fitted, batch_size=64, seed=3, tasks=tasks, rank=r, world_size=2)[2] for r in (0, 1)
    ]
    assert sorted(np.concatenate([half[-2] for half in halves])) == sorted(batches[2][-2].tolist())


def test_shown_items_are_what_was_seen_with_its_place(small):
    _, log = small
    tasks = list(log.weights)
    every, top = ShownItems(log, tasks), ShownItems(log, tasks, "top")
    assert len(every.rows) == 12_000 and len(top.rows) == len(log)  # each event of the world once
    at = int(np.flatnonzero(every.places == 2)[10])
    contexts, items, _, places, actions = ShownBatches(every, np.array([at]), batch_size=1, seed=0)[0]
    row = every.rows[at]
    item = log.candidates[row, log.slate[row, 2]]
    assert np.array_equal(items[0, 0], log.items[item]) and np.array_equal(contexts[0], log.contexts[row])
    columns = [list(log.tasks).index(task) for task in tasks]
    assert places.tolist() == [2] and np.array_equal(actions[0], log.slate_actions[row, 2, columns])


# --- the policy that logged, estimated


@pytest.mark.parametrize("seed", [0, 1])
def test_an_estimated_policy_is_the_planted_one(seed):
    rng = np.random.default_rng(seed)
    n, width = 6000, 8
    features = rng.normal(size=(n, width, 3))
    mask = rng.random((n, width)) < 0.8
    mask[:, 0] = True
    scores = np.where(mask, features @ [0.8, -0.5, 0.0], -np.inf)
    true = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    shown = (scores + rng.gumbel(size=scores.shape)).argmax(1)
    found = logging_policy.estimate(features * [10, 1, 1] + 5, mask, shown, seed=seed)
    assert np.allclose(found.sum(1), 1) and (found[~mask] == 0).all()
    assert np.abs(found - true)[mask].mean() < 0.006  # 1 everywhere, or uniform, would be off by far more
    assert np.abs(mask / mask.sum(1, keepdims=True) - true)[mask].mean() > 0.06
    # cross-fitted: what was shown in a request does not move its own estimate's fold
    with pytest.raises(ValueError, match="too few"):
        logging_policy.estimate(features[:6], mask[:6], shown[:6])


def test_what_was_shown_in_a_request_does_not_move_its_own_propensity():
    rng = np.random.default_rng(2)
    features, mask, shown = rng.normal(size=(80, 4, 2)), np.ones((80, 4), bool), rng.integers(0, 4, 80)
    before = logging_policy.estimate(features, mask, shown, folds=4, seed=3)
    shown[7] = (shown[7] + 1) % 4
    after = logging_policy.estimate(features, mask, shown, folds=4, seed=3)
    fold = np.random.default_rng(3).permutation(80) % 4
    same = fold == fold[7]
    np.testing.assert_array_equal(before[same], after[same])
    assert np.abs(before[~same] - after[~same]).max() > 1e-4


# --- slates of one's own


@pytest.fixture
def table(tmp_path):
    """300 requests of 3 or 4 candidates; the better x, the likelier shown, and then the likelier clicked."""
    rng = np.random.default_rng(1)
    rows = []
    for request in range(300):
        size = int(rng.integers(3, 5))
        x = rng.normal(size=size)
        p = np.exp(x) / np.exp(x).sum()
        top = int(rng.choice(size, p=p))
        for place in range(size):
            shown = int(place == top)
            rows.append(
                {"request_id": f"r{request:03}", "item_id": f"i{(request * 7 + place) % 40}", "shown": shown,
                 "p": p[place], "x": x[place], "colour": "red" if place % 2 else "blue", "time": 1000 - request,
                 "click": int(rng.random() < 0.5 + 0.2 * np.tanh(x[place])) if shown else None}
            )  # fmt: skip
    path = tmp_path / "slates.csv"
    pl.DataFrame(rows).write_csv(path)
    return path


def own(path, **more):
    values = {"propensity_column": "p", "time_column": "time", "dense": ["x"], "categorical": ["colour"]}
    return LoggedSlatesConfig(path=str(path), labels={"click": "binary"}, **{**values, **more})


def test_slates_of_a_table_are_its_rows(table):
    log = logged_slates.load_slates(own(table))
    rows = pl.read_csv(table)
    assert len(log) == 300 and log.propensity_source == LOGGED
    assert (np.diff(log.times) >= 0).all()
    last = rows.filter(pl.col("request_id") == "r000")  # the newest, as its time is the largest
    column = log.shown[-1]
    assert log.item_ids[log.candidates[-1, column]] == last.filter(pl.col("shown") == 1)["item_id"][0]
    assert log.pair_names == ["x", "colour=blue", "colour=red"]
    assert np.allclose(log.pairs[-1, : len(last), 0], last["x"].to_numpy(), atol=1e-6)
    assert log.mask[-1].sum() == len(last)
    assert log.propensity[-1] == pytest.approx(last.filter(pl.col("shown") == 1)["p"][0])
    assert log.rewards().mean() == pytest.approx(rows["click"].drop_nulls().mean())


def test_propensities_in_every_row_are_the_whole_policy(table, caplog):
    whole = logged_slates.load_slates(own(table))
    rows = np.arange(len(whole))
    assert whole.logging is not None and np.allclose(whole.logging.sum(1), 1)
    assert (whole.logging[~whole.mask] == 0).all()
    assert np.allclose(whole.logging[rows, whole.shown], whole.propensity)
    last = pl.read_csv(table).filter(pl.col("request_id") == "r000")
    assert np.allclose(whole.logging[-1, : len(last)], last["p"].to_numpy()) and not caplog.text
    shown = pl.when(pl.col("shown") == 1).then(pl.col("p"))
    pl.read_csv(table).with_columns(shown.alias("p")).write_csv(table)
    part = logged_slates.load_slates(own(table))
    assert part.logging is None and np.array_equal(part.propensity, whole.propensity) and not caplog.text


def test_propensities_that_are_no_policy_are_said_to_be_none(table, caplog):
    rows = pl.read_csv(table)
    of_request = pl.when(pl.col("shown") == 1).then(pl.col("p")).max().over("request_id")
    rows.with_columns(of_request.alias("p")).write_csv(table)  # that of what was shown, said in every row
    log = logged_slates.load_slates(own(table))
    assert log.logging is None and "is no policy" in caplog.text and "not 1; only that of what was shown" in caplog.text
    caplog.clear()
    rows.with_columns(pl.when(pl.col("shown") == 1).then(1.0).otherwise(0.0).alias("p")).write_csv(table)
    assert (logged_slates.load_slates(own(table)).propensity == 1).all() and "every p is 1" in caplog.text


def test_without_propensities_they_are_estimated_and_said_to_be(table, caplog):
    log = logged_slates.load_slates(own(table, propensity_column=None))
    assert log.propensity_source == ESTIMATED and "estimated" in caplog.text
    known = logged_slates.load_slates(own(table)).propensity
    assert np.corrcoef(log.propensity, known)[0, 1] > 0.95 and (log.propensity < 1).all()
    assert np.allclose(log.logging.sum(1), 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (pl.lit(0).alias("shown"), "0 items on top"),
        (pl.lit("same").alias("item_id"), "twice"),
        (pl.when(pl.col("request_id") == "r004").then(pl.lit("?")).otherwise(pl.col("x")).alias("x"), "no number"),
        (pl.lit(0.0).alias("p"), r"row \d+: p is '0\.0'; what was shown had a chance"),
        (pl.lit(-0.2).alias("p"), r"row \d+: p is '-0\.2'; what was shown had a chance"),
        (pl.lit(1.2).alias("p"), r"row \d+: p is '1\.2'; what was shown had a chance"),
        (pl.lit(float("nan")).alias("p"), r"row \d+: p is 'NaN', no number"),
        (pl.lit(None).cast(pl.Float64).alias("p"), r"row \d+: p is None, no number"),
        (pl.lit(2).alias("click"), "neither 0 nor 1"),
        (pl.lit("soon").alias("time"), "neither number nor date"),
        (pl.lit(None).cast(pl.String).alias("request_id"), "no request_id"),
        (pl.lit(3).alias("shown"), "neither 0 nor 1"),
    ],
)
def test_bad_rows_are_named(table, change, said):
    pl.read_csv(table).with_columns(change).write_csv(table)
    with pytest.raises(DataError, match=said):
        logged_slates.load_slates(own(table))


def test_a_number_that_is_missing_is_the_mean_of_what_was_learnt_from(table):
    rows = pl.read_csv(table)
    rows.with_columns(pl.when(pl.col("request_id") == "r000").then(None).otherwise(pl.col("x")).alias("x")).write_csv(
        table
    )
    log = logged_slates.load_slates(own(table))
    learnt = log.pairs[slice(*log.fitted), :, 0][log.mask[slice(*log.fitted)]]
    assert log.pairs[-1, 0, 0] == pytest.approx(learnt.mean(), abs=1e-5)


def test_a_value_that_training_never_met_has_no_column(table):
    rows = pl.read_csv(table)
    new = pl.when(pl.col("request_id") == "r000").then(pl.lit("green")).otherwise(pl.col("colour"))  # the newest
    rows.with_columns(new.alias("colour")).write_csv(table)
    log = logged_slates.load_slates(own(table))
    assert log.pair_names == ["x", "colour=blue", "colour=red"] and (log.pairs[-1, :, 1:] == 0).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"path": None}, "data.path is empty"),
        ({"labels": {}}, "data.labels is empty"),
        ({"dense": [], "categorical": []}, "no features"),
        ({"dense": ["nothing"]}, "no column 'nothing'"),
        ({"dense": ["click"]}, "two places"),
        ({"weights": {"hug": 1.0}}, "hug is none of data.labels"),
        ({"labels": {"click": "text"}}, "data.labels.click"),
        ({"test_fraction": 0.95}, "leave nothing"),
    ],
)
def test_a_wrong_config_is_one_line(table, settings, said):
    config = own(table)
    for name, value in settings.items():
        setattr(config, name, value)
    with pytest.raises((ConfigError, DataError), match=said) as error:
        logged_slates.check(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "schema"), [("open_bandit", OpenBanditConfig), ("logged_slates", LoggedSlatesConfig)])
def test_the_yaml_lists_every_field(name, schema):
    content = yaml.safe_load((conf_dir() / "data" / f"{name}.yaml").read_text())
    assert vars(schema(**content)) == content
