"""Against scipy.stats, closed forms, and simulation: false alarms within the level, effects found as often as due."""

import numpy as np
import pytest
from scipy import stats

from recsysml.metrics.comparison import compare_pairs, exact_mcnemar, holm, paired_t, unpaired_z


def binary_pair(rng, n, base, gain, agreement=0.8):
    """Two 0/1 columns that agree on most examples; B is right `gain` more often."""
    a = rng.random(n) < base
    fresh = rng.random(n) < base
    b = np.where(rng.random(n) < agreement, a, fresh)
    b = b | (rng.random(n) < gain / (1 - base))
    return a.astype(float), b.astype(float)


def test_mcnemar_equals_scipys_binomial_test():
    rng = np.random.default_rng(0)
    for n in (5, 40, 2000):
        a, b = binary_pair(rng, n, 0.5, 0.05)
        gained, lost = int(((a == 0) & (b == 1)).sum()), int(((a == 1) & (b == 0)).sum())
        found = exact_mcnemar(a, b)
        assert found.p == pytest.approx(stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0)
        assert found.effect == pytest.approx(b.mean() - a.mean())
        assert found.low <= found.effect <= found.high


def test_mcnemar_of_a_textbook_table():
    # 10 discordant pairs, 9 to 1: p = 2 * (1 + 10) / 2**10
    a = np.array([0] * 9 + [1] + [1] * 20, float)
    b = np.array([1] * 9 + [0] + [1] * 20, float)
    assert exact_mcnemar(a, b).p == pytest.approx(22 / 1024)


def test_no_discordant_pair_is_no_evidence():
    a = np.array([0.0, 1.0, 1.0])
    found = exact_mcnemar(a, a)
    assert (found.effect, found.p) == (0, 1)
    assert found.low < 0 < found.high  # three examples that agree do not prove equality


def test_mcnemar_interval_holds_its_level():
    rng = np.random.default_rng(1)
    for n, base, gain in ((60, 0.5, 0.0), (60, 0.9, 0.05), (400, 0.3, 0.05)):
        inside = 0
        for _ in range(1000):
            found = exact_mcnemar(*binary_pair(rng, n, base, gain))
            inside += found.low <= gain <= found.high
        assert inside / 1000 >= 0.93, (n, base, gain, inside)


def test_paired_t_equals_scipy():
    rng = np.random.default_rng(2)
    for n in (2, 7, 500):
        a, b = rng.normal(size=n), rng.normal(0.1, 1, size=n)
        reference = stats.ttest_rel(b, a)
        interval = reference.confidence_interval(0.99)
        found = paired_t(a, b, alpha=0.01)
        assert found.p == pytest.approx(reference.pvalue)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_paired_t_without_noise():
    a = np.array([0.1, 0.2, 0.3])
    assert paired_t(a, a).p == 1
    for alike in (a + 0.7, a + 0.5):  # differences equal up to rounding, and to the bit
        with pytest.raises(ValueError, match="all 3 differences are the same"):
            paired_t(a, alike)


def test_unpaired_z_closed_form():
    found = unpaired_z(0.30, 0.03, 0.40, 0.04)  # z = .1 / .05 = 2
    assert found.p == pytest.approx(2 * stats.norm.sf(2))
    assert (found.low, found.high) == pytest.approx((0.1 - 1.959964 * 0.05, 0.1 + 1.959964 * 0.05))
    assert unpaired_z(0.3, 0, 0.3, 0).p == 1
    with pytest.raises(ValueError, match="both standard errors"):
        unpaired_z(0.3, 0, 0.4, 0)


def test_holm_by_hand_and_against_its_definition():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Wikipedia's example
    rng = np.random.default_rng(3)
    for _ in range(50):
        p = rng.random(6) ** 3
        adjusted = holm(p)
        for alpha in (0.01, 0.05, 0.2):
            rejected = np.zeros(6, bool)  # the step-down procedure itself
            for rank, index in enumerate(np.argsort(p)):
                if p[index] > alpha / (6 - rank):
                    break
                rejected[index] = True
            assert ((adjusted <= alpha) == rejected).all()
    assert holm(np.array([])).shape == (0,)


def test_the_test_is_chosen_by_the_values():
    a = np.array([0.0, 1.0, 1.0])
    assert compare_pairs(a, 1 - a).test == "exact McNemar"
    assert compare_pairs(a, a / 2).test == "paired t"
    with pytest.raises(ValueError, match="two pairs"):
        compare_pairs(a[:1], a[:1])


def alarms(pairs):
    return sum(compare_pairs(a, b).p <= 0.05 for a, b in pairs)


def test_false_alarms_stay_within_the_level():
    """1 000 pairs without a difference: at most 5% alarms, plus three standard deviations of that count (20.7)."""
    rng = np.random.default_rng(4)
    assert alarms(binary_pair(rng, 300, 0.4, 0.0) for _ in range(1000)) <= 71
    shared = ((rng.normal(size=200), rng.normal(size=(2, 200))) for _ in range(1000))
    found = alarms((base + 0.3 * noise[0], base + 0.3 * noise[1]) for base, noise in shared)
    assert 29 <= found <= 71  # the t test is exact here, so too few alarms would be an error as well


def test_power_is_what_theory_says():
    """A real effect of delta: power of the paired t is that of the noncentral t distribution."""
    rng = np.random.default_rng(5)
    n, delta, sd = 100, 0.3, 1.0
    critical = stats.t.ppf(0.975, n - 1)
    shift = delta / sd * np.sqrt(n)
    power = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
    found = 0
    for _ in range(1000):
        a = rng.normal(0, 5, n)
        found += paired_t(a, a + rng.normal(delta, sd, n)).p <= 0.05
    assert found / 1000 == pytest.approx(power, abs=0.04)
    # unpaired, the same effect drowns in the spread of the examples: that is why diff pairs
    lost = 0
    for _ in range(200):
        a = rng.normal(0, 5, n)
        b = a + rng.normal(delta, sd, n)
        lost += unpaired_z(a.mean(), stats.sem(a), b.mean(), stats.sem(b)).p <= 0.05
    assert lost / 200 < 0.2
