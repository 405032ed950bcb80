"""Metrics of calibration against loops, simulation and known laws."""

from __future__ import annotations

import numpy as np
import pytest

from recsysml.metrics import calibration as metrics


def drawn(seed: int, n: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = rng.beta(1, 4, n)
    return p, (rng.random(n) < p).astype(float)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("binning", ["width", "mass"])
def test_ece_is_a_loop(seed: int, binning: str) -> None:
    p, y = drawn(seed, 500)
    p = np.clip(p * 1.3, 0, 1)
    if binning == "width":
        groups = [np.flatnonzero((p >= b / 15) & ((p < (b + 1) / 15) | (b == 14))) for b in range(15)]
    else:
        order = np.argsort(p, kind="stable")
        groups = [order[np.arange(500) * 15 // 500 == b] for b in range(15)]
    expected = sum(len(own) / 500 * abs(p[own].mean() - y[own].mean()) for own in groups if len(own))
    assert metrics.expected_calibration_error(p, y, 15, binning, draws=2).value == pytest.approx(expected)


def test_a_perfect_model_is_at_its_floor_and_a_wrong_one_is_not() -> None:
    right = [metrics.expected_calibration_error(*drawn(seed), draws=80).z for seed in range(12)]
    assert abs(np.mean(right)) < 1 and max(right) < 3.5
    p, y = drawn(20)
    wrong = metrics.expected_calibration_error(np.clip(1.3 * p, 0, 1), y)
    assert wrong.z > 5
    # one bin, all at one half: n times the error is |binomial - n/2|, whose mean and spread are known
    flat = metrics.expected_calibration_error(np.full(400, 0.5), np.repeat([0.0, 1.0], 200), 10, draws=2000)
    assert flat.value == 0
    assert flat.perfect == pytest.approx(np.sqrt(2 / np.pi) * 0.5 / 20, rel=0.06)
    assert flat.perfect_spread == pytest.approx(np.sqrt(1 - 2 / np.pi) * 0.5 / 20, rel=0.08)


def test_debiased_l2_is_zero_on_average_for_the_truth_and_the_gap_squared_else() -> None:
    found = np.array([metrics.debiased_l2(*drawn(seed, 400)) for seed in range(200)])
    assert abs(found.mean()) < 4 * found.std() / np.sqrt(200)
    assert (found < 0).any()
    rng = np.random.default_rng(3)
    p = np.full(40_000, 0.4)
    assert metrics.debiased_l2(p, (rng.random(40_000) < 0.3).astype(float)) == pytest.approx(0.01, rel=0.1)


def test_wilson_is_scipys() -> None:
    from scipy.stats import binomtest

    k, n = np.array([0, 3, 10, 50]), np.array([10, 7, 10, 120])
    low, high = metrics.wilson(k, n, z=1.959963984540054)
    for place in range(4):
        expected = binomtest(int(k[place]), int(n[place])).proportion_ci(method="wilson")
        assert (low[place], high[place]) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_reliability_bins_hold_every_row() -> None:
    p, y = drawn(4, 101)
    bins = metrics.reliability(p, y, 10)
    assert sum(each["count"] for each in bins) == 101
    assert sum(each["count"] * each["observed"] for each in bins) == pytest.approx(y.sum())
    assert sum(each["count"] * each["predicted"] for each in bins) == pytest.approx(p.sum())
    assert all(each["low"] - 1e-12 <= each["observed"] <= each["high"] + 1e-12 for each in bins)


def test_ratio_and_brier_with_errors_as_by_bootstrap() -> None:
    p, y = drawn(5, 2000)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2000, (600, 2000))
    for metric in (metrics.predicted_over_observed, metrics.brier):
        error = metric(p, y)[1]
        again = [metric(p[own], y[own])[0] for own in rows]
        assert error == pytest.approx(np.std(again), rel=0.12)
    assert metrics.predicted_over_observed(p, y)[0] == pytest.approx(p.sum() / y.sum())
    assert metrics.brier(p, y)[0] == pytest.approx(((p - y) ** 2).mean())
    assert np.isnan(metrics.predicted_over_observed(p, 0 * y)[0])


def test_cohorts_are_a_loop() -> None:
    p, y = drawn(6, 800)
    cohorts = np.random.default_rng(7).integers(0, 5, 800) * 2
    cohorts[:3] = 11  # too small
    found = metrics.cohort_gaps(p, y, cohorts)
    assert set(found.ids) == {0, 2, 4, 6, 8}
    assert (np.diff(np.abs(found.z)) <= 0).all()
    for place, cohort in enumerate(found.ids):
        own = cohorts == cohort
        assert found.predicted[place] == pytest.approx(p[own].mean()) and found.n[place] == own.sum()
        assert found.observed[place] == pytest.approx(y[own].mean())
        z = (p[own] - y[own]).sum() / np.sqrt((p[own] * (1 - p[own])).sum())
        assert found.z[place] == pytest.approx(z)


def test_the_multicalibration_error_is_a_loop_over_segments() -> None:
    p, y = drawn(8, 900)
    rng = np.random.default_rng(9)
    cohorts = {"a": rng.integers(0, 4, 900), "b": rng.integers(1, 3, 900)}
    found = metrics.multicalibration_error(p, y, cohorts, min_rows=10)
    segments = {"all": np.ones(900, bool)}
    segments |= {f"{name}={value}": ids == value for name, ids in cohorts.items() for value in np.unique(ids)}
    errors = {}
    for name, own in segments.items():
        order = np.argsort(p[own])
        path = np.concatenate([[0], np.cumsum((y[own] - p[own])[order])])
        errors[name] = (path.max() - path.min()) / np.sqrt((p[own] * (1 - p[own])).sum())
    worst = max(errors, key=errors.__getitem__)
    assert (found.segment, found.n_segments) == (worst, 7)
    assert found.sigmas == pytest.approx(errors[worst])
    assert found.value == pytest.approx(errors[worst] * np.sqrt((p * (1 - p)).sum()) / 900)


def test_a_segment_of_few_rows_is_not_judged() -> None:
    p, y = drawn(12, 900)
    ids = np.zeros(900, int)
    ids[:20], y[:20] = 1, 1.0  # as wrong as can be
    assert metrics.multicalibration_error(p, y, {"a": ids}, min_rows=20).segment == "a=1"
    found = metrics.multicalibration_error(p, y, {"a": ids}, min_rows=21)
    assert found.segment != "a=1" and found.n_segments == 2


@pytest.mark.parametrize("shift", [0.08, 0.12])
def test_a_p_value_is_how_often_labels_of_the_probabilities_do_as_badly(shift: float) -> None:
    rng = np.random.default_rng(13)
    p = rng.beta(2, 4, 4000)
    ids = rng.integers(0, 6, 4000)
    y = (rng.random(4000) < np.where(ids == 2, p * (1 - shift), p)).astype(float)
    found = metrics.multicalibration_error(p, y, {"a": ids})
    worse = [
        metrics.multicalibration_error(p, (rng.random(4000) < p).astype(float), {"a": ids}).sigmas >= found.sigmas
        for _ in range(400)
    ]
    # bounded from above: the whole is not independent of its parts, and a walk's range is a little short
    assert np.mean(worse) - 0.05 <= found.p_value <= 1.3 * np.mean(worse) + 0.05
    assert 0.02 < found.p_value < 0.98


def test_the_range_law_is_that_of_a_random_walk() -> None:
    rng = np.random.default_rng(10)
    walks = np.cumsum(rng.normal(size=(4000, 1000)).astype(np.float32), axis=1) / np.sqrt(1000)
    ranges = np.maximum(walks.max(axis=1), 0) - np.minimum(walks.min(axis=1), 0)
    for r in (1.0, 1.5, 2.2):  # a walk's range is about .04 short of the motion's
        assert metrics.range_tail(r) == pytest.approx((ranges > r - 0.037).mean(), abs=0.025)
    assert metrics.range_tail(0.1) == 1.0 and metrics.range_tail(9.0) < 1e-15


def test_p_values_of_the_truth_are_not_small_too_often() -> None:
    rng = np.random.default_rng(11)
    small = 0
    for seed in range(150):
        p, y = drawn(100 + seed, 1000)
        small += metrics.multicalibration_error(p, y, {"a": rng.integers(0, 8, 1000)}).p_value < 0.1
    assert small <= 25  # 15 expected at most; 25 is two and a half deviations above
