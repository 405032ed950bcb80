"""MovieLens 1M in both forms, from files of the same shape."""

import gzip
from pathlib import Path

import pytest
import yaml

from recsysml.data import ml_1m
from recsysml.errors import ConfigError, DataError
from recsysml.files import data_dir
from recsysml.schemas.data import Ml1mConfig

CONF = Path(__file__).parents[2] / "conf" / "data" / "ml-1m.yaml"
MOVIES = "10::Toy Story (1995)::Animation|Children's\n20::Caf\xe9 (1931)::Film Noir\n30::No year::Drama\n"
USERS = "1::F::1::10::48067\n2::M::56::16::70072\n"
RATINGS = [
    (1, 10, 5, 100),
    (2, 20, 3, 90),
    (1, 30, 4, 90),
    (1, 20, 1, 300),
    (2, 10, 2, 50),
    (2, 30, 5, 310),
    (1, 40, 5, 60),
]


def folder(tmp_path, ratings=True, sequences=True):
    (tmp_path / "movies.dat").write_bytes(MOVIES.encode("latin-1"))
    (tmp_path / "users.dat").write_text(USERS)
    if ratings:
        (tmp_path / "ratings.dat").write_text("".join("::".join(map(str, row)) + "\n" for row in RATINGS))
    if sequences:
        (tmp_path / "sas_train_input.txt.gz").write_bytes(gzip.compress(b"4 3 1\n1 2\n"))
        (tmp_path / "sas_test_output.txt").write_text("2\n3\n")
        (tmp_path / "sas_to_original_items.txt").write_text("1 10\n2 20\n3 30\n4 40\n")
        (tmp_path / "sas_to_original_users.txt").write_text("1 1\n2 2\n")
    return str(tmp_path)


@pytest.mark.parametrize("source", ["ratings", "sequences"])
def test_both_forms_give_the_same_order(tmp_path, source):
    data = ml_1m.load(Ml1mConfig(name="m", path=folder(tmp_path), source=source, split="last_out"))
    whole = data.sequences("train", "val", "test")
    own = [[data.item_ids[item] for item in whole.items[whole.offsets[u] : whole.offsets[u + 1]]] for u in range(2)]
    assert own == [["40", "30", "10", "20"], ["10", "20", "30"]]
    assert data.timed is (source == "ratings") and data.sizes == {"train": 3, "val": 2, "test": 2}
    assert data.item_ids == ["10", "20", "30", "40"]
    assert data.item_titles == ["Toy Story (1995)", "Caf\xe9 (1931)", "No year", ""]
    assert data.item_features.dense[:2, 0].tolist() == [1995, 1931]
    assert data.item_features.tag_names == ["Animation", "Children's", "Drama", "Film-Noir"]
    assert data.user_features.dense[:, 0].tolist() == [1, 56] and data.user_features.categories[0] == ["F", "M"]


@pytest.mark.parametrize(
    ("row", "said"),
    [("1::2::3", "row 4 has no usable 'Timestamp'"), ("1::2::3::4::5", "row 4 has more fields than the 4")],
)
def test_a_row_of_another_length_is_named(tmp_path, row, said):
    ratings = Path(folder(tmp_path)) / "ratings.dat"
    lines = ratings.read_text().splitlines()
    ratings.write_text("\n".join([*lines[:3], row, *lines[3:]]))
    with pytest.raises(DataError, match=f"ratings.dat.* {said}"):
        ml_1m.load(Ml1mConfig(name="m", path=str(tmp_path)))


def test_ratings_are_taken_where_they_are(tmp_path):
    config = Ml1mConfig(name="m", path=folder(tmp_path, ratings=False))
    with pytest.raises(ConfigError, match=r"data.split=time needs ratings.dat"):
        ml_1m.check(config)
    config.split = "last_out"
    assert "sequences" in ml_1m.status(config)
    first = ml_1m.load(config).fingerprint
    folder(tmp_path)
    assert ml_1m.status(config) == "ready: ratings.dat" and ml_1m.load(config).fingerprint != first


def test_what_is_missing_or_cut_off_is_said(tmp_path):
    with pytest.raises(DataError, match="RECSYSML_DATA"):
        ml_1m.check(Ml1mConfig(path=str(tmp_path / "nowhere")))
    config = Ml1mConfig(path=folder(tmp_path, sequences=False), split="last_out", source="sequences")
    with pytest.raises(DataError, match=r"has no sas_train_input.txt and sas_test_output.txt"):
        ml_1m.check(config)
    folder(tmp_path)
    (tmp_path / "sas_test_output.txt").write_text("2\n")
    with pytest.raises(DataError, match=r"2 rows and sas_test_output.txt has 1: one of them is cut off"):
        ml_1m.load(config)
    config.source = "ratings"
    (tmp_path / "ratings.dat").write_text("1::10::5::100\n1::20::3::200\n2::10::")
    with pytest.raises(DataError, match=r"ratings.dat row 3 has no usable 'Timestamp'"):
        ml_1m.load(config)


def test_the_yaml_lists_every_field():
    content = yaml.safe_load(CONF.read_text())
    assert vars(Ml1mConfig(**content)) == content


@pytest.mark.skipif(not data_dir(), reason="RECSYSML_DATA is not set")
def test_the_sequences_have_their_known_size():
    config = Ml1mConfig(**yaml.safe_load(CONF.read_text()) | {"source": "sequences"})
    data = ml_1m.load(config)
    assert (len(data.user_ids), len(data.item_ids)) == (6040, 3416)
    assert data.sizes == {"train": 980_979, "val": 6040, "test": 6040}
    assert data.item_titles is not None and all(data.item_titles)
