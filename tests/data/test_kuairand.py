"""KuaiRand: what an outcome tells is never an input, and what is remembered of the past is of the past."""

import numpy as np
import polars as pl
import pytest

from recsysml.data import kuairand
from recsysml.data.tables import find_file
from recsysml.errors import ConfigError, DataError
from recsysml.schemas.impressions import KuaiRandConfig


@pytest.fixture
def log(tmp_path):
    """200 rows that look like the log's, in no order; two of a time."""
    rng = np.random.default_rng(0)
    n = 200
    times = 1649581149287 + 1000 * rng.permutation(np.arange(n) // 2)
    videos = rng.integers(10**12, 10**12 + 20, n)
    columns = {"user_id": rng.integers(0, 9, n), "video_id": videos, "date": [20220410] * n}
    columns |= {"hourmin": rng.integers(0, 24, n) * 100, "time_ms": times, "duration_ms": rng.integers(0, 90_000, n)}
    columns |= {name: rng.integers(0, 2, n) for name in kuairand.LABELS.values()}
    columns |= {"play_time_ms": rng.integers(0, 90_000, n), "comment_stay_time": rng.integers(0, 900, n)}
    file = tmp_path / "log.tsv"
    pl.DataFrame(columns).write_csv(file, separator="\t")
    return file


def config(log, **changes):
    return KuaiRandConfig(**{"path": str(log), "users_path": None} | changes)


def rewritten(log, change):
    file = log.with_name("other.tsv")
    change(pl.read_csv(log, separator="\t")).write_csv(file, separator="\t")
    return file


def test_outcomes_of_a_row_are_not_its_inputs(log):
    """Every outcome of the newest rows changed: no input of any row changes, but of rows that come after."""
    last = pl.col("time_ms") == pl.col("time_ms").max()
    flipped = [pl.when(last).then(1 - pl.col(name)).otherwise(pl.col(name)).alias(name) for name in kuairand.OUTCOMES]
    other = rewritten(log, lambda rows: rows.with_columns(flipped))
    before, after = kuairand.read(config(log)), kuairand.read(config(other))
    assert not np.array_equal(before.labels["click"], after.labels["click"])
    for name, values in before.dense.items():
        assert np.array_equal(values, after.dense[name]), name
    for name, ids in before.sparse.items():
        assert ids.equals(after.sparse[name]), name
    for row in range(len(before.requests)):
        span = slice(before.history_starts[row], before.history_stops[row])
        assert before.history["past_response"][span].equals(after.history["past_response"][span])


def test_nothing_is_named_after_an_outcome(log):
    raw = kuairand.read(config(log))
    inputs = {*raw.dense, *raw.sparse}
    assert not inputs & {*kuairand.OUTCOMES, *kuairand.LABELS}
    assert set(kuairand.KNOWN).isdisjoint(kuairand.OUTCOMES)


@pytest.mark.parametrize("until", ["row", "train"])
def test_rates_of_the_past_are_loops_over_it(log, until):
    raw = kuairand.read(config(log, history_until=until))
    rows = pl.read_csv(log, separator="\t").sort("time_ms", maintain_order=True)
    times, clicks = rows["time_ms"].to_numpy() / 1000, rows["is_click"].to_numpy()
    stop = times[raw.bounds["train"][1]] if until == "train" else np.inf
    for name in ("user", "video"):
        keys = rows[f"{name}_id"].to_numpy()
        for row in range(0, 200, 3):
            known = (times < times[row]) & (times < stop)
            own = known & (keys == keys[row])
            mean = (clicks[known].sum() + 0.5) / (known.sum() + 1)
            wanted = (clicks[own].sum() + 10 * mean) / (own.sum() + 10)
            assert raw.dense[f"{name}_click_rate"][row] == pytest.approx(wanted)
            if name == "user":
                assert raw.history_stops[row] - raw.history_starts[row] == own.sum()


def test_ids_keep_every_digit_and_the_split_is_by_time(log):
    table = kuairand.load_impressions(config(log, test_fraction=0.2, val_fraction=0.1))
    assert all(len(word) == 13 for word in table.encoder.vocabularies["video"])
    assert list(table.shape.sparse)[: table.shape.of_user] == ["user"]  # without a file of users nothing else is theirs
    assert table.sizes == {"train": 140, "val": 10, "calibration": 10, "test": 40}
    assert (np.diff(table.times) >= 0).all()


def test_bad_input_is_named(log):
    with pytest.raises(ConfigError, match=r"data\.tasks=clik: Did you mean: click"):
        kuairand.check(config(log, tasks=["clik"]))
    with pytest.raises(DataError, match="has no column 'is_click'"):
        kuairand.check(config(rewritten(log, lambda rows: rows.drop("is_click"))))
    wrong = rewritten(log, lambda rows: rows.with_columns(is_click=pl.lit(3)))
    with pytest.raises(DataError, match="label click is 3, neither 0 nor 1"):
        kuairand.load_impressions(config(wrong))
    words = rewritten(log, lambda rows: rows.with_columns(duration_ms=pl.lit("long")))
    with pytest.raises(DataError, match="row 1: duration_ms is 'long', no number"):
        kuairand.load_impressions(config(words))
    with pytest.raises(DataError, match=r"set RECSYSML_DATA|neither here nor in"):
        kuairand.check(KuaiRandConfig(path="missing.tsv"))


def test_the_extract_itself():
    try:
        find_file("kuairand", KuaiRandConfig().path)
    except DataError as reason:
        pytest.skip(str(reason))
    table = kuairand.load_impressions(KuaiRandConfig())
    assert sum(table.sizes.values()) == 41_828
    assert table.shape.sparse["user"] <= 665
    assert list(table.shape.sparse)[table.shape.of_user :] == ["video", "hour", "weekday"]
    of_user = table.sparse[:, : table.shape.of_user]
    assert len(np.unique(of_user, axis=0)) == len(np.unique(table.cohort("user")))  # of a user all rows are alike
    rates = table.labels.mean(axis=0)
    assert rates == pytest.approx([0.657, 0.462, 0.053], abs=0.001)
    assert np.isfinite(table.dense).all()
    assert "like" not in table.shape.tasks
