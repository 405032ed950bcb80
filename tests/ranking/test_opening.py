"""A table as a ranker reads it, whatever order and whatever more a config names."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from recsysml.data.impression_data import encode
from recsysml.errors import ConfigError
from recsysml.ranking import task_probabilities
from recsysml.ranking.opening import arranged
from tests.data.test_impression_data import raw


def reader(table, context_length=5, **changes):
    shape = dataclasses.replace(table.shape, **changes)
    return SimpleNamespace(shape=shape, name="mtml", model=SimpleNamespace(context_length=context_length))


@pytest.mark.parametrize("seed", [0, 1])
def test_columns_come_in_the_rankers_order_row_by_row_in_memory(seed):
    given = raw(seed=seed, cohorts=["user"])
    given = dataclasses.replace(given, dense=given.dense | {"height": np.arange(40.0) % 7})
    learnt = encode(given)
    later = pl.Series([str(row) for row in range(40)])
    turned = {"dense": dict(reversed(given.dense.items())), "sparse": {"late": later, "item": given.sparse["item"]}}
    turned["sparse"] |= {"user": given.sparse["user"]}
    table = encode(dataclasses.replace(given, **turned, cohorts=["item"]), learnt.encoder)
    found = arranged(table, reader(learnt))
    assert np.array_equal(found.dense, learnt.dense) and not np.array_equal(table.dense, learnt.dense)
    assert np.array_equal(found.sparse, learnt.sparse) and not np.array_equal(table.sparse, learnt.sparse)
    # of an array laid out column by column every batch would copy all of it
    assert found.dense.flags.c_contiguous and found.sparse.flags.c_contiguous
    assert found.shape == dataclasses.replace(learnt.shape, cohorts=["item"])  # they are reported on, not read


def test_a_table_that_is_in_order_is_not_copied():
    learnt = encode(raw())
    found = arranged(learnt, reader(learnt))
    assert found.dense is learnt.dense and found.sparse is learnt.sparse and found.vectors is learnt.vectors
    fewer = arranged(learnt, reader(learnt, dense=[], sparse={"item": learnt.shape.sparse["item"]}))
    assert fewer.dense.shape == (40, 0) and np.array_equal(fewer.sparse, learnt.sparse[:, 1:])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"history": {}}, "has not the past that mtml reads: past_item, past_kind, of item"),
        ({"history": {"past_item": pl.Series(["i0", "i1", "i1"])}}, "has not the past"),
        ({"target": "user"}, "has not the past"),
        ({"dense": {}, "sparse": raw().sparse | {"age": raw().sparse["item"]}}, "has no dense feature age, which mtml"),
        ({"bags": {}}, "has no bags feature tags"),
    ],
    ids=["no past", "less of it", "of others", "another kind", "no bags"],
)
def test_what_a_ranker_reads_and_a_table_lacks_is_said(changes, said):
    learnt = encode(raw())
    with pytest.raises(ConfigError, match=said):
        arranged(encode(raw(**changes), learnt.encoder), reader(learnt))


def test_a_past_that_a_ranker_was_trained_without_is_not_read():
    without = {"history": {}, "history_starts": None, "history_stops": None, "target": None}
    learnt = encode(raw(**without, sparse={"user": raw().sparse["user"]}))
    found = arranged(encode(raw(), learnt.encoder), reader(learnt))
    assert found.shape.history == {} and found.history.values.shape[1] == 0


def test_a_past_that_the_model_does_not_read_may_be_missing():
    learnt = encode(raw())
    found = arranged(encode(raw(history={}), learnt.encoder), reader(learnt, context_length=0))
    assert np.array_equal(found.sparse, learnt.sparse)


def test_a_value_models_rows_are_arranged_and_so_are_others_that_it_is_asked_for(monkeypatch):
    learnt = encode(raw())
    model = SimpleNamespace(tasks=["click"], context_length=5)
    opened = SimpleNamespace(model=model, encoder=learnt.encoder, shape=learnt.shape, name="mtml")
    turned = raw(sparse=dict(reversed(raw().sparse.items())))
    read = []

    def logits(model, table, rows, **how):
        read.append(table.sparse)
        return np.zeros((rows[1] - rows[0], 1))

    monkeypatch.setattr(task_probabilities, "checkpoint_folder", lambda init_from: init_from)
    monkeypatch.setattr(task_probabilities, "open_ranker", lambda folder, device: opened)
    monkeypatch.setattr(task_probabilities.lazy, "resolve", lambda name: lambda data, encoder: encode(turned, encoder))
    monkeypatch.setattr(task_probabilities, "logits", logits)
    config = SimpleNamespace(kind="world")
    table, probabilities = task_probabilities.open_probabilities("a run", config, ["click"], batch_size=4)
    assert np.array_equal(table.sparse, learnt.sparse)
    other = encode(turned, learnt.encoder)
    assert not np.array_equal(other.sparse, learnt.sparse)
    assert np.array_equal(probabilities(other, (0, 2)), [[0.5], [0.5]])
    assert np.array_equal(read[0], learnt.sparse)
