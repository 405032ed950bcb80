"""What a session goes on to, as labels of a table of one's own: against the double loop, and blind to later splits."""

import json

import numpy as np
import polars as pl
import pytest

from recsysml.cli import main
from recsysml.data import impressions
from recsysml.errors import ConfigError, DataError
from recsysml.schemas.impressions import ImpressionsConfig

N = 160


def table(seed, **columns):
    """Slates of two, of which some are seen only after the next one began; sessions numbered by user, so that those of
    two users have one name. In no order."""
    rng = np.random.default_rng(seed)
    slate = np.arange(N) // 2
    rows = pl.DataFrame(
        {
            "row": np.arange(N, dtype=float),
            "when": 10 * slate + 15 * (np.arange(N) % 2) * rng.integers(0, 2, N // 2)[slate],
            "slate": slate,
            "place": np.arange(N) % 2,
            "user": [f"u{u}" for u in rng.integers(0, 4, N // 2)[slate]],
            "session": np.sort(rng.integers(0, 5, N // 2))[slate],
            "item": rng.integers(0, 9, N),
            "watch": rng.exponential(30, N).round(3),
            "home": rng.integers(0, 2, N),
            "click": rng.choice(["yes", "no"], N),
            **columns,
        }
    )
    return rows.sample(fraction=1.0, shuffle=True, seed=seed)


def config(path, **changes):
    given = {
        "path": str(path), "time_column": "when", "request_column": "slate", "position_column": "place",
        "user_column": "user", "dense": ["row"], "sparse": ["user", "item"], "labels": {"click": "binary"},
        "positive": {"click": "yes"}, "session_column": "session", "retention": ["watch", "items"],
    }  # fmt: skip
    return ImpressionsConfig(**given | changes)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "log.csv"
    table(1).write_csv(path)
    return path


def by_row(raw, name):
    """A label by the number of the row in the table."""
    found = np.empty(N)
    found[raw.dense["row"].astype(int)] = raw.labels[name]
    return found


def double_loop(rows, split_of, value, discount, pays, after):
    """rows: dicts, by the number of the row."""
    found = np.zeros(N)
    for i, own in enumerate(rows):
        later = [
            (other["when"], other["slate"], other["place"], j)
            for j, other in enumerate(rows)
            if (other["session"], other["user"], split_of[j]) == (own["session"], own["user"], split_of[i])
            and (other["when"], other["place"]) > (own["when"], own["place"])  # of one time are those of a slate
        ]
        for k, (*_, j) in enumerate(sorted(later), start=1):
            if pays is None or rows[j][pays] in (1, "yes"):
                found[i] += discount**k * (1 if value == "items" else rows[j][value])
        if after is not None and own[after] not in (1, "yes"):
            found[i] = 0
    return found


@pytest.mark.parametrize(
    ("seed", "discount", "pays", "after"),
    [(2, 0.9, None, None), (3, 0.5, "home", None), (4, 1.0, None, "click"), (5, 0.0, "click", "home")],
)
def test_it_is_the_double_loop_within_each_split(tmp_path, seed, discount, pays, after):
    path = tmp_path / "log.csv"
    table(seed).write_csv(path)
    asked = config(path, retention_discount=discount, retention_pays=pays, retention_after=after)
    raw = impressions.read(asked)
    rows = table(seed).sort("row").to_dicts()
    split_of = np.empty(N, int)
    for number, (start, stop) in enumerate(raw.bounds.values()):
        split_of[raw.dense["row"][start:stop].astype(int)] = number
    assert np.bincount(split_of).tolist() == [stop - start for start, stop in raw.bounds.values()]
    for value in ("watch", "items"):
        wanted = double_loop(rows, split_of, value, discount, pays, after)
        np.testing.assert_allclose(by_row(raw, f"later_{value}"), wanted, rtol=1e-9, atol=1e-9)
        assert wanted.any() == (discount > 0)
        whole = double_loop(rows, np.zeros(N), value, discount, pays, after)
        assert discount == 0 or not np.allclose(whole, wanted)  # there are sessions on the edges
    assert asked.task_types() == raw.task_types == {"click": "binary", "later_watch": "real", "later_items": "real"}
    assert list(raw.labels) == list(raw.task_types)


@pytest.mark.parametrize("own_files", [False, True])
def test_what_is_learnt_from_knows_nothing_of_val_and_test(tmp_path, own_files):
    rows = table(6).sort("row")
    found = []
    for factor in (1, 1000):
        later = pl.col("watch") * factor
        changed = rows.with_columns(watch=pl.when(pl.col("row") < 100).then("watch").otherwise(later))
        parts = {"path": changed, "val_fraction": 30 / N, "test_fraction": 30 / N}
        if own_files:
            parts = {"path": changed[:100], "val_path": changed[100:130], "test_path": changed[130:]}
        for key, part in parts.items():
            if isinstance(part, pl.DataFrame):
                parts[key] = str(tmp_path / f"{key}.csv")
                part.write_csv(parts[key])
        raw = impressions.read(config(**parts))
        assert raw.bounds["train"] == (0, 100)
        found.append((raw.labels["later_watch"], raw.labels["later_items"]))
    for name in (0, 1):
        assert np.array_equal(found[0][name][:100], found[1][name][:100])
    assert not np.allclose(found[0][0][100:], found[1][0][100:])


def test_without_a_user_a_session_is_its_name_and_without_a_time_the_order_of_the_file(tmp_path):
    rows = pl.DataFrame(
        {"s": ["a", "b"] * 20, "x": np.arange(40) % 5, "value": np.arange(40.0), "like": np.arange(40) % 3 % 2}
    )
    rows.write_csv(path := tmp_path / "log.csv")
    given = ImpressionsConfig(path=str(path), sparse=["x"], session_column="s", retention=["value"], labels={})
    raw = impressions.read(given)
    assert list(raw.labels) == ["later_value"]  # labels enough
    stop = raw.bounds["train"][1]
    wanted = [sum(0.9**k * row for k, row in enumerate(range(i + 2, stop, 2), start=1)) for i in range(stop)]
    np.testing.assert_allclose(raw.labels["later_value"][:stop], wanted)


def test_mistakes_cost_no_run(file, own_outputs, capsys):
    words = ["train", "model=mtml", "data=impressions", f"data.path={file}", "data.sparse=[item]", "data.dense=[row]"]
    words += ["+data.labels.home=binary"]
    for more, said in (
        (["data.retention=[watch]"], "data.retention is summed over sessions: set data.session_column"),
        (["data.retention=[watched]", "data.session_column=session"], "has no column 'watched' (data.retention)"),
        (["data.retention=[watch]", "data.session_column=visit"], "has no column 'visit' (data.session_column)"),
        (["data.retention=[row]", "data.session_column=session"], "data.dense: row makes a label"),
        (["data.retention=[watch]", "data.session_column=session", "data.retention_after=item"], "data.sparse: item"),
        (["data.retention=[watch]", "data.session_column=session", "data.retention_pays=no"], "(data.retention_pays)"),
        (["data.retention=[watch,watch]", "data.session_column=session"], "name each column once"),
        (["data.retention=[watch]", "data.session_column=session", "data.retention_discount=1.1"], "between 0 and 1"),
        (["data.retention_pays=home"], "data.retention_pays is not read without data.retention"),
        (["data.retention=[home]", "data.session_column=session", "+data.labels.later_home=real"], "in two places"),
    ):
        assert main([*words, *more]) == 2, more
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, more
    assert not own_outputs.exists()
    table(1).with_columns(items=1).write_csv(file)
    with pytest.raises(ConfigError, match=r"items is a one each, and .*log\.csv has a column of that name"):
        impressions.check(config(file))


def test_a_bad_row_is_named(file):
    def harmed(column, value, **changes):
        other = pl.read_csv(file, infer_schema=False)
        other = other.with_columns(pl.when(pl.int_range(N) == 6).then(pl.lit(value)).otherwise(column).alias(column))
        other.write_csv(path := file.with_name("bad.csv"))
        return config(path, **changes)

    for harm, said in (
        (["watch", ""], "row 7: watch is missing, where a sum over a session needs a number"),
        (["watch", "long"], "row 7: watch is long, where a sum over a session needs a number"),
        (["session", ""], "row 7 has no session"),
        (["session", "NaN"], "row 7 has no session"),
        (["home", "2"], "row 7: home is 2, neither 0 nor 1"),
    ):
        with pytest.raises(DataError, match=said):
            impressions.read(harmed(*harm, retention_pays="home"))
    with pytest.raises(DataError, match="row is another in every row: nothing follows"):
        impressions.read(config(file, session_column="row"))


def test_a_head_for_it_is_trained_and_judged(file, own_outputs):
    words = [
        "data=impressions", f"data.path={file}", "data.sparse=[user,item]", "data.user_column=user",
        "data.time_column=when", "+data.labels.click=binary", "+data.positive.click=yes",
        "data.session_column=session", "data.retention=[watch,items]", "data.retention_after=home",
    ]  # fmt: skip
    small = ["model.expert_widths=[8]", "model.d_embedding=4", "trainer.max_steps=30", "trainer.batch_size=32"]
    more = ["trainer.warmup_steps=1", "trainer.lr=1e-2", "eval.baselines=[base_rate]", "device=cpu", "threads=1"]
    assert main(["train", "model=mtml", *words, *small, *more, "tracker.mode=disabled"]) == 0
    (path,) = (own_outputs / "train").iterdir()
    results = json.loads((path / "results.json").read_text())
    for name in ("later_watch", "later_items"):
        entry = results["metrics"][f"test/{name}/rmse"]
        assert entry["value"] > 0 and entry["baseline"] > 0 and entry["better"] == "lower"
    assert main(["eval", f"checkpoint={path}", "tracker.mode=disabled"]) == 0
    (again,) = (own_outputs / "eval").iterdir()
    judged = json.loads((again / "results.json").read_text())["metrics"]["test/later_watch/rmse"]
    assert judged["value"] == pytest.approx(results["metrics"]["test/later_watch/rmse"]["value"])
