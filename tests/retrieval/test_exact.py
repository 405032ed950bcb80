"""Exact search against a sort of all products, also where the sample misleads it and where products are tied."""

import numpy as np
import pytest
import torch

from recsysml.retrieval import exact
from recsysml.retrieval.exact import exact_top_k


def sorted_products(queries, items, k):
    products = queries.astype(np.float64) @ items.T.astype(np.float64)
    return np.argsort(-products, axis=1, kind="stable")[:, :k], -np.sort(-products, axis=1)[:, :k]


@pytest.fixture(params=["floats", "bytes"], autouse=True)
def rounds(request, monkeypatch):
    """Each way of multiplying: what is rounded must be made good again."""
    if request.param == "bytes" and not exact.multiplies_bytes():
        pytest.skip("this processor does not multiply whole numbers of 8 bits")
    monkeypatch.setattr(exact, "multiplies_bytes", lambda: request.param == "bytes")
    return request.param == "bytes"


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
def test_equal_products_stand_in_the_order_of_their_items(seed, searched_again, rounds):
    """Whole numbers, so that every product is exact: nearly all are tied, and whole rows of them."""
    rng = np.random.default_rng(seed)
    items = rng.integers(-1, 2, (9_000, 4)).astype(np.float32)
    queries = rng.integers(-2, 3, (30, 4)).astype(np.float32)
    queries[0] = 0
    found, values = exact_top_k(queries, items, 10)
    truth, products = sorted_products(queries, items, 10)
    assert found.tolist() == truth.tolist()
    assert values.tolist() == products.tolist()
    # a tie with the bound is kept; a bound guessed from rounded products may lie above what all of them are
    assert rounds or not searched_again


@pytest.mark.parametrize("seed", range(3))
def test_a_sample_that_promises_too_much_costs_time_and_nothing_else(seed, searched_again):
    """All the good items lie where the sample looks: it expects SAMPLE times as many."""
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
    few = items[: 2 * exact.CHUNK * exact.SAMPLE]
    exact_top_k(queries, few, 10)
    assert searched_again == [40]  # too few items to sample


def test_places_without_an_item_are_empty():
    rng = np.random.default_rng(0)
    few, none = exact_top_k(rng.normal(size=(4, 3)), rng.normal(size=(3, 3)), 5)
    assert (np.sort(few[:, :3], axis=1) == np.arange(3)).all()
    assert (few[:, 3:] == -1).all()
    assert np.isneginf(none[:, 3:]).all()
    assert exact_top_k(np.zeros((0, 3)), rng.normal(size=(30, 3)), 5)[0].shape == (0, 5)


@pytest.mark.parametrize("width", [1, 3, 64, 131])
@pytest.mark.parametrize("seed", range(2))
def test_vectors_of_any_width_and_length(seed, width):
    """Lengths over eight orders of magnitude, and numbers so small that they round to nothing beside others."""
    rng = np.random.default_rng(seed)
    items = (rng.normal(size=(9_000, width)) * 10 ** rng.uniform(-4, 4, (9_000, 1))).astype(np.float32)
    items[2048:4096] *= 1e-12  # a whole block of them
    items[4096:6144] = 0
    queries = (rng.normal(size=(20, width)) * 10 ** rng.uniform(-9, 9, (20, 1))).astype(np.float32)
    queries[3] = 0
    found, values = exact_top_k(queries, items, 9)
    truth, products = sorted_products(queries, items, 9)
    assert (found == truth).mean() > 0.99
    assert values == pytest.approx(products, rel=1e-4)


@pytest.mark.parametrize("where", ["one item of each block", "every query"])
@pytest.mark.parametrize("seed", range(2))
def test_what_rounding_hides_is_found_and_little_else_is_looked_at(seed, where, searched_again, monkeypatch):
    """One number a thousand times all others: the products of whole numbers see nothing of them."""
    rng = np.random.default_rng(seed)
    items = rng.normal(size=(9_000, 8)).astype(np.float32)
    queries = rng.normal(size=(40, 8)).astype(np.float32)
    if where == "every query":
        queries[:, 0], items[:, 0] = 3_000, 0
    else:
        queries[:, 0] = abs(queries[:, 0])  # those items are the worst
        items[100 :: exact.BLOCK_ITEMS, 0] = -3_000
    kept = []
    reaching = exact._reaching
    monkeypatch.setattr(exact, "_reaching", lambda *given: kept.append(reaching(*given)) or kept[-1])
    found, _ = exact_top_k(queries, items, 10)
    assert (found == sorted_products(queries, items, 10)[0]).mean() > 0.99
    assert sum(searched_again) < 40
    last = kept[-1][0]  # the block that is left after all others
    assert len(last) < 40 * (len(items) % exact.BLOCK_ITEMS) / 8


@pytest.mark.parametrize("whole", [False, True])
def test_a_bound_holds_for_every_pair(whole):
    """A pair as good as the guess has a rounded product that reaches the bound, whatever the guess is.

    whole: rounding takes nothing from items, and from queries all but their greatest number.
    """
    rng = np.random.default_rng(4)
    items = torch.from_numpy((rng.normal(size=(5_000, 16)) ** 3).astype(np.float32))
    queries = torch.from_numpy((rng.normal(size=(30, 16)) ** 3).astype(np.float32))
    if whole:
        items = (items * 10).round().clamp(-127, 127)
        items[:: exact.BLOCK_ITEMS, 0] = 127  # one stands for one
        queries[:, 0] = 1000
    blocks, asked = exact._rounded_items(items), exact._rounded_queries(queries)
    true = (items.double() @ queries.double().T).split(exact.BLOCK_ITEMS)
    close = []
    for share in (0.5, 0.9, 0.99):
        guess = torch.cat(list(true)).quantile(share, dim=0).float()
        bounds = exact._bounds(guess, asked, blocks, 16)
        for part, block, bound in zip(true, blocks.numbers, bounds, strict=True):
            product = block.long() @ asked.numbers[0].long()
            assert (product >= bound)[part >= guess].all()
            close.append(float((product >= bound).double().mean()))
    assert np.mean(close) < 0.75  # and it rules most others out


def test_a_block_of_next_to_nothing_is_ruled_out():
    items, queries = torch.full((exact.BLOCK_ITEMS, 4), 1e-20), torch.ones(3, 4)
    blocks, asked = exact._rounded_items(items), exact._rounded_queries(queries)
    bounds = exact._bounds(torch.tensor([1.0, 1e-3, -1.0]), asked, blocks, 4)[0]
    products = blocks.numbers[0].long() @ asked.numbers[0].long()
    assert (products >= bounds).float().mean(dim=0).tolist() == [0, 0, 1]


# where the forty best of the items stand: also all in what the sample sees, and none in it
PLACES = {
    "anywhere": lambda rng, n: rng.permutation(n)[:40],
    "in the sample": lambda rng, n: np.arange(40) * exact.SAMPLE,
    "beside the sample": lambda rng, n: np.arange(40) * exact.SAMPLE + 1,
    "together": lambda rng, n: np.arange(2_040, 2_080),
    "at the end": lambda rng, n: np.arange(n - 40, n),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("n_items", "k"), [(8_191, 1), (8_192, 7), (8_193, 16), (8_207, 40)])
def test_it_is_exact_wherever_the_best_stand(place, n_items, k):
    """Of whole numbers, so that a stable sort says item by item and number by number what is right. For a third of
    the queries the forty are the best, for a third the worst, and for a third as good as any."""
    rng = np.random.default_rng(n_items)
    items = rng.integers(-9, 10, (n_items, 5)).astype(np.float32)
    items[:, 0] = 0
    items[PLACES[place](rng, n_items), 0] = 100
    queries = rng.integers(-9, 10, (60, 5)).astype(np.float32)
    queries[:, 0] = np.tile([2, -2, 0], 20)
    found, values = exact_top_k(queries, items, k)
    truth, products = sorted_products(queries, items, k)
    assert found.tolist() == truth.tolist()
    assert values.tolist() == products.tolist()


@pytest.mark.parametrize("length", [1, 2**17])
@pytest.mark.parametrize("n_items", [19, 9_003])
def test_products_may_all_be_negative(n_items, length):
    """What fills the last, short chunk up must not be better than they, however negative they are."""
    rng = np.random.default_rng(n_items)
    items = length * rng.integers(1, 50, (n_items, 4)).astype(np.float32)
    queries = -length * rng.integers(1, 50, (30, 4)).astype(np.float32)
    found, values = exact_top_k(queries, items, 12)
    truth, products = sorted_products(queries, items, 12)
    assert found.tolist() == truth.tolist()
    assert values.tolist() == products.tolist()


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("n_items", [90, 9_003])
def test_arrays_may_lie_in_memory_as_they_like(n_items, kind):
    """Backwards, with gaps, and columns first."""
    rng = np.random.default_rng(n_items)
    wide = rng.integers(-50, 50, (8, 2 * n_items)).astype(kind)
    items, queries = wide[::2, ::-2].T, rng.integers(-50, 50, (4, 30)).astype(kind).T[::-1]
    before = items.copy(), queries.copy()
    found, values = exact_top_k(queries, items, 9)
    truth, products = sorted_products(queries, items, 9)
    assert found.tolist() == truth.tolist()
    assert values.tolist() == products.tolist()
    assert (found.dtype, values.dtype) == (np.int64, np.float32)
    assert all((old == new).all() for old, new in zip(before, (items, queries), strict=True))


@pytest.mark.parametrize(("n_queries", "n_items", "k"), [(0, 7, 9), (0, 9_000, 7), (3, 7, 7), (600, 7, 9)])
def test_nobody_may_ask_and_all_there_is_may_be_asked_for(n_queries, n_items, k):
    found, values = exact_top_k(np.ones((n_queries, 3)), np.ones((n_items, 3)), k)
    n_found = min(k, n_items)
    assert found.tolist() == [[*range(n_found), *[-1] * (k - n_found)]] * n_queries
    assert values.tolist() == [[3.0] * n_found + [-np.inf] * (k - n_found)] * n_queries
