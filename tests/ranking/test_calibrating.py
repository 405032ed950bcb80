"""Fitted calibration against scikit-learn, and planted faults that it must find and mend."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from recsysml.metrics.calibration import cohort_gaps, expected_calibration_error, multicalibration_error
from recsysml.nn.calibration import Calibration
from recsysml.ranking.calibrating import MIN_OF_EACH, fit_calibration, isotonic_knots


def drawn(seed: int, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, 2) and labels that follow 0.5 z - 1 and 1.5 z + 0.5."""
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=(n, 2))
    truth = z * [0.5, 1.5] + [-1.0, 0.5]
    return z, (rng.random((n, 2)) < expit(truth)).astype(float)


def apply(calibration: Calibration, z: np.ndarray, cohorts: np.ndarray | None = None) -> np.ndarray:
    ids = None if cohorts is None else torch.from_numpy(cohorts)
    return calibration(torch.from_numpy(z).float(), ids).double().numpy()


@pytest.mark.parametrize("seed", [0, 1])
def test_platt_is_logistic_regression(seed: int) -> None:
    z, y = drawn(seed)
    found = apply(fit_calibration("platt", z, y), z)
    for task in range(2):
        model = LogisticRegression(C=1e10, tol=1e-8).fit(z[:, [task]], y[:, task])
        np.testing.assert_allclose(found[:, task], model.decision_function(z[:, [task]]), atol=2e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_isotonic_is_scikit_learns(seed: int) -> None:
    z, y = drawn(seed, 600)
    z[:, 1] = z[:, 1].round(1)  # ties
    fresh = drawn(seed + 10, 300)[0]
    found = expit(apply(fit_calibration("isotonic", z, y), fresh))
    for task in range(2):
        model = IsotonicRegression(out_of_bounds="clip").fit(z[:, task], y[:, task])
        expected = model.predict(fresh[:, task])
        np.testing.assert_allclose(np.interp(fresh[:, task], *isotonic_knots(z[:, task], y[:, task])), expected)
        # the layer keeps half a row away from 0 and 1, and rises by a little where the regression is flat
        np.testing.assert_allclose(found[:, task], expected, atol=0.5 / 600 + 1e-3)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_isotonic_leaves_the_order_as_it_was_and_moves_no_probability_beyond_a_thousandth(seed: int) -> None:
    """A common task, a rarer one, a rare one, and one whose order is upside down: a single flat stretch."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(24_000, 4)) + np.array([0.0, -2.0, -5.0, 0.0])
    z = z.astype(np.float32).astype(np.float64)
    truth = expit(z * [1.0, 1.0, 1.0, -1.0])
    y = (rng.random(truth.shape) < truth).astype(float)
    held, test = slice(0, 4000), slice(4000, None)
    found = apply(fit_calibration("isotonic", z[held], y[held]), z[test])
    for task in range(4):
        model = IsotonicRegression(out_of_bounds="clip").fit(z[held, task], y[held, task])
        expected = np.clip(model.predict(z[test, task]), 0.5 / 4000, 1 - 0.5 / 4000)
        np.testing.assert_allclose(expit(found[:, task]), expected, atol=1e-3)
        order = np.argsort(z[test, task], kind="stable")
        assert np.diff(found[order, task]).min() >= 0
        auc = roc_auc_score(y[test, task], z[test, task])
        assert roc_auc_score(y[test, task], found[:, task]) == pytest.approx(
            auc, abs=1e-5 if task == 2 else 1e-6
        )  # a rare task's AUC counts pairs by 1e-6
        assert abs(roc_auc_score(y[test, task], expected) - auc) > 3e-5  # which ties move


@pytest.mark.parametrize("kind", ["temperature", "platt", "beta", "isotonic", "isotonic_layer"])
def test_every_kind_mends_an_overconfident_model(kind: str) -> None:
    rng = np.random.default_rng(4)
    truth = rng.normal(size=(20_000, 1))
    y = (rng.random(truth.shape) < expit(truth)).astype(float)
    z, held, test = 2.5 * truth, slice(0, 10_000), slice(10_000, None)
    before = expected_calibration_error(expit(z[test, 0]), y[test, 0])
    after = expected_calibration_error(expit(apply(fit_calibration(kind, z[held], y[held]), z[test])[:, 0]), y[test, 0])
    assert before.z > 10
    # a table of many steps, fitted on as many rows, has noise of its own
    assert after.z < (6 if kind.startswith("isotonic") else 2.5) and after.value < before.value / 4


def test_a_planted_fault_of_one_cohort_is_found_and_mended() -> None:
    rng = np.random.default_rng(5)
    n, sizes = 30_000, [6, 4]
    cohorts = np.stack([rng.integers(0, size, n) for size in sizes], axis=1)
    z = rng.normal(size=(n, 1)) - 1
    shift = np.where(cohorts[:, 0] == 3, 0.8, 0.0)[:, None]
    y = (rng.random((n, 1)) < expit(z - shift)).astype(float)
    held, test = slice(0, 15_000), slice(15_000, None)

    def worst(kind: str, with_cohorts: bool) -> tuple[int, float, str, float]:
        more = (cohorts[held], sizes) if with_cohorts else ()
        fitted = fit_calibration(kind, z[held], y[held], *more)
        p = expit(apply(fitted, z[test], cohorts[test] if with_cohorts else None)[:, 0])
        gaps = cohort_gaps(p, y[test, 0], cohorts[test, 0])
        error = multicalibration_error(p, y[test, 0], {"a": cohorts[test, 0], "b": cohorts[test, 1]})
        return int(gaps.ids[0]), float(abs(gaps.z[0])), error.segment, error.p_value

    cohort, z_score, segment, p_value = worst("platt", False)
    assert (cohort, segment) == (3, "a=3") and z_score > 8 and p_value < 1e-10
    for kind in ("none", "platt", "isotonic"):
        _, z_score, _, p_value = worst(kind, True)
        assert z_score < 3.5 and p_value > 0.01


def test_a_small_cohort_moves_less_than_a_large_one() -> None:
    rng = np.random.default_rng(6)
    cohorts = np.concatenate([np.zeros(5000, int), np.ones(5, int)])[:, None]
    y = np.concatenate([rng.random(5000) < 0.7, np.ones(5)]).astype(float)[:, None]
    shifts = fit_calibration("none", np.zeros((5005, 1)), y, cohorts, [3]).cohort.shifts[:, 0]
    assert shifts[0] == pytest.approx(np.log(y[:5000].mean() / (1 - y[:5000].mean())), abs=0.02)
    assert 0 < shifts[1] < 1.5 and shifts[2] == 0  # all five happened, unheeded that is infinity; the third has no row


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_cohorts_that_differ_by_chance_alone_hardly_move_and_those_that_differ_do(seed: int) -> None:
    """Sixty cohorts of fifty rows: by chance alone their best shifts would spread by 0.3."""
    rng = np.random.default_rng(seed)
    cohorts = np.repeat(np.arange(60), 50)[:, None]
    rng.shuffle(cohorts)
    z = rng.normal(size=(3000, 2))
    planted = rng.normal(size=60)[cohorts[:, 0]]
    y = (rng.random((3000, 2)) < 1 / (1 + np.exp(-z - np.stack([np.zeros(3000), planted], axis=1)))).astype(float)
    shifts = fit_calibration("platt", z, y, cohorts, [60]).cohort.shifts
    assert shifts[:, 0].std() < 0.1
    assert shifts[:, 1].std() > 0.6


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_labels_that_are_nan_and_tasks_of_one_answer(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    z, y = drawn(7, 500)
    holes = y.copy()
    holes[::3, 0] = np.nan
    holes[:, 1] = 0
    found = apply(fit_calibration(kind, z, holes), z)
    kept = np.arange(500) % 3 != 0
    alone = apply(fit_calibration(kind, z[kept][:, [0]], y[kept][:, [0]]), z[:, [0]])
    np.testing.assert_allclose(found[:, 0], alone[:, 0], atol=1e-3)
    np.testing.assert_allclose(found[:, 1], z[:, 1], atol=0.02)
    assert "one answer" in caplog.text


@pytest.mark.parametrize("kind", ["temperature", "platt", "beta", "isotonic_layer"])
@pytest.mark.parametrize("happened", [0, MIN_OF_EACH - 1])
def test_a_task_that_hardly_happened_keeps_its_logits(
    kind: str, happened: int, caplog: pytest.LogCaptureFixture
) -> None:
    z, y = drawn(9, 300)
    y[:, 1] = 0
    y[np.argsort(z[:, 1])[:happened], 1] = 1  # where it was least likely, so that a map would turn far
    fitted = fit_calibration(kind, z, y, names=["click", "buy"])
    np.testing.assert_allclose(apply(fitted, z)[:, 1], z[:, 1], atol=1e-5)
    assert np.abs(apply(fitted, z)[:, 0] - z[:, 0]).max() > 0.1
    assert "leaves buy as they are" in caplog.text and "click" not in caplog.text
    y[np.argsort(z[:, 1])[:MIN_OF_EACH], 1] = 1
    assert np.abs(apply(fit_calibration(kind, z, y), z)[:, 1] - z[:, 1]).max() > 0.1


def test_a_handful_of_rows_fit_nothing() -> None:
    z, y = drawn(10, MIN_OF_EACH)
    np.testing.assert_array_equal(apply(fit_calibration("platt", z, y), z), z.astype(np.float32))


def test_a_state_dict_brings_it_back() -> None:
    z, y = drawn(8, 400)
    cohorts = np.arange(400)[:, None] % 3
    for kind in ("isotonic", "isotonic_layer", "platt"):
        fitted = fit_calibration(kind, z, y, cohorts, [3])
        again = Calibration(**fitted.settings)
        again.load_state_dict(fitted.state_dict())
        np.testing.assert_array_equal(apply(again.eval().requires_grad_(False), z, cohorts), apply(fitted, z, cohorts))
    assert not any(parameter.requires_grad for parameter in fitted.parameters())


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="both be"):
        fit_calibration("platt", np.zeros((3, 2)), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="not finite"):
        fit_calibration("platt", np.full((2, 1), np.inf), np.array([[0.0], [1.0]]))
    with pytest.raises(ValueError, match="need cohorts"):
        fit_calibration("platt", np.zeros((2, 1)), np.array([[0.0], [1.0]]), None, [3])


@pytest.mark.parametrize("seed", [0, 1])
def test_an_order_that_is_upside_down_is_kept_and_said(seed, caplog):
    """The likeliest slope is 0: without a least one all rows would be alike but for rounding, which has an order."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-1, 1, (3000, 2))
    y = (rng.random((3000, 2)) < 1 / (1 + np.exp(np.stack([1 + z[:, 0], -z[:, 1]], axis=1)))).astype(float)
    found = fit_calibration("platt", z, y, names=["skip", "like"])
    served = found(torch.tensor(z).float()).numpy()
    assert (
        np.argsort(served[:, 0], kind="stable") == np.argsort(z[:, 0].astype(np.float32), kind="stable")
    ).mean() > 0.99
    assert len(np.unique(served[:, 0])) > 2900
    p = 1 / (1 + np.exp(-served))
    np.testing.assert_allclose(p.mean(axis=0), y.mean(axis=0), atol=1e-3)
    assert np.ptp(p[:, 0]) < 0.05 < np.ptp(p[:, 1])
    assert "the order of skip is no better than chance" in caplog.text
