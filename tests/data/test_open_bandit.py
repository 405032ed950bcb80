"""Open Bandit's log against its files."""

import numpy as np
import polars as pl
import pytest

from recsysml.data import open_bandit
from recsysml.errors import ConfigError, DataError
from recsysml.files import data_dir
from recsysml.schemas.slates import OpenBanditConfig


def test_open_bandit_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYSML_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"obd/random/men"):
        open_bandit.check(OpenBanditConfig())
    for change in ({"behaviour": "greedy"}, {"campaign": "cats"}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            open_bandit.check(OpenBanditConfig(**change))


def planted(folder, propensity="0.5"):
    """A log of Open Bandit's form, of two items."""
    place = folder / "obd" / "random" / "men"
    place.mkdir(parents=True)
    hashes = {f"user_feature_{number}": ["aaaaaaaa1", "bbbbbbbb2"] * 10 for number in range(4)}
    columns = {"timestamp": [f"2019-11-24 00:{minute:02}:00+00:00" for minute in range(20)][::-1]}
    columns |= {"item_id": [0, 1] * 10, "position": [1, 2, 3, 1] * 5, "click": [0, 1, 0, 0] * 5}
    columns |= {"propensity_score": [propensity] * 20} | hashes
    columns |= {f"user-item_affinity_{item}": [float(item)] * 20 for item in range(2)}
    pl.DataFrame(columns).write_csv(place / "men.csv")
    items = {"item_id": [1, 0], "item_feature_0": [0.5, -0.5]}
    items |= {f"item_feature_{number}": ["x", "y"] for number in range(1, 4)}
    pl.DataFrame(items).write_csv(place / "item_context.csv")


def test_a_log_of_open_bandits_form_is_read_in_order_of_time(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYSML_DATA", str(tmp_path))
    planted(tmp_path)
    log = open_bandit.load_slates(OpenBanditConfig())
    assert len(log) == 20 and (np.diff(log.times) == 60).all()
    assert log.shown.tolist() == [1, 0] * 10 and (log.propensity == 0.5).all() and (log.logging == 0.5).all()
    assert log.items[:, log.item_names.index("item_feature_0")].tolist() == [-0.5, 0.5]  # by id, not by row
    assert log.pairs[3, :, 0].tolist() == [0.0, 1.0] and log.rewards().sum() == 5
    assert len(set(log.users)) == 2


@pytest.mark.parametrize("propensity", ["0.0", "1.2", "x"])
def test_a_propensity_that_cannot_be_is_named(tmp_path, monkeypatch, propensity):
    monkeypatch.setenv("RECSYSML_DATA", str(tmp_path))
    planted(tmp_path, propensity)
    with pytest.raises(DataError, match="row 1: propensity_score"):
        open_bandit.load_slates(OpenBanditConfig())


@pytest.mark.skipif(not (data_dir() and (data_dir() / "obd").is_dir()), reason="needs the Open Bandit Dataset")
def test_the_real_open_bandit_log():
    log = open_bandit.load_slates(OpenBanditConfig(behaviour="bts", campaign="men"))
    assert len(log) == 10_000 and log.mask.shape == (10_000, 34) and log.rewards().sum() == 69
    assert log.logging is None and 1e-6 < log.propensity.min() < 1e-3
