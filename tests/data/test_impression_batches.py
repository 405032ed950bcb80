"""Batches of impressions: every row once an epoch, a batch from its number alone, and the tensors of its rows."""

import numpy as np
import pytest

from recsysml.data.impression_batches import ImpressionBatches, ImpressionInputs
from recsysml.data.world import load_impressions
from recsysml.errors import DataError
from recsysml.schemas.data import WorldConfig


@pytest.fixture(scope="module")
def table():
    return load_impressions(WorldConfig(users=50, items=120, events=1500, seed=3))


def batches(table, rows=(10, 110), **changes):
    return ImpressionBatches(table, rows, **{"context_length": 5, "batch_size": 32, "seed": 1} | changes)


@pytest.mark.parametrize("seed", [1, 2])
def test_every_row_once_an_epoch(table, seed):
    given = batches(table, seed=seed)
    rows = np.concatenate([given.rows(i) for i in range(25)])  # 800: eight epochs
    for epoch in rows.reshape(8, 100):
        assert sorted(epoch) == list(range(10, 110))
    assert not np.array_equal(rows[:100], rows[100:200])


def test_a_batch_depends_on_its_number_alone(table):
    there = batches(table)
    for i in range(9):
        there.rows(i)
    assert np.array_equal(there.rows(2), batches(table).rows(2))
    assert not np.array_equal(batches(table, seed=2).rows(2), there.rows(2))


def test_processes_share_a_batch(table):
    whole = batches(table).rows(4)
    parts = [batches(table, rank=rank, world_size=2).rows(4) for rank in range(2)]
    assert np.array_equal(np.stack(parts, axis=1).ravel(), whole)


def test_the_tensors_are_the_tables_rows(table):
    inputs = ImpressionInputs(table, 4)
    rows = np.array([700, 3, 41])
    dense, vectors, sparse, bags, history, positions, requests, labels = inputs.of(rows)
    for place, row in enumerate(rows):
        assert np.array_equal(dense[place], table.dense[row])
        assert np.array_equal(vectors[place], table.vectors[table.vector_rows[row]])
        assert np.array_equal(sparse[place], table.sparse[row])
        assert np.array_equal(labels[place], table.labels[row])
        assert positions[place] == table.positions[row]
        assert requests[place] == table.requests[row]
        for g, bag in enumerate(table.bags):
            own = bag.values[bag.starts[row] : bag.stops[row], 0]
            assert bags[place, g].tolist() == [*own, *[-1] * (bags.shape[2] - len(own))]
        past = table.history.values[table.history.starts[row] : table.history.stops[row]][-4:]
        assert history[place, : len(past)].tolist() == past.tolist()
        assert (history[place, len(past) :] == -1).all()
    assert inputs.of(np.zeros(0, int))[0].shape == (0, table.dense.shape[1])


@pytest.mark.parametrize("seed", [1, 2])
def test_the_rows_of_a_request_can_stay_side_by_side(table, seed):
    given = batches(table, seed=seed, batch_size=100, by_request=True)
    for i in range(3):
        rows = given.rows(i)
        assert sorted(rows) == list(range(10, 110))
        requests = table.requests[rows]
        assert (np.diff(requests) != 0).sum() + 1 == len(np.unique(requests))  # each is one run
    assert not np.array_equal(given.rows(0), given.rows(1))


@pytest.mark.parametrize("seed", [1, 2])
def test_some_rows_of_a_user_can_stay_side_by_side(table, seed):
    users = table.cohort("user")
    alone = batches(table, (0, 1000), seed=seed, batch_size=100)
    given = batches(table, (0, 1000), seed=seed, batch_size=100, rows_per_user=8)
    assert sorted(np.concatenate([given.rows(i) for i in range(10)])) == list(range(1000))
    counts = [[len(np.unique(users[some.rows(i)])) for i in range(10)] for some in (alone, given)]
    assert np.mean(counts[1]) < 0.5 * np.mean(counts[0])
    assert np.array_equal(batches(table, (0, 1000), seed=seed, batch_size=100, rows_per_user=1).rows(3), alone.rows(3))


def test_no_rows_are_refused(table):
    with pytest.raises(DataError, match="no impression to learn from"):
        batches(table, (5, 5))
