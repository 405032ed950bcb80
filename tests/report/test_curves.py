"""Curves: thinning against brute force, tokens against their definition."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from recsysml.report.curves import axes_of, curve_charts, thin
from recsysml.report.gather import ReportedRun


def reported(rows, label="a", config=None):
    return ReportedRun(label, Path("x"), {"config": config or {}}, rows, [], {})


@pytest.mark.parametrize("n", [41, 100, 999, 5000])
@pytest.mark.parametrize("seed", [1, 2])
def test_thinning_keeps_the_ends_and_averages_neighbours(n, seed):
    rng = np.random.default_rng(seed)
    table = np.column_stack([np.arange(n), rng.normal(size=n)])
    thinned = thin(table, 40)
    assert len(thinned) <= 40
    assert (thinned[[0, -1]] == table[[0, -1]]).all()
    assert (np.diff(thinned[:, 0]) > 0).all()
    # every inner row is in one mean only: the means, weighted by how many rows they stand for, give the whole mean
    edges = np.linspace(0, n - 2, 39).astype(int)
    inner = table[1:-1]
    brute = [inner[a:b].mean(0) for a, b in itertools.pairwise(edges)]
    assert thinned[1:-1] == pytest.approx(np.array(brute))
    line = np.column_stack([np.arange(n), 3 * np.arange(n) + 1])
    assert thin(line, 40)[:, 1] == pytest.approx(3 * thin(line, 40)[:, 0] + 1)


def test_a_short_curve_is_left_alone():
    table = np.arange(20.0).reshape(10, 2)
    assert thin(table, 10) is table


def test_training_and_validation_share_a_chart_and_tokens_are_counted():
    rows = [{"step": s, "seconds": s / 2, "train/loss": 5.0 - s, "lr": 0.1, "tokens_per_second": 9.0} for s in range(4)]
    rows.append({"step": 3, "seconds": 2.0, "val/loss": 2.5})
    rows.append({"step": 0, "seconds": 0.0, "val/loss": 6.0, "once": 1.0, "flag": True, "none": None})
    config = {"trainer": {"batch_size": 8}, "model": {"context_length": 64}}
    charts = curve_charts([reported(rows, config=config)])
    assert [chart.title for chart in charts] == ["loss", "learning rate", "tokens per second"]
    assert [chart.from_zero for chart in charts] == [False, True, True]
    assert axes_of(charts) == ["step", "tokens", "seconds"]
    loss = charts[0]
    assert loss.parts == ["train", "val"]
    assert {(point["part"], point["step"], point["tokens"]) for point in loss.points} == {
        *(("train", s, s * 8 * 64) for s in range(4)),
        ("val", 3, 3 * 8 * 64),
        ("val", 0, 0),
    }
    assert not loss.thinned
    # a recommender has a context and batches as well, and no tokens
    (other,) = curve_charts([reported([{"step": s, "auc": 0.5} for s in range(3)], config=config)])
    assert {(point["tokens"], point["seconds"]) for point in other.points} == {(None, None)}
    assert axes_of([other]) == ["step"]
