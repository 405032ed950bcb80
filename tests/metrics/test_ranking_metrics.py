"""AUC, grouped AUC, log loss and NE against scikit-learn, loops over pairs, and the bootstrap."""

import math

import numpy as np
import pytest
from sklearn import metrics as theirs

from recsysml.metrics import ranking as ours


def drawn(seed, n=400, ties=True):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.3).astype(float)
    scores = labels + rng.normal(size=n) * 1.5
    return (np.round(scores, 1) if ties else scores), labels, rng.integers(0, 40, n)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_values_are_scikit_learns(seed):
    scores, labels, _ = drawn(seed)
    assert ours.auc(scores, labels)[0] == pytest.approx(theirs.roc_auc_score(labels, scores), abs=1e-12)
    p = 1 / (1 + np.exp(-scores))
    assert ours.log_loss(scores, labels)[0] == pytest.approx(theirs.log_loss(labels, p), abs=1e-12)
    base = theirs.log_loss(labels, np.full(len(labels), labels.mean()))
    assert ours.normalised_entropy(scores, labels)[0] == pytest.approx(theirs.log_loss(labels, p) / base, abs=1e-12)


@pytest.mark.parametrize("name", ["auc", "ne"])
def test_standard_errors_are_the_bootstraps(name):
    scores, labels, _ = drawn(3, 1500)
    function = ours.auc if name == "auc" else ours.normalised_entropy
    rng = np.random.default_rng(0)
    drawn_again = [function(scores[rows], labels[rows])[0] for rows in rng.integers(0, 1500, (600, 1500))]
    assert function(scores, labels)[1] == pytest.approx(np.std(drawn_again), rel=0.12)
    shares = ours.influence(name, scores, labels)
    assert shares.mean() == pytest.approx(0, abs=1e-12)
    assert shares.std() / math.sqrt(1500) == pytest.approx(np.std(drawn_again), rel=0.12)


def test_the_error_of_a_difference_knows_that_the_rows_are_the_same():
    scores, labels, _ = drawn(4, 1500, ties=False)
    other = scores + 0.3 * np.random.default_rng(1).normal(size=1500)
    value, error = ours.auc_difference(scores, other, labels)
    assert value == pytest.approx(ours.auc(other, labels)[0] - ours.auc(scores, labels)[0])
    rng = np.random.default_rng(2)
    again = [ours.auc_difference(scores[r], other[r], labels[r])[0] for r in rng.integers(0, 1500, (600, 1500))]
    assert error == pytest.approx(np.std(again), rel=0.15)
    assert error < ours.auc(scores, labels)[1]


@pytest.mark.parametrize("seed", [0, 1])
def test_grouped_auc_is_a_loop_over_groups(seed):
    scores, labels, groups = drawn(seed)
    values, weights = [], []
    for group in np.unique(groups):
        own = groups == group
        if 0 < labels[own].sum() < own.sum():
            values.append(theirs.roc_auc_score(labels[own], scores[own]))
            weights.append(own.sum())
    value, error, n = ours.grouped_auc(scores, labels, groups)
    assert n == len(values)
    assert value == pytest.approx(np.average(values, weights=weights), abs=1e-12)
    assert 0 < error < 0.1


def test_one_answer_only_is_no_number():
    scores = np.arange(5.0)
    assert math.isnan(ours.auc(scores, np.ones(5))[0])
    assert math.isnan(ours.normalised_entropy(scores, np.zeros(5))[0])
    assert math.isnan(ours.grouped_auc(scores, np.zeros(5), np.arange(5))[0])
    assert ours.influence("auc", scores, np.ones(5)) is None
