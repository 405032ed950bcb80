"""Retention labels against the double loop, and unbiased where users leave by chance."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from recsysml.data.retention import retention_labels
from recsysml.errors import DataError


def log(seed: int, n: int = 300) -> pl.DataFrame:
    """Rows of 25 sessions in no order, one of them alone."""
    rng = np.random.default_rng(seed)
    sessions = rng.integers(0, 24, n)
    sessions[0] = 99
    return pl.DataFrame(
        {
            "session": sessions,
            "time": rng.permutation(n),
            "seconds": rng.exponential(30, n),
            "items": np.ones(n, np.int64),
            "feed": rng.random(n) < 0.6,
            "long": rng.random(n) < 0.5,
        }
    )


def double_loop(rows: pl.DataFrame, value: str, discount: float, counts: str | None) -> np.ndarray:
    found = np.zeros(len(rows))
    columns = rows.to_dict(as_series=False)
    for i in range(len(rows)):
        later = [
            j for j in range(len(rows))
            if columns["session"][j] == columns["session"][i] and columns["time"][j] > columns["time"][i]
        ]  # fmt: skip
        for k, j in enumerate(sorted(later, key=columns["time"].__getitem__), start=1):
            if counts is None or columns[counts][j]:
                found[i] += discount**k * columns[value][j]
    return found


@pytest.mark.parametrize("discount", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("counts", [None, "feed"])
def test_it_is_the_double_loop(discount: float, counts: str | None) -> None:
    rows = log(int(10 * discount))
    found = retention_labels(
        rows, ["seconds", "items"], session="session", order=["time"], discount=discount, counts=counts
    )
    for value in ("seconds", "items"):
        np.testing.assert_allclose(
            found[value].to_numpy(), double_loop(rows, value, discount, counts), rtol=1e-9, atol=1e-9
        )


def test_rows_that_led_nowhere_have_no_label() -> None:
    rows = log(5)
    asked = {"session": "session", "order": ["time"], "discount": 0.8}
    found = retention_labels(rows, ["seconds"], **asked, entered="long")["seconds"]
    assert (found.is_null() == ~rows["long"]).all()
    whole = retention_labels(rows, ["seconds"], **asked)["seconds"]
    np.testing.assert_array_equal(found.drop_nulls(), whole.filter(rows["long"]))


def test_a_very_long_session_neither_underflows_nor_cancels() -> None:
    n, discount = 20_000, 0.5
    rows = pl.DataFrame({"session": np.zeros(n, int), "time": np.arange(n), "one": np.ones(n)})
    found = retention_labels(rows, ["one"], session="session", order=["time"], discount=discount)["one"].to_numpy()
    left = n - 1 - np.arange(n)
    np.testing.assert_allclose(found, discount * (1 - discount**left) / (1 - discount), rtol=1e-9)


def test_it_is_unbiased_when_users_leave_by_chance() -> None:
    """label_0 in the mean = sum_k discount^k (product of 1 - exit) E[value], the closed form of the exit process."""
    rng = np.random.default_rng(6)
    exits, worth, discount, n = np.array([0.1, 0.3, 0.2, 0.5, 0.2]), np.array([1.0, 2.0, 0.5, 3.0, 1.0]), 0.9, 20_000
    stays = rng.random((n, 5)) >= exits
    seen = np.cumprod(np.concatenate([np.ones((n, 1), bool), stays[:, :-1]], axis=1), axis=1).astype(bool)
    session, place = np.nonzero(seen)
    value = rng.exponential(worth[place])
    rows = pl.DataFrame({"session": session, "place": place, "value": value})
    found = retention_labels(rows, ["value"], session="session", order=["place"], discount=discount)["value"].to_numpy()
    first = found[place == 0]
    expected = sum(discount**k * np.prod(1 - exits[:k]) * worth[k] for k in range(1, 5))
    assert abs(first.mean() - expected) < 4 * first.std() / np.sqrt(n)


def test_mistakes_are_named() -> None:
    rows = pl.DataFrame({"session": [1, 1], "time": [0, 1], "seconds": [1.0, None]})
    with pytest.raises(DataError, match="seconds is missing or not finite in 1 rows"):
        retention_labels(rows, ["seconds"], session="session", order=["time"], discount=0.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        retention_labels(rows, ["time"], session="session", order=["time"], discount=1.5)
