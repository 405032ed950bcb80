"""Judging an ad policy: the gap that it closes, the curve of the best, and the log's word against the truth."""

import numpy as np
import pytest
import torch

from recsysml.data import ad_world
from recsysml.evals import ads
from recsysml.models.ad_placement import AdPlacement
from recsysml.results import Run
from recsysml.schemas.data import AdWorldConfig
from recsysml.schemas.rankers import AdPlacementConfig


@pytest.mark.parametrize("seed", range(5))
def test_as_time_counts_more_there_is_never_less_of_it_and_never_more_revenue(seed):
    truth = ads.open_truth(AdWorldConfig(sessions=2000, seed=seed))
    worths = [0, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 4, 10, 100]
    points = ads.frontier(truth.revenue, truth.engagement, worths)
    assert (np.diff(points[:, 0]) >= 0).all()
    assert (np.diff(points[:, 1]) <= 0).all()
    assert points[0, 1] == pytest.approx(truth.revenue.max(1).mean())
    assert points[-1, 0] == pytest.approx(truth.engagement.max(1).mean(), rel=1e-3)
    assert len(np.unique(points[:, 0])) > 8
    for worth, (minutes, revenue) in zip(worths, points, strict=True):  # no policy has more of both, weighed so
        best = (truth.revenue + worth * truth.engagement).max(1).mean()
        assert revenue + worth * minutes == pytest.approx(best)


def test_the_gap_closed_is_a_ratio_with_the_bootstraps_spread():
    random = np.random.default_rng(0)
    log = random.normal(0, 1, 800)
    best = log + random.gamma(1, 1, 800)
    value = log + 0.7 * (best - log) + random.normal(0, 0.3, 800)
    share, stderr = ads.gap_closed(value, log, best)
    assert share == pytest.approx((value - log).sum() / (best - log).sum())
    drawn = [random.integers(800, size=800) for _ in range(2000)]
    again = [ads.gap_closed(value[rows], log[rows], best[rows])[0] for rows in drawn]
    assert stderr == pytest.approx(np.std(again), rel=0.1)
    assert ads.gap_closed(log, log, best)[0] == 0
    assert ads.gap_closed(best, log, best) == (1, 0)
    assert np.isnan(ads.gap_closed(log, log, log)[0])


def test_of_few_effective_sessions_the_log_is_not_believed(tmp_path):
    """A policy of one action always, which a log of few sessions took in a few of them."""
    config = AdWorldConfig(sessions=2000, ads=5, places=3)
    log, truth = ad_world.load_ads(config), ads.open_truth(config)
    model = AdPlacement(AdPlacementConfig(), len(log.feature_names), len(log.action_names))
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
        model.network[-1].bias.view(-1, 2)[9, 0] = 5.0
    judged = ads.judge(model, log, truth, "test")
    assert (judged.actions["this"][:, 9] == 1).all()
    run = Run.create(tmp_path, "eval", "ads", argv=[], config={}, overrides=[])
    ads.record(run, judged)
    run.finish("ok")
    weights = (log.actions[-400:] == 9) / log.propensity[-400:]
    share = weights.sum() ** 2 / (weights**2).sum() / 400
    assert share < 0.1
    for name in ("ips", "snips", "dr"):
        entry = run.record["metrics"][f"test/policy/{name}"]
        assert "it is not to be believed" in entry["unreliable"] and entry["ess_share"] == pytest.approx(share)
        assert entry["low"] < entry["value"] < entry["high"]
    assert "unreliable" not in run.record["metrics"]["test/policy/value"]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("method", ["bandit", "reinforce"])
def test_the_log_says_what_is_true_within_three_standard_errors(method, seed):
    """Of policies that have learnt nothing: right propensities are enough."""
    config = AdWorldConfig(sessions=20_000, seed=seed)
    log, truth = ad_world.load_ads(config), ads.open_truth(config)
    torch.manual_seed(seed)
    made = AdPlacement(AdPlacementConfig(method=method, dial=1.4, temperature=0.5), 11, len(log.action_names))
    judged = ads.judge(made, log, truth, "test")
    exact = judged.of("this", judged.reward).mean()
    by_hand = (
        ads.policy_of(made, log.features[-4000:], log.revenue_estimate[-4000:])
        * (truth.revenue + 1.4 * truth.engagement)[-4000:]
    ).sum(1)
    assert exact == pytest.approx(by_hand.mean())
    np.testing.assert_array_equal(judged.actions["log"], truth.logging[-4000:])
    assert (judged.actions["no_ad"][:, 0] == 1).all()
    assert (judged.actions["most_revenue"].argmax(1) == log.revenue_estimate[-4000:].argmax(1)).all()
    least = [judged.actions["best"][row] @ judged.reward[row] for row in range(4000)]
    assert least == pytest.approx(judged.reward.max(1))
    assert set(judged.estimates) == {"ips", "snips"} | ({"dr"} if method == "bandit" else set())
    for name, found in judged.estimates.items():
        assert abs(found.value - exact) < 3 * found.stderr, name
    assert judged.of("best", judged.reward).mean() >= max(
        judged.of(name, judged.reward).mean() for name in judged.actions
    )
