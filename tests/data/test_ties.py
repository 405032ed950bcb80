"""A split by time that cuts through one moment says so, once, to who learns from it."""

import dataclasses
import random

import numpy as np
import polars as pl
import pytest

from recsysml.cli import main
from recsysml.data import impressions, interactions, logged_slates
from recsysml.data.interaction_data import warn_of_split
from recsysml.data.slates import warn_of_split as warn_of_slates
from recsysml.data.ties import warn_of_ties
from recsysml.schemas.data import InteractionsConfig
from recsysml.schemas.impressions import ImpressionsConfig
from recsysml.schemas.slates import LoggedSlatesConfig


def said(caplog):
    return [record.getMessage() for record in caplog.records if "of one time" in record.getMessage()]


@pytest.mark.parametrize("seed", range(20))
def test_every_cut_among_equals_is_counted_by_hand(seed, caplog):
    rng = random.Random(seed)
    times = sorted(rng.randrange(1 + rng.randrange(12)) for _ in range(30))
    begins = {"val": rng.randrange(1, 30), "test": rng.randrange(1, 30)}
    warn_of_ties("mine", np.array(times, float), {split: (at, 30) for split, at in begins.items()}, "events")
    torn = {split: times.count(times[at]) for split, at in begins.items() if times[at - 1] == times[at]}
    assert len(said(caplog)) == bool(torn)
    counted = ", ".join(f"{split} begins among {count}" for split, count in torn.items())
    assert all(f"({counted})" in line and line.startswith("mine: ") for line in said(caplog))


def test_a_few_in_a_long_log_are_not_worth_a_line(caplog):
    times = np.arange(10_000.0)
    for equal, lines in ((10, 0), (11, 1)):
        times[5990 : 5990 + equal] = 5990
        warn_of_ties("mine", times, {"val": (5995, 6995), "test": (9000, 10_000)}, "events")
        assert len(said(caplog)) == lines


def test_events(tmp_path, caplog):
    path = tmp_path / "e.csv"

    def load(*when, **settings):
        events = {"user_id": [f"u{i % 4}" for i in range(40)], "item_id": [f"i{i}" for i in range(40)]}
        pl.DataFrame({**events, "timestamp": list(when)}).write_csv(path)
        return interactions.load(InteractionsConfig(path=str(path), **settings))

    equal = load(*[7] * 40)
    assert not said(caplog)  # who serves need not be told
    warn_of_split(equal)
    assert "events of one time (val begins among 40, test begins among 40)" in said(caplog)[0]
    warn_of_split(load(*range(32), *[50] * 8))  # all of val and test, and none of train
    assert "(test begins among 8)" in said(caplog)[1]
    warn_of_split(load(*range(40)))
    warn_of_split(load(*[7] * 40, split="last_out"))
    assert len(said(caplog)) == 2


def slates(path, when):
    """20 requests of two candidates; `when` is each request's time."""
    rows = [
        {"request_id": f"r{r:02}", "item_id": f"i{c}", "shown": int(c == r % 2), "propensity": 0.5, "x": r * c % 3,
         "click": r % 3 % 2, "when": when[r] + c / 4}
        for r in range(20) for c in range(2)
    ]  # fmt: skip
    pl.DataFrame(rows).write_csv(path)


def test_impressions(tmp_path, caplog):
    path = tmp_path / "i.csv"
    config = ImpressionsConfig(
        path=str(path), time_column="when", request_column="request_id", sparse=["item_id"],
        labels={"click": "binary"}, val_fraction=0.2,
    )  # fmt: skip
    slates(path, [0] * 20)
    table = impressions.load_impressions(config)
    line = "val begins among 40, calibration begins among 40, test begins among 40"
    assert [line in each for each in said(caplog)] == [True]
    impressions.load_impressions(config, table.encoder)  # who judges has been told
    impressions.load_impressions(dataclasses.replace(config, time_column=None))
    impressions.load_impressions(dataclasses.replace(config, val_path=str(path), test_path=str(path)))
    slates(path, range(20))  # the rows of a request share its time, and none is cut in two
    impressions.load_impressions(config)
    assert len(said(caplog)) == 1


def test_slates(tmp_path, caplog):
    path = tmp_path / "s.csv"
    config = LoggedSlatesConfig(
        path=str(path), time_column="when", propensity_column="propensity", dense=["x"], labels={"click": "binary"}
    )
    slates(path, [0] * 15 + list(range(1, 6)))
    warn_of_slates(logged_slates.load_slates(config))
    assert "requests of one time (val begins among 15)" in said(caplog)[0]
    warn_of_slates(logged_slates.load_slates(dataclasses.replace(config, time_column=None)))
    assert len(said(caplog)) == 1


def test_the_commands_say_it_once(tmp_path, caplog):
    events, rows = tmp_path / "e.csv", tmp_path / "s.csv"
    users = [f"u{i % 4}" for i in range(40)]
    pl.DataFrame({"user_id": users, "item_id": range(40), "timestamp": 7}).write_csv(events)
    slates(rows, [0] * 20)
    log = ["data=logged_slates", f"data.path={rows}", "data.time_column=when", "data.dense=[x]", "eval.folds=2"]
    log += ["data.val_fraction=0.4", "+data.labels.click=binary"]
    short = [f"trainer.{key}=1" for key in ("max_steps", "supervised_steps", "reward_model_steps")]
    for words, times in (
        (["train", "model=popularity", "data=interactions", f"data.path={events}", "eval.baselines=[]"], 1),
        (["eval", "checkpoint=last"], 0),
        (["eval", "eval.policy=uniform", "eval.split=test", *log], 1),
        (["eval", "eval.policy=uniform", "eval.split=all", *log], 0),
        (["train", "model=policy_ranker", *log, *short, "trainer.folds=2", "trainer.supervised_lrs=[1e-2]"], 1),
    ):
        caplog.clear()
        assert main([*words, "device=cpu", "threads=1"]) == 0, words
        assert len(said(caplog)) == times, words
