"""What a row may know of the past, how rows are divided, and what is fitted on which rows."""

import dataclasses
import hashlib
import json
import logging

import numpy as np
import polars as pl
import pytest

from recsysml.data.impression_data import Ragged, RawImpressions, bounds_by_time, encode, past
from recsysml.data.impression_encoder import ImpressionEncoder
from recsysml.errors import DataError


def raw(n=40, seed=0, **changes) -> RawImpressions:
    """The last ten rows are test; values `new` and 99 stand only there."""
    rng = np.random.default_rng(seed)
    users = pl.Series([f"u{u}" for u in rng.integers(0, 5, n - 10)] + ["new"] * 10)
    given = {
        "name": "made",
        "source": ["made"],
        "bounds": {"train": (0, n - 20), "val": (n - 20, n - 10), "test": (n - 10, n)},
        "labels": {"click": np.arange(n) % 2.0, "seconds": rng.random(n)},
        "task_types": {"click": "binary", "seconds": "real"},
        "requests": np.arange(n) // 2,
        "times": np.arange(n, dtype=float),
        "dense": {"age": np.concatenate([rng.normal(30, 5, n - 10), np.full(10, 99.0)])},
        "sparse": {"user": users, "item": pl.Series([f"i{i}" for i in rng.integers(0, 6, n)])},
        "bags": {"tags": (pl.Series(["a", "b", "c", "late"]), np.zeros(n, int), np.where(np.arange(n) < n - 10, 3, 4))},
        "history": {"past_item": pl.Series(["i0", "gone", "i1"]), "past_kind": pl.Series(["x", "y", "x"])},
        "history_starts": np.zeros(n, int),
        "history_stops": np.minimum(np.arange(n), 3),
        "positions": np.arange(n) % 3,
        "user": "user",
        "target": "item",
    }
    return RawImpressions(**given | changes)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_past_is_what_the_user_did_before_and_never_at_that_moment(seed):
    rng = np.random.default_rng(seed)
    users, times = rng.integers(0, 4, 30), rng.integers(0, 12, 30).astype(float)
    event_users, event_times = rng.integers(0, 5, 50), rng.integers(0, 12, 50).astype(float)
    order, starts, stops = past(users, times, event_users, event_times)
    for row in range(30):
        found = order[starts[row] : stops[row]]
        wanted = [e for e in range(50) if event_users[e] == users[row] and event_times[e] < times[row]]
        assert sorted(found.tolist()) == wanted
        assert (np.diff(event_times[found]) >= 0).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_last_of_a_list(seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 9, (20, 2))
    starts = rng.integers(0, 10, 12)
    ragged = Ragged(values, starts, starts + rng.integers(0, 10, 12))
    rows = rng.permutation(12)[:7]
    found = ragged.last(rows, 4)
    for place, row in enumerate(rows):
        wanted = values[ragged.starts[row] : ragged.stops[row]][-4:]
        assert found[place, : len(wanted)].tolist() == wanted.tolist()
        assert (found[place, len(wanted) :] == -1).all()
    covered = np.zeros(20, bool)
    for row in range(3, 8):
        covered[ragged.starts[row] : ragged.stops[row]] = True
    assert (ragged.covered(slice(3, 8)) == covered).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_splits_follow_time_and_cut_no_request(seed):
    requests = np.repeat(np.arange(200), np.random.default_rng(seed).integers(1, 8, 200))
    bounds = bounds_by_time(requests, 0.1, 0.2, "made")
    parts = [set(requests[slice(*bounds[name])]) for name in ("train", "val", "test")]
    assert not parts[0] & parts[1] and not parts[1] & parts[2]
    sizes = [(stop - start) / len(requests) for start, stop in bounds.values()]
    assert sizes == pytest.approx([0.7, 0.1, 0.2], abs=0.02)
    assert bounds["test"][1] == len(requests)
    with pytest.raises(DataError, match="3 impressions leave val empty"):
        bounds_by_time(np.zeros(3, int), 0.1, 0.1, "made")


def test_everything_is_fitted_on_train_alone():
    table = encode(raw())
    train = raw().dense["age"][:20]
    assert table.encoder.scales["age"] == pytest.approx((train.mean(), train.std()))
    assert "new" not in table.encoder.vocabularies["user"]
    assert "late" not in table.encoder.vocabularies["tags"]
    assert (table.sparse[30:, 0] == 0).all()
    assert (table.sparse[:20, 0] > 0).all()
    # only the values that rows of train point at are known, and those of the past with the target's words
    assert {"gone", "i0", "i1"} <= set(table.encoder.vocabularies["item"])
    assert table.shape.history["past_item"] == table.shape.sparse["item"]
    assert table.shape.positions == 3
    # of an event that only rows of test look back on neither the item nor the kind is known
    stops = np.where(np.arange(40) < 30, raw().history_stops, 4)
    past = {"past_item": pl.Series(["i0", "gone", "i1", "unseen"]), "past_kind": pl.Series(["x", "y", "x", "z"])}
    later = encode(raw(history=past, history_stops=stops))
    assert later.encoder.vocabularies == table.encoder.vocabularies
    assert (later.history.values[3] == 0).all() and (later.history.values[:3] > 0).all()
    changed = raw()
    changed.dense["age"][25:] = 1e6
    assert encode(changed).encoder.to_json() == table.encoder.to_json()
    wider = encode(raw(fit_range="train_val"))
    assert wider.fitted == (0, wider.bounds["calibration"][0]) and 20 < wider.fitted[1] < 30
    assert wider.encoder.scales["age"] != table.encoder.scales["age"]


def test_the_same_ids_after_a_trip_through_json():
    table = encode(raw())
    again = ImpressionEncoder.from_json(json.loads(json.dumps(table.encoder.to_json())))
    other = encode(raw(), again)
    for name in ("dense", "sparse", "labels"):
        assert np.array_equal(getattr(table, name), getattr(other, name))
    assert other.fingerprint == table.fingerprint
    moved = encode(raw(bounds={"train": (0, 5), "val": (5, 30), "test": (30, 40)}), again)
    assert np.array_equal(moved.sparse, table.sparse)  # encoded as it was, not anew


def test_hashed_ids_have_no_vocabulary_and_are_the_same_in_every_process():
    table = encode(raw(hashed={"user": 7}))
    assert table.shape.sparse["user"] == 8
    assert (table.sparse[:, 0] > 0).all()
    encoder = ImpressionEncoder()
    encoder.fit_ids("x", [], 1000)
    hashes = [hashlib.blake2b(text, digest_size=8).digest() for text in (b"u0", b"u1")]
    first, second = (1 + int.from_bytes(found, "little") % 1000 for found in hashes)
    assert encoder.ids("x", pl.Series(["u0", None, "u1"])).tolist() == [first, 0, second]


def test_rare_values_share_id_0():
    encoder = ImpressionEncoder(min_count=2)
    encoder.fit_ids("x", [pl.Series(["a", "a", "b", None])])
    assert encoder.vocabularies["x"] == ["a"]
    assert encoder.ids("x", pl.Series(["b", "a", "z", None])).tolist() == [0, 1, 0, 0]


def test_numbers_are_never_nan_whatever_comes():
    encoder = ImpressionEncoder()
    encoder.fit_dense("x", np.array([1.0, 3.0, np.nan]))
    assert encoder.numbers("x", np.array([2.0, np.nan, np.inf, 1e300])).tolist() == [0.0, 0.0, 10.0, 10.0]
    encoder.fit_dense("constant", np.full(3, 5.0))
    assert encoder.numbers("constant", np.array([5.0, 6.0])).tolist() == [0.0, 1.0]
    encoder.fit_dense("nothing", np.full(3, np.nan))
    assert encoder.numbers("nothing", np.array([np.nan])).tolist() == [0.0]
    assert encoder.original("x", np.array([1.0])) == 3.0


def test_what_is_missing_or_unmet_is_counted(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("recsysml"), "propagate", True)
    given = raw()
    given.dense["age"][3] = np.nan
    with caplog.at_level(logging.INFO, logger="recsysml"):
        table = encode(given)
    assert "missing count as the mean of train: age 1" in caplog.text
    assert "never met: user 10" in caplog.text
    assert table.dense[3, 0] == 0


def test_bad_rows_are_named():
    given = raw()
    given.labels["click"][7] = 2
    with pytest.raises(DataError, match="row 8 in order of time: label click is 2, neither 0 nor 1"):
        encode(given)
    given = raw()
    given.labels["click"][:20] = 0
    with pytest.raises(DataError, match="label click is 0 in every row of train"):
        encode(given)
    given = raw()
    given.labels["seconds"][2] = np.nan
    with pytest.raises(DataError, match="row 3 in order of time: label seconds is nan, no finite number"):
        encode(given)
    given = raw()
    given.dense["age"][5] = np.inf
    with pytest.raises(DataError, match="row 6 in order of time: age is infinite"):
        encode(given)


def test_the_fingerprint_follows_every_row():
    prints = {encode(raw()).fingerprint}
    other = raw()
    other.labels["click"][39] = 1 - other.labels["click"][39]
    prints.add(encode(other).fingerprint)
    prints.add(encode(dataclasses.replace(raw(), source=["another"])).fingerprint)
    assert len(prints) == 3
