"""Sequences without times, against a plain reading of the same lines."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from recsysml.data import sequences
from recsysml.errors import ConfigError, DataError
from recsysml.files import data_dir
from recsysml.schemas.data import SequencesConfig

CONF = Path(__file__).parents[2] / "conf" / "data" / "amazon_beauty.yaml"
LINES = ["7 3 1 2 5", "2 1 3", "9 4 1 4 2", "1 5"]


def config(tmp_path, lines=LINES, **changes):
    (tmp_path / "s.txt").write_text("\n".join(lines) + "\n")
    return SequencesConfig(**{"name": "s", "path": str(tmp_path / "s.txt")} | changes)


def test_lines_become_events(tmp_path):
    data = sequences.load(config(tmp_path))
    assert (data.timed, data.split, data.user_ids, data.item_ids) == (False, "last_out", list("1279"), list("12345"))
    assert data.sizes == {"train": 7, "val": 2, "test": 2}
    whole = data.sequences("train", "val", "test")
    for line in LINES:
        user, *items = line.split()
        row = data.user_ids.index(user)
        own = slice(whole.offsets[row], whole.offsets[row + 1])
        assert [data.item_ids[item] for item in whole.items[own]] == items
        assert whole.times[own].tolist() == list(range(len(items)))
    assert [data.item_ids[item] for item in data.splits["test"].items[np.argsort(data.splits["test"].users)]] == [
        "5",
        "2",
    ]


def test_names_tags_and_titles(tmp_path):
    names = {"id2user": {"7": "A", "2": "B", "9": "C", "1": "D"}, "id2item": {str(n): f"z{9 - n}" for n in range(1, 6)}}
    (tmp_path / "names.json").write_text(json.dumps(names))
    (tmp_path / "tags.json").write_text(json.dumps({"1": [10, 11], "3": [11]}))
    (tmp_path / "titles.txt").write_text("z8 a thing\nz6 another\n")
    files = {
        f"{name}_path": str(tmp_path / file)
        for name, file in (("names", "names.json"), ("tags", "tags.json"), ("titles", "titles.txt"))
    }
    data = sequences.load(config(tmp_path, **files))
    assert data.user_ids == list("ABCD") and data.item_ids == ["z4", "z5", "z6", "z7", "z8"]
    assert data.item_titles == ["", "", "another", "", "a thing"]
    features = data.item_features
    found = {
        name: {features.tag_names[tag] for tag in features.tags[features.tag_offsets[i] : features.tag_offsets[i + 1]]}
        for i, name in enumerate(data.item_ids)
    }
    assert found == {"z4": set(), "z5": set(), "z6": {"11"}, "z7": set(), "z8": {"10", "11"}}
    whole = data.sequences("train", "val", "test")
    assert [data.item_ids[item] for item in whole.items[: whole.offsets[1]]] == ["z6", "z8", "z7", "z4"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["1 2 3 4", "2", "3 1"], "row 2 has no items"),
        (["1 2 3 4", "", "3 1"], "row 2 has no items"),
        (["1 2 3 4", "2 1", "1 3"], "row 3: user 1 has had a line before"),
        (["1 2", "2 1"], "data.split=last_out leaves val empty"),
    ],
)
def test_bad_lines_are_named(tmp_path, lines, said):
    with pytest.raises(DataError, match=said):
        sequences.load(config(tmp_path, lines))


def test_what_is_missing_or_wrong_is_said_before(tmp_path):
    with pytest.raises(ConfigError, match="has no times, only an order"):
        sequences.check(config(tmp_path, split="time"))
    with pytest.raises(DataError, match=r"nowhere\.json"):
        sequences.check(config(tmp_path, names_path="nowhere.json"))
    with pytest.raises(DataError, match="wrong checksum"):
        sequences.check(config(tmp_path, sha256="0" * 64))
    (tmp_path / "names.json").write_text('{"id2user": {')
    with pytest.raises(DataError, match="is no JSON"):
        sequences.load(config(tmp_path, names_path=str(tmp_path / "names.json")))


def test_the_yaml_lists_every_field():
    content = yaml.safe_load(CONF.read_text())
    assert vars(SequencesConfig(**content)) == content


@pytest.mark.skipif(not data_dir(), reason="RECSYSML_DATA is not set")
def test_beauty_has_its_known_size():
    data = sequences.load(SequencesConfig(**yaml.safe_load(CONF.read_text())))
    assert (len(data.user_ids), len(data.item_ids), sum(data.sizes.values())) == (22_363, 12_101, 198_502)
    assert data.sizes["test"] == 22_363 and not data.item_features.is_empty and data.item_titles is not None
    assert data.item_titles[data.item_ids.index("B004756YJA")].startswith("nail lacquer")
