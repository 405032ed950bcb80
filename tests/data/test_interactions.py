"""User-item events against a plain Python reading of the same rows."""

import dataclasses
import gzip
import hashlib
import random
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from recsysml.data import interactions
from recsysml.data.interaction_data import warn_of_split
from recsysml.errors import ConfigError, DataError
from recsysml.files import data_dir
from recsysml.schemas.data import InteractionsConfig

CONF = Path(__file__).parents[2] / "conf" / "data"
RANDOM = random.Random(0)
# many of equal time, none twice
EVENTS = [(f"u{i % 20}", f"i{i // 20}", RANDOM.randrange(60)) for i in RANDOM.sample(range(800), 300)]


def write(path, events=EVENTS):
    frame = pl.DataFrame(events, schema=["user_id", "item_id", "timestamp"], orient="row")
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".inter":
        frame.rename({name: f"{name}:token" for name in frame.columns}).write_csv(path, separator="\t")
    else:
        frame.write_csv(path)
    return str(path)


def rows(data, name):
    split = data.splits[name]
    users, items = (np.array(ids) for ids in (data.user_ids, data.item_ids))
    return list(zip(users[split.users].tolist(), items[split.items].tolist(), split.times.tolist(), strict=True))


@pytest.mark.parametrize("suffix", [".csv", ".inter", ".parquet"])
def test_time_split(tmp_path, suffix):
    data = interactions.load(InteractionsConfig(path=write(tmp_path / f"events{suffix}")))
    ordered = sorted(EVENTS, key=lambda event: event[2])  # stable, as the split must be
    assert [rows(data, name) for name in ("train", "val", "test")] == [ordered[:240], ordered[240:270], ordered[270:]]
    assert data.sizes == {"train": 240, "val": 30, "test": 30}


def test_last_out_split(tmp_path):
    events = [*EVENTS, ("once", "i1", 5), ("twice", "i1", 5), ("twice", "i2", 6)]
    data = interactions.load(InteractionsConfig(path=write(tmp_path / "e.csv", events), split="last_out"))
    for user in {event[0] for event in events}:
        own = sorted((event for event in events if event[0] == user), key=lambda event: event[2])
        parts = [[row for row in rows(data, name) if row[0] == user] for name in ("train", "val", "test")]
        assert parts == ([own[:-2], own[-2:-1], own[-1:]] if len(own) > 2 else [own, [], []])


def test_numbers_that_became_floats_are_the_same_names(tmp_path):
    """What pandas makes of a column of integers with a gap somewhere."""
    events = [(n % 4, 100 + n, n) for n in range(40)]
    frame = pl.DataFrame(events, schema=["user_id", "item_id", "timestamp"], orient="row")
    frame.write_parquet(tmp_path / "whole.parquet")
    for dtype in (pl.Float64, pl.Float32):
        frame.with_columns(pl.col("user_id", "item_id").cast(dtype)).write_parquet(tmp_path / "floats.parquet")
        table = pl.DataFrame({"item_id": [float(100 + n) for n in range(40)], "title": [f"t{n}" for n in range(40)]})
        table.write_parquet(tmp_path / "items.parquet")
        whole, floats = (
            interactions.load(
                InteractionsConfig(
                    path=str(tmp_path / name), items_path=str(tmp_path / "items.parquet"), title_column="title"
                )
            )
            for name in ("whole.parquet", "floats.parquet")
        )
        assert floats.user_ids == whole.user_ids == list("0123")
        assert floats.item_titles == whole.item_titles == [f"t{n}" for n in range(40)]
        assert rows(floats, "train") == rows(whole, "train")


@pytest.mark.parametrize("wrong", [1.5, float("nan"), float("inf"), 2.0**60])
def test_a_float_that_is_no_id_is_named(tmp_path, wrong):
    """2^60 may have been 2^60 + 1: whoever wrote it down as a float cannot tell."""
    events = [(float(n % 4), n, n) for n in range(40)]
    events[16] = (wrong, 16, 16)
    path = tmp_path / "e.parquet"
    pl.DataFrame(events, schema=["user_id", "item_id", "timestamp"], orient="row").write_parquet(path)
    with pytest.raises(DataError, match=re.escape(f"row 17 has no usable 'user_id': {wrong!r} (an id is a whole")):
        interactions.load(InteractionsConfig(path=str(path)))


@pytest.mark.parametrize("prefix", ["", "i"])
def test_events_of_one_moment_may_stand_by_item(tmp_path, prefix):
    events = [(user, prefix + item.removeprefix("i"), time) for user, item, time in EVENTS]
    path = write(tmp_path / "e.csv", events)
    source, by_item = (interactions.load(InteractionsConfig(path=path, ties=ties)) for ties in ("source", "item"))

    def key(event):
        return event[2], event[1] if prefix else int(event[1]), event[0]

    found = [row for name in ("train", "val", "test") for row in rows(by_item, name)]
    assert [key(event)[:2] for event in found] == [key(event)[:2] for event in sorted(events, key=key)]
    assert found != [row for name in ("train", "val", "test") for row in rows(source, name)]
    assert by_item.fingerprint != source.fingerprint
    with pytest.raises(ConfigError, match=r"data\.ties"):
        interactions.load(InteractionsConfig(path=path, ties="time"))


def test_dates_become_seconds(tmp_path):
    events = [("a", item, f"2019-11-24 00:01:{i:02}") for i, item in enumerate("opqrstuvwx")]
    events[3] = ("b", "x", "1970-01-02 00:00:00")
    data = interactions.load(InteractionsConfig(path=write(tmp_path / "e.csv", events)))
    times = [time for name in data.splits for *_, time in rows(data, name)]
    assert times == [86400.0, *(1574553660.0 + i for i in range(10) if i != 3)]


def test_the_fingerprint_sees_file_and_split(tmp_path):
    path = write(tmp_path / "e.csv")
    values = {
        interactions.load(InteractionsConfig(path=path, split=split)).fingerprint for split in interactions.SPLITS
    }
    write(tmp_path / "e.csv", EVENTS[1:])
    assert len(values | {interactions.load(InteractionsConfig(path=path)).fingerprint}) == 3


def test_what_is_wrong_is_named(tmp_path):
    path = write(tmp_path / "e.csv", [("a", "x", "1"), ("b", "y", "soon"), ("c", "", "3")])
    with pytest.raises(DataError, match=r"row 2 has no usable 'timestamp': 'soon'"):
        interactions.load(InteractionsConfig(path=path))
    path = write(tmp_path / "n.csv", [("a", "x", 1), ("b", None, 2)])
    with pytest.raises(DataError, match=r"row 2 has no usable 'item_id'"):
        interactions.load(InteractionsConfig(path=path))
    with pytest.raises(DataError, match=r"no column 'when' \(data.time_column\); it has user_id, item_id, timestamp"):
        interactions.check(InteractionsConfig(path=path, time_column="when"))
    with pytest.raises(ConfigError, match=r"data.split=random"):
        interactions.check(InteractionsConfig(path=path, split="random"))
    with pytest.raises(ConfigError, match=r"data.path is empty"):
        interactions.check(InteractionsConfig())
    with pytest.raises(DataError, match="RECSYSML_DATA"):
        interactions.check(InteractionsConfig(path="nowhere/x.inter"))
    with pytest.raises(DataError, match=rf"^interactions: there is no file {tmp_path}/x.csv$"):
        interactions.check(InteractionsConfig(path=str(tmp_path / "x.csv")))
    with pytest.raises(DataError, match=rf"^interactions: {tmp_path} is a folder"):
        interactions.check(InteractionsConfig(path=str(tmp_path)))


GOOD = [(f"u{n % 4}", f"i{n}", str(n)) for n in range(40)]


def bad(tmp_path, row, event, name="e.csv"):
    """A file of good events but for one, row `row` from 1."""
    events = list(GOOD)
    events[row - 1] = event
    return InteractionsConfig(path=write(tmp_path / name, events))


@pytest.mark.parametrize("suffix", [".csv", ".inter", ".parquet"])
@pytest.mark.parametrize(
    ("event", "said"),
    [
        (("u1", "i1", "later"), "row 17 has no usable 'timestamp': 'later'"),
        (("u1", "i1", "nan"), "row 17 has no usable 'timestamp': 'nan'"),
        (("u1", "i1", "inf"), "row 17 has no usable 'timestamp': 'inf'"),
        (("u1", "i1", None), "row 17 has no usable 'timestamp'"),
        ((None, "i1", "3"), "row 17 has no usable 'user_id'"),
        (("u1", None, None), "row 17 has no usable 'item_id'"),
    ],
)
def test_a_bad_row_is_named(tmp_path, suffix, event, said):
    with pytest.raises(DataError, match=f"e{suffix} {said}") as caught:
        interactions.load(bad(tmp_path, 17, event, f"e{suffix}"))
    assert "\n" not in str(caught.value)


def test_the_first_of_several_bad_rows_is_named(tmp_path):
    events = list(GOOD)
    events[30], events[8] = (None, "i1", "3"), ("u1", "i1", "soon")
    with pytest.raises(DataError, match="row 9 has no usable 'timestamp'"):
        interactions.load(InteractionsConfig(path=write(tmp_path / "e.csv", events)))


@pytest.mark.parametrize("suffix", [".csv", ".inter", ".parquet", ".csv.gz"])
def test_a_file_that_is_cut_off_is_said(tmp_path, suffix):
    path = tmp_path / f"e{suffix}"
    whole = Path(write(tmp_path / ("whole.csv" if suffix == ".csv.gz" else f"whole{suffix}"), GOOD)).read_bytes()
    if suffix == ".csv.gz":
        whole = gzip.compress(whole)
        path.write_bytes(whole)
        assert interactions.load(InteractionsConfig(path=str(path))).sizes["train"] == 32
    path.write_bytes(whole[:-7])
    with pytest.raises(DataError, match=r"row 40 has no usable|cannot be read") as caught:
        interactions.load(InteractionsConfig(path=str(path)))
    assert "\n" not in str(caught.value) and path.name in str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".inter", ".csv.gz"])
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("u1,i1,3,7,7", r"row 17 has (5|more) fields"),
        ("café,i1,3", "row 17 is not UTF-8 text"),
        ('"u1,i1,3', r"row 17: .*is a quote left open"),
    ],
)
def test_a_row_that_no_table_can_hold_is_named(tmp_path, suffix, line, said):
    if suffix == ".inter" and line.startswith('"'):
        pytest.skip("a quote is a letter like others there")
    lines = ["user_id,item_id,timestamp", *(",".join(event) for event in GOOD)]
    lines[17] = line
    content = "\n".join(lines).encode("latin-1")
    path = tmp_path / f"e{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".csv.gz" else content)
    if suffix == ".inter":
        path.write_bytes(content.replace(b",", b"\t"))
    with pytest.raises(DataError, match=said) as caught:
        interactions.load(InteractionsConfig(path=str(path)))
    assert "\n" not in str(caught.value) and path.name in str(caught.value)


def test_a_packed_file_that_is_cut_off_says_how_far_it_goes(tmp_path):
    lines = ["user_id,item_id,timestamp", *(f"u{RANDOM.randrange(10**9)},i,{n}" for n in range(30_000))]
    packed = gzip.compress("\n".join(lines).encode())
    (tmp_path / "e.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"beyond line (\d+) or so \(cut off\?\)") as caught:
        interactions.load(InteractionsConfig(path=str(tmp_path / "e.csv.gz")))
    assert 5_000 < int(str(caught.value).partition("line ")[2].split()[0]) < 20_000


def test_a_column_of_lists_is_no_id(tmp_path):
    frame = pl.DataFrame({"user_id": [["a", "b"]] * 9, "item_id": ["i"] * 9, "timestamp": range(9)})
    frame.write_parquet(tmp_path / "e.parquet")
    with pytest.raises(DataError, match=r"e\.parquet: column 'user_id' holds List"):
        interactions.load(InteractionsConfig(path=str(tmp_path / "e.parquet")))


def test_a_known_file_is_held_to_its_checksum(tmp_path):
    path = write(tmp_path / "e.csv", GOOD)
    config = InteractionsConfig(path=path, sha256=hashlib.sha256(Path(path).read_bytes()).hexdigest())
    interactions.check(config)
    Path(path).write_bytes(Path(path).read_bytes()[:-1])  # cut within a number: no row is short
    with pytest.raises(DataError, match=r"wrong checksum \(cut off, or changed\)"):
        interactions.check(config)


def test_ids_of_any_size_are_names(tmp_path):
    big = [(3_000_000_000 + n % 2, 2**63 - 1 - n, n) for n in range(20)]
    for suffix in (".csv", ".parquet"):
        data = interactions.load(InteractionsConfig(path=write(tmp_path / f"e{suffix}", big)))
        assert data.user_ids == ["3000000000", "3000000001"] and str(2**63 - 1) in data.item_ids
        assert data.splits["train"].users.dtype == data.splits["train"].items.dtype == np.int64
        assert max(data.splits["train"].items.max(), 0) < 20


def test_an_event_that_stands_there_twice_counts_once_and_is_named(tmp_path, caplog):
    again = (*GOOD[3][:2], "99")  # the same item at another time is another event
    events = [*GOOD[:25], GOOD[3], *GOOD[25:], GOOD[4], again]
    with caplog.at_level("WARNING", "recsysml"):
        data = interactions.load(InteractionsConfig(path=write(tmp_path / "e.csv", events)))
    assert sum(data.sizes.values()) == 41
    assert "2 events stand there twice (the first is row 26)" in caplog.text


def test_users_with_one_event_are_counted_and_one_is_named(tmp_path, caplog):
    events = [*GOOD[:6], ("once", "i3", "6"), *GOOD[7:]]
    with caplog.at_level("WARNING", "recsysml"):
        data = interactions.load(InteractionsConfig(path=write(tmp_path / "e.csv", events), split="last_out"))
    assert "users with fewer than 3 events: 1 (the first is once with 1, row 7)" in caplog.text
    assert "leaks across users" not in caplog.text  # that is for who trains to say
    warn_of_split(data)
    assert "leaks across users" in caplog.text
    assert "split=time is the honest one" in caplog.text
    warn_of_split(dataclasses.replace(data, timed=False))
    assert "without times there is no other" in caplog.text
    n_lines = len(caplog.records)
    warn_of_split(dataclasses.replace(data, split="time"))
    assert len(caplog.records) == n_lines
    assert data.user_ids.index("once") not in data.splits["test"].users
    interactions.load(InteractionsConfig(path=write(tmp_path / "e.csv", events)))  # by time nobody is left out for it
    assert len(caplog.records) == n_lines


@pytest.mark.parametrize(("split", "events"), [("time", GOOD[:3]), ("last_out", [(f"u{n}", "i", n) for n in range(9)])])
def test_an_empty_split_is_said(tmp_path, split, events):
    with pytest.raises(DataError, match=f"data.split={split} leaves val empty"):
        interactions.load(InteractionsConfig(path=write(tmp_path / "e.csv", events), split=split))


def test_an_empty_file_is_said(tmp_path):
    (tmp_path / "e.csv").write_text("")
    with pytest.raises(DataError, match="cannot be read"):
        interactions.check(InteractionsConfig(path=str(tmp_path / "e.csv")))
    with pytest.raises(DataError, match="holds no events"):
        interactions.load(InteractionsConfig(path=write(tmp_path / "n.csv", [])))


def with_tables(tmp_path):
    items = [("i2", "Two", "7.5", "red", "a|b c"), ("i0", 'Zero "x"', "", "blue", "c"), ("i1", "One", "x", None, None)]
    pl.DataFrame(items, schema=["item_id", "title", "size", "colour", "words"], orient="row").write_csv(
        tmp_path / "items.csv"
    )
    pl.DataFrame([("u1", 3), ("u9", 4)], schema=["user_id", "age"], orient="row").write_parquet(tmp_path / "u.parquet")
    return InteractionsConfig(
        path=write(tmp_path / "e.csv", GOOD),
        items_path=str(tmp_path / "items.csv"),
        title_column="title",
        item_dense=["size"],
        item_categorical=["colour"],
        item_tags=["words"],
        users_path=str(tmp_path / "u.parquet"),
        user_dense=["age"],
    )


def test_features_stand_beside_their_ids(tmp_path):
    data = interactions.load(with_tables(tmp_path))
    features, at = data.item_features, {name: data.item_ids.index(name) for name in ("i0", "i1", "i2", "i3")}
    assert len(features) == 40 and data.item_titles is not None
    assert [data.item_titles[at[name]] for name in at] == ['Zero "x"', "One", "Two", ""]
    assert features.dense[at["i2"], 0] == 7.5 and np.isnan(features.dense[[at["i0"], at["i1"], at["i3"]], 0]).all()
    assert features.categories == [["blue", "red"]] and features.n_categories == [3]
    assert [features.categorical[at[name], 0] for name in at] == [1, 0, 2, 0]

    def words(name):
        own = features.tags[features.tag_offsets[at[name]] : features.tag_offsets[at[name] + 1]]
        return [features.tag_names[tag] for tag in own]

    assert [sorted(words(name)) for name in at] == [["c"], [], ["a", "b", "c"], []]
    ages = data.user_features.dense[:, 0]
    assert ages[data.user_ids.index("u1")] == 3 and np.isnan(ages).sum() == 3
    assert data.user_features.is_empty is False and data.item_features.vectors.shape == (40, 0)


def test_tags_may_be_a_list_and_nothing_else_may(tmp_path):
    config = with_tables(tmp_path)
    plain = interactions.load(config).item_features
    texts = {"i2": ["a", "b", "c"], "i0": ["c", ""], "i1": None}
    table = pl.read_csv(config.items_path).with_columns(
        pl.Series("words", [texts[name] for name in ("i2", "i0", "i1")], dtype=pl.List(pl.String))
    )
    table.write_parquet(tmp_path / "items.parquet")
    config = dataclasses.replace(config, items_path=str(tmp_path / "items.parquet"))
    lists = interactions.load(config).item_features
    assert lists.tag_names == plain.tag_names
    assert np.array_equal(lists.tag_offsets, plain.tag_offsets) and np.array_equal(lists.tags, plain.tags)
    with pytest.raises(DataError, match=r"items\.parquet: column 'words' holds List"):
        interactions.load(dataclasses.replace(config, item_categorical=["words"]))


def test_a_table_that_knows_nothing_is_refused(tmp_path):
    config = with_tables(tmp_path)
    with pytest.raises(DataError, match=r"column 'colour' was to be numbers and has none, but 'blue'"):
        interactions.load(dataclasses.replace(config, item_dense=["colour"]))
    others = pl.read_csv(config.items_path).with_columns(pl.col("item_id").str.replace("i", "item "))
    others.write_csv(tmp_path / "others.csv")
    with pytest.raises(DataError, match=r"none of the ids in 'item_id' of the events, as 'i0': it has 'item 2'"):
        interactions.load(dataclasses.replace(config, items_path=str(tmp_path / "others.csv")))


def test_tables_of_features_are_checked_first(tmp_path):
    config = with_tables(tmp_path)
    with pytest.raises(DataError, match=r"no column 'shape' \(data.item_dense\)"):
        interactions.check(dataclasses.replace(config, item_dense=["shape"]))
    with pytest.raises(ConfigError, match=r"data.item_dense needs the table"):
        interactions.check(dataclasses.replace(config, items_path=None))
    with (tmp_path / "items.csv").open("a") as file:
        file.write("i2,Two again,,,\n")
    with pytest.raises(DataError, match="row 1: item_id=i2 stands in more than one row"):
        interactions.load(config)


@pytest.mark.parametrize("seed", range(3))
def test_what_may_be_learnt_from_and_sequences(tmp_path, seed):
    random = np.random.default_rng(seed)
    events = [(f"u{random.integers(6)}", f"i{n}", int(random.integers(30))) for n in range(120)]
    path = write(tmp_path / "e.csv", events)
    plain = interactions.load(InteractionsConfig(path=path, split="last_out"))
    both = interactions.load(InteractionsConfig(path=path, split="last_out", fit_range="train_val"))
    assert plain.fitted is plain.splits["train"]
    assert len(both.fitted) == plain.sizes["train"] + plain.sizes["val"]
    assert (np.diff(both.fitted.times) >= 0).all()
    found = both.sequences("train", "val")
    for user, name in enumerate(both.user_ids):
        own = [event[1] for event in sorted(events, key=lambda event: event[2]) if event[0] == name][:-1]
        row = slice(found.offsets[user], found.offsets[user + 1])
        assert [both.item_ids[item] for item in found.items[row]] == own
        assert (np.diff(found.times[row]) >= 0).all()


def test_configs_list_every_field():
    for name in ("ml-100k", "interactions"):
        content = (CONF / f"{name}.yaml").read_text()
        assert content.startswith("# ")
        assert vars(InteractionsConfig(**yaml.safe_load(content))) == yaml.safe_load(content)


@pytest.mark.skipif(not data_dir(), reason="RECSYSML_DATA is not set")
def test_movielens_has_its_known_size():
    config = InteractionsConfig(**yaml.safe_load((CONF / "ml-100k.yaml").read_text()))
    data = interactions.load(config)
    assert (len(data.user_ids), len(data.item_ids), sum(data.sizes.values())) == (943, 1682, 100_000)
    assert interactions.status(config).startswith("ready: ml-100k.inter")
    assert data.item_titles is not None and data.item_titles[data.item_ids.index("1")] == "Toy Story"
    assert len(data.item_features.tag_names) == 19 and len(data.user_features.categories[1]) == 21
