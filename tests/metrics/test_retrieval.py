"""Ranking metrics against brute force, scikit-learn and closed forms."""

import math
import statistics

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from recsysml.metrics import retrieval as metrics


def draw(seed, users=30, n_items=40, ties=False):
    """Scores, and one to six distinct targets for each user: (scores, rows, targets, offsets)."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (users, n_items)).astype(float) if ties else rng.normal(size=(users, n_items))
    counts = rng.integers(1, 7, users)
    targets = np.concatenate([rng.choice(n_items, n, replace=False) for n in counts])
    return scores, np.repeat(np.arange(users), counts), targets, np.concatenate([[0], np.cumsum(counts)])


@pytest.mark.parametrize("seed", range(3))
def test_ranks_of_distinct_scores_are_places_in_the_sorted_list(seed):
    scores, rows, targets, _ = draw(seed)
    places = [list(np.argsort(-scores[row])).index(target) + 1 for row, target in zip(rows, targets, strict=True)]
    assert metrics.mid_ranks(scores, rows, targets).tolist() == places


@pytest.mark.parametrize("seed", range(3))
def test_ranks_of_equal_scores_are_their_mean_over_random_orders(seed):
    scores, rows, targets, _ = draw(seed, users=5, ties=True)
    rng = np.random.default_rng(seed)
    trials = []
    for _ in range(3000):
        order = np.lexsort((rng.random(scores.shape), -scores))  # (R, I) items, equals in random order
        trials.append(np.argsort(order, axis=1)[rows, targets] + 1)
    spread = np.std(trials, axis=0) / math.sqrt(3000)
    assert (np.abs(np.mean(trials, axis=0) - metrics.mid_ranks(scores, rows, targets)) <= 4.5 * spread + 1e-9).all()


def test_a_model_that_knows_nothing_stands_in_the_middle():
    ranks = metrics.mid_ranks(np.zeros((1, 101)), np.array([0]), np.array([7]))
    assert ranks.tolist() == [51.0]


def test_masked_candidates_take_no_place_and_what_has_no_place_is_refused():
    scores = np.array([[3.0, 2.0, 1.0]])
    masked = np.array([[-np.inf, 2.0, 1.0]])
    assert metrics.mid_ranks(scores, np.array([0]), np.array([2])) == [3]
    assert metrics.mid_ranks(masked, np.array([0]), np.array([2])) == [2]
    with pytest.raises(ValueError, match="no candidate"):
        metrics.mid_ranks(masked, np.array([0]), np.array([0]))
    with pytest.raises(ValueError, match="not a number"):
        metrics.mid_ranks(np.array([[math.nan, 1.0]]), np.array([0]), np.array([1]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 3, 10, 40])
def test_metrics_against_brute_force_and_scikit_learn(seed, k):
    scores, rows, targets, offsets = draw(seed)
    ranks = metrics.mid_ranks(scores, rows, targets)
    relevance = np.zeros(scores.shape)
    relevance[rows, targets] = 1
    for user in range(len(scores)):
        top = set(np.argsort(-scores[user])[:k].tolist())
        own = set(targets[rows == user].tolist())
        assert metrics.recall(ranks, offsets, k)[user] == len(top & own) / len(own)
        assert metrics.hit_rate(ranks, offsets, k)[user] == bool(top & own)
        theirs = ndcg_score(relevance[user : user + 1], scores[user : user + 1], k=k)
        assert metrics.ndcg(ranks, offsets, k)[user] == pytest.approx(theirs)


@pytest.mark.parametrize("seed", range(3))
def test_reciprocal_rank_of_one_target_is_average_precision(seed):
    scores, rows, targets, _ = draw(seed)
    first = np.unique(rows, return_index=True)[1]
    rows, targets = rows[first], targets[first]
    relevance = np.zeros(scores.shape)
    relevance[rows, targets] = 1
    ours = metrics.reciprocal_rank(metrics.mid_ranks(scores, rows, targets), np.arange(len(rows) + 1))
    assert ours.mean() == pytest.approx(label_ranking_average_precision_score(relevance, scores))


def test_reciprocal_rank_of_several_targets_is_that_of_the_best():
    assert metrics.reciprocal_rank(np.array([4.0, 2.0, 5.0]), np.array([0, 2, 3])).tolist() == [0.5, 0.2]


def test_coverage_counts_items_once():
    assert metrics.coverage(np.array([[0, 1], [1, 2], [2, -1]]), 10) == 0.3


def test_standard_errors_are_those_of_the_mean_over_users():
    rng = np.random.default_rng(0)
    means, errors = zip(*(metrics.mean(rng.random(50) < 0.2) for _ in range(2000)), strict=True)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.05)
    assert metrics.mean(np.array([0.5])) == (0.5, None)
    with pytest.raises(ValueError, match="nothing to judge"):
        metrics.mean(np.array([]))


def test_deciles_hold_a_tenth_each_and_equal_counts_share_one():
    counts = np.random.default_rng(0).permutation(200)
    deciles = metrics.popularity_deciles(counts)
    assert np.bincount(deciles, minlength=11)[1:].tolist() == [20] * 10
    assert deciles[counts.argmax()] == 10
    assert deciles[counts.argmin()] == 1
    assert len(set(metrics.popularity_deciles(np.array([5] * 60 + [0] * 40))[:60].tolist())) == 1


def test_history_groups_by_their_names():
    groups, names = metrics.history_groups(np.array([0, 1, 4, 5, 9, 10, 49, 50, 9000]))
    assert [names[group] for group in groups] == [
        *("0", "1_to_4", "1_to_4", "5_to_9", "5_to_9", "10_to_49", "10_to_49", "50_up", "50_up")
    ]


@pytest.mark.parametrize("seed", range(3))
def test_in_batch_hits_against_a_loop(seed):
    rng = np.random.default_rng(seed)
    items = rng.integers(0, 12, 20)
    table = rng.normal(size=(20, 12))
    table[np.arange(20), items] += 1.5
    scores = table[:, items]
    expected = []
    for i in range(20):
        others = [scores[i, j] for j in range(20) if items[j] != items[i]]
        expected.append(float(all(scores[i, i] > other for other in others)))
    assert metrics.in_batch_hits(scores, items).tolist() == expected
    assert 0 < sum(expected) < 20


def test_in_batch_hit_rate_of_chance_is_one_in_the_batch():
    rng = np.random.default_rng(0)
    hits = [metrics.in_batch_hits(rng.normal(size=(64, 64)), np.arange(64)).mean() for _ in range(200)]
    assert np.mean(hits) == pytest.approx(1 / 64, abs=4 * np.std(hits) / math.sqrt(200))
    assert metrics.in_batch_hits(np.zeros((64, 64)), np.arange(64)).sum() == 0  # equal scores find nothing


def test_effective_rank_of_known_spectra():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    left = np.linalg.qr(rng.normal(size=(50, 8)))[0]
    assert metrics.effective_rank(left @ np.diag([1.0] * 4 + [0.0] * 4) @ turn) == pytest.approx(4, rel=1e-6)
    assert metrics.effective_rank(np.outer(np.arange(1.0, 9), np.ones(5))) == pytest.approx(1)
    shares = np.array([4, 2, 1, 1]) / 8
    spectrum = left[:, :4] @ np.diag(shares * 3)
    assert metrics.effective_rank(spectrum) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))


def test_alignment_and_uniformity_against_their_definitions():
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(15, 4)), rng.normal(size=(15, 4))
    unit = items / np.linalg.norm(items, axis=1, keepdims=True)
    pairs = [np.exp(-2 * np.square(unit[i] - unit[j]).sum()) for i in range(15) for j in range(i)]
    assert metrics.uniformity(items) == pytest.approx(math.log(np.mean(pairs)))
    assert metrics.uniformity(np.ones((5, 3))) == pytest.approx(0)
    cosine = (users * items).sum(axis=1) / np.linalg.norm(users, axis=1) / np.linalg.norm(items, axis=1)
    assert metrics.alignment(users, items) == pytest.approx(2 - 2 * cosine)
    assert metrics.alignment(users, 3 * users) == pytest.approx(np.zeros(15), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_standard_error_is_that_of_a_sample(seed):
    values = np.random.default_rng(seed).random(5 + seed)
    value, error = metrics.mean(values)
    assert value == pytest.approx(sum(values) / len(values))
    assert error == pytest.approx(statistics.stdev(values) / len(values) ** 0.5)
    assert metrics.mean(values[:1]) == (values[0], None)
