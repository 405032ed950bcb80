"""Impressions from files of one's own: every type of column, and every mistake one by one."""

import dataclasses

import numpy as np
import polars as pl
import pytest

from recsysml.data import impressions
from recsysml.errors import ConfigError, DataError
from recsysml.schemas.impressions import ImpressionsConfig


def rows(n=60, seed=0):
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "when": rng.permutation(n),
            "slate": [f"s{i // 2}" for i in range(n)],
            "place": [i % 2 for i in range(n)],
            "user": [f"u{u}" for u in rng.integers(0, 6, n)],
            "item": [str(10**15 + i) for i in rng.integers(0, 9, n)],
            "price": np.round(rng.random(n) * 20, 2),
            "words": [" ".join(rng.choice(["red", "blue", "old"], rng.integers(0, 3))) for _ in range(n)],
            "before": ["|".join(str(10**15 + i) for i in rng.integers(0, 9, k)) for k in rng.integers(0, 4, n)],
            "picture": [f"{a:.2f} {b:.2f}" for a, b in rng.random((n, 2))],
            "click": [i % 3 % 2 for i in range(n)],
            "paid": np.round(rng.random(n), 3),
        }
    )


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "log.csv"
    rows().write_csv(path)
    return path


def config(file, **changes):
    given = {
        "path": str(file), "time_column": "when", "request_column": "slate", "position_column": "place",
        "user_column": "user", "target_column": "item", "dense": ["price"], "sparse": ["user", "item"],
        "bags": ["words"], "sequences": ["before"], "vectors": ["picture"], "cohorts": ["user"],
        "labels": {"click": "binary", "paid": "real"},
    }  # fmt: skip
    return ImpressionsConfig(**given | changes)


def changed(file, **columns):
    other = file.with_name("other.csv")
    pl.read_csv(file, infer_schema=False).with_columns(**columns).write_csv(other)
    return other


def at(row, value, name):
    return pl.when(pl.int_range(pl.len()) == row).then(pl.lit(value)).otherwise(pl.col(name))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_every_type_of_column_is_read(file, tmp_path, suffix):
    path = tmp_path / f"log.{suffix}"
    if suffix == "parquet":  # lists as lists
        listed = pl.col("words").str.split(" "), pl.col("before").str.split("|")
        rows().with_columns(*listed, pl.col("picture").str.split(" ").cast(pl.List(pl.Float64))).write_parquet(path)
    else:
        rows().write_csv(path, **({"separator": "\t", "quote_style": "never"} if suffix == "tsv" else {}))
    table = impressions.load_impressions(config(path))
    assert table.sizes == {"train": 42, "val": 2, "calibration": 4, "test": 12}
    assert list(table.shape.sparse) == ["user", "item"]
    assert table.shape.history == {"before": table.shape.sparse["item"]}
    assert table.shape.positions == 2
    assert (table.shape.target, table.shape.user, table.shape.cohorts) == ("item", "user", ["user"])
    # slates in the order of the time of their first row, and back to the file's rows by hand
    source = rows().with_columns(begin=pl.col("when").min().over("slate")).sort("begin", "place")
    assert table.labels[:, 0].tolist() == source["click"].to_list()
    price = source["price"].to_numpy()
    assert table.encoder.original("price", table.dense[:, 0]) == pytest.approx(price, rel=1e-4, abs=1e-4)
    words = table.encoder.vocabularies["item"]
    for row in range(0, 60, 5):
        assert table.sparse[row, 1] == (words.index(source["item"][row]) + 1 if source["item"][row] in words else 0)
        own = table.history.values[table.history.starts[row] : table.history.stops[row], 0]
        before = [item for item in source["before"][row].split("|") if item]
        assert own.tolist() == [words.index(item) + 1 if item in words else 0 for item in before]
        bag = table.bags[0]
        named = [word for word in source["words"][row].split(" ") if word]
        known = table.encoder.vocabularies["words"]
        assert [known[i - 1] for i in bag.values[bag.starts[row] : bag.stops[row], 0]] == named
        wanted = [float(number) for number in source["picture"][row].split(" ")]
        assert table.vectors[table.vector_rows[row], 0] == pytest.approx(wanted)


def test_census_needs_a_config_alone(tmp_path):
    """No header, labels in words."""
    path = tmp_path / "census.csv"
    incomes = [" 50000+." if i % 4 == 0 else " - 50000." for i in range(50)]
    pairs = [(20 + i % 40, " Private" if i % 3 else " State", incomes[i]) for i in range(50)]
    path.write_text("\n".join(f"{age},{work},{income}" for age, work, income in pairs))
    given = ImpressionsConfig(
        path=str(path), columns=["age", "work", "income"], dense=["age"], sparse=["work"],
        labels={"income": "binary"}, positive={"income": " 50000+."},
    )  # fmt: skip
    table = impressions.load_impressions(given)
    assert table.labels[:, 0].tolist() == [float(i % 4 == 0) for i in range(50)]
    assert table.encoder.vocabularies["work"] == ["Private", "State"]
    with pytest.raises(DataError, match=r"has 3 columns, and data\.columns names 2"):
        impressions.check(dataclasses.replace(given, columns=["age", "income"], sparse=[]))


def test_files_with_a_split_of_their_own(file, tmp_path):
    parts = {"path": rows().head(40), "val_path": rows(seed=1).head(8), "test_path": rows(seed=2).head(10)}
    for name, part in parts.items():
        part.write_csv(tmp_path / f"{name}.csv")
    table = impressions.load_impressions(config(file, **{name: str(tmp_path / f"{name}.csv") for name in parts}))
    assert table.sizes == {"train": 40, "val": 4, "calibration": 4, "test": 10}
    assert table.labels[48:, 0].sum() == parts["test_path"]["click"].sum()


MISTAKES = {
    "no file": ({"path": None}, ConfigError, "data.path is empty"),
    "missing file": ({"path": "nowhere.csv"}, DataError, "nowhere.csv"),
    "no labels": ({"labels": {}}, ConfigError, "data.labels is empty"),
    "unknown column": ({"dense": ["prise"]}, DataError, r"no column 'prise' \(data\.dense\); it has when, slate"),
    "label as input": ({"dense": ["price", "click"]}, ConfigError, "click is named in two places"),
    "kind of label": ({"labels": {"click": "binry"}}, ConfigError, "Did you mean: binary"),
    "stranger among hashed": ({"hashed": {"price": 5}}, ConfigError, r"price is none of data\.sparse"),
    "positive of what": ({"positive": {"paid": "1"}}, ConfigError, "paid is no binary label"),
    "sequence without target": ({"target_column": None}, ConfigError, r"set data\.target_column"),
    "half a split": ({"val_path": "x.csv"}, ConfigError, "give both"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_config_is_found_before_anything_is_read(file, name):
    changes, error, words = MISTAKES[name]
    with pytest.raises(error, match=words):
        impressions.check(config(file, **changes))


BAD = {
    "label outside 0 and 1": ("click", "2", "row 4: label click is 2, neither 0 nor 1"),
    "label missing": ("click", None, "row 4: label click is missing, neither 0 nor 1"),
    "real label": ("paid", "much", "row 4: label paid is much, no number, which this label needs in every row"),
    "NaN": ("price", "NaN", "row 4: price is NaN, no number; leave it empty"),
    "a word": ("price", "cheap", "row 4: price is cheap, no number"),
    "time": ("when", "soon", "row 4: when is 'soon', neither number nor date"),
    "place": ("place", "-1", "row 4: place is '-1', no whole number from 0 on"),
    "vector": ("picture", "1", "row 4: picture has 1 numbers, others have 2"),
    "vector of words": ("picture", "a b", "row 4: picture holds something that is no number"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_named(file, name):
    column, value, words = BAD[name]
    with pytest.raises(DataError, match=words):
        impressions.load_impressions(config(changed(file, **{column: at(3, value, column)})))


def test_an_empty_task_is_refused(file):
    with pytest.raises(DataError, match="label click is 0 in every row of train"):
        impressions.load_impressions(config(changed(file, click=pl.lit("0"))))


def test_a_served_encoder_counts_what_it_cannot_read(file):
    """With an encoder that was fitted before, a number that is none and an unmet id go on as missing and unknown."""
    table = impressions.load_impressions(config(file))
    other = changed(file, price=at(3, "NaN", "price"), user=at(3, "nobody", "user"))
    again = impressions.load_impressions(config(other), table.encoder)
    source = rows().with_row_index().with_columns(begin=pl.col("when").min().over("slate")).sort("begin", "place")
    row = source["index"].to_list().index(3)
    assert again.dense[row, 0] == 0
    assert again.sparse[row, 0] == 0
    kept = np.arange(60) != row
    assert np.array_equal(again.dense[kept], table.dense[kept])


def test_columns_of_the_user_come_first(file):
    given = changed(file, town=pl.col("user").str.slice(1).cast(pl.Int64) % 2)
    plain = impressions.load_impressions(config(given, sparse=["item", "town", "user"]))
    assert plain.shape.of_user == 0
    assert list(plain.shape.sparse) == ["item", "town", "user"]
    table = impressions.load_impressions(config(given, sparse=["item", "town", "user"], user_columns=["town"]))
    assert table.shape.of_user == 2
    assert list(table.shape.sparse) == ["user", "town", "item"]
    assert np.array_equal(table.sparse, plain.sparse[:, [2, 1, 0]])


def test_what_is_shown_is_no_column_of_the_user(file):
    """Its vector meets the past, and would be looked for among those that are not the user's."""
    config(file, user_columns=["item"], target_column=None, sequences=[]).validate()
    with pytest.raises(ConfigError, match="user_columns: item is what is shown"):
        config(file, user_columns=["item"], target_column="item").validate()


@pytest.mark.parametrize(
    "wrong",
    [{"user_columns": ["town"]}, {"user_columns": ["item"], "user_column": None}, {"user_columns": ["item", "item"]},
     {"user_columns": ["user"]}],
)  # fmt: skip
def test_columns_of_the_user_are_checked(file, wrong):
    with pytest.raises(ConfigError, match="user_column"):
        config(file, **wrong).validate()


def test_a_column_of_the_user_that_is_not_its_own_is_said(file, caplog):
    own = changed(file, town=pl.col("user").str.slice(1).cast(pl.Int64) % 2)
    impressions.load_impressions(config(own, sparse=["user", "item", "town"], user_columns=["town"]))
    assert "several values" not in caplog.text
    impressions.load_impressions(config(file, sparse=["user", "item", "slate"], user_columns=["slate"]))
    assert "data.user_columns: slate has several values for one user" in caplog.text


def test_a_text_as_a_label_is_told_what_to_do(file):
    given = changed(file, click=pl.when(pl.col("click") == "1").then(pl.lit("yes")).otherwise(pl.lit("no")))
    with pytest.raises(
        DataError, match=r"label click is (yes|no), neither 0 nor 1; of texts \+data.positive.click=TEXT"
    ):
        impressions.load_impressions(config(given))
