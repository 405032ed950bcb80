"""User-item events against a plain Python reading of the same rows."""

import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from recsysml.data import interactions
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
