"""Exact search against a sort of all products, also where the sample misleads it and where products are tied."""

import numpy as np
import pytest

from recsysml.retrieval import exact
from recsysml.retrieval.exact import exact_top_k


def sorted_products(queries, items, k):
    products = queries.astype(np.float64) @ items.T.astype(np.float64)
    return np.argsort(-products, axis=1, kind="stable")[:, :k], -np.sort(-products, axis=1)[:, :k]


@pytest.fixture
def searched_again(monkeypatch):
    """How many rows were searched without a sample."""
    rows = []
    at_once = exact._at_once
    monkeypatch.setattr(exact, "_at_once", lambda q, i, k: rows.append(len(q)) or at_once(q, i, k))
    return rows


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n_items", "k"), [(300, 7), (9_000, 7), (9_005, 10)])
def test_it_is_a_sort_of_all_products(seed, n_items, k):
    rng = np.random.default_rng(seed)
    items = rng.normal(size=(n_items, 12)).astype(np.float32)
    queries = rng.normal(size=(exact.BLOCK_QUERIES + 9, 12)).astype(np.float32)
    found, values = exact_top_k(queries, items, k)
    truth, products = sorted_products(queries, items, k)
    assert (found == truth).mean() > 0.999  # what lies within rounding may change places
    assert values == pytest.approx(products, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_equal_products_stand_in_the_order_of_their_items(seed, searched_again):
    """Whole numbers, so that every product is exact: nearly all are tied, and whole rows of them."""
    rng = np.random.default_rng(seed)
    items = rng.integers(-1, 2, (9_000, 4)).astype(np.float32)
    queries = rng.integers(-2, 3, (30, 4)).astype(np.float32)
    queries[0] = 0
    found, values = exact_top_k(queries, items, 10)
    truth, products = sorted_products(queries, items, 10)
    assert found.tolist() == truth.tolist()
    assert values.tolist() == products.tolist()
    assert not searched_again  # a tie with the bound is kept


@pytest.mark.parametrize("seed", range(3))
def test_a_sample_that_promises_too_much_costs_time_and_nothing_else(seed, searched_again):
    """All the good items lie where the sample looks: it expects sixteen times as many."""
    rng = np.random.default_rng(seed)
    items = rng.normal(size=(9_600, 8)).astype(np.float32)
    items[:: exact.SAMPLE, 0] += 50
    queries = rng.normal(size=(40, 8)).astype(np.float32)
    queries[:20, 0] = 3
    queries[20:, 0] = -3  # and for these it sees only bad ones
    found, _ = exact_top_k(queries, items, 10)
    assert (found == sorted_products(queries, items, 10)[0]).mean() > 0.999
    assert 15 <= sum(searched_again) <= 20  # of the first twenty
    searched_again.clear()
    few = items[:: exact.SAMPLE].repeat(2, axis=0)  # 1,200 rows
    exact_top_k(queries, few, 10)
    assert searched_again == [40]  # too few items to sample


def test_places_without_an_item_are_empty():
    rng = np.random.default_rng(0)
    few, none = exact_top_k(rng.normal(size=(4, 3)), rng.normal(size=(3, 3)), 5)
    assert (np.sort(few[:, :3], axis=1) == np.arange(3)).all()
    assert (few[:, 3:] == -1).all()
    assert np.isneginf(none[:, 3:]).all()
    assert exact_top_k(np.zeros((0, 3)), rng.normal(size=(30, 3)), 5)[0].shape == (0, 5)
