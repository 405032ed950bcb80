"""The ad world: its closed forms against sums item by item and against what happens, its log, its secrecy."""

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

from recsysml.data import ad_laws, ad_truth, ad_world
from recsysml.errors import ConfigError
from recsysml.schemas.data import AdWorldConfig

ROOT = Path(__file__).parents[2]


def small(**change):
    return AdWorldConfig(**{"sessions": 4000, **change})


def world(seed, n=300, ads=3):
    random = np.random.default_rng(seed)
    tastes = ad_laws.tastes(random, ads)
    features = ad_laws.sessions(random, n, ads)
    return random, features, ad_laws.laws(features, tastes)


def of(laws, rows):
    return ad_laws.Laws(**{field.name: getattr(laws, field.name)[rows] for field in dataclasses.fields(laws)})


def by_items(laws, places, row):
    """Revenue and minutes of every action of one session, item by item."""
    ads = laws.click.shape[1]
    found = []
    for action in range(1 + places * ads):
        before = ad_laws.PLACES[(action - 1) // ads] if action else None
        ad = (action - 1) % ads
        there, revenue, minutes = 1.0, 0.0, 0.0
        for item in range(ad_laws.ITEMS):
            hazard, kept = laws.leave[row], 1.0
            if before is not None and item >= before:
                kept = laws.kept[row, ad]
            if item == before:
                revenue = there * laws.bid[row, ad] * laws.click[row, ad]
                hazard = laws.leave_after_ad[row, ad]
            minutes += there * laws.minutes[row] * kept
            there *= 1 - hazard
        found.append((revenue, minutes))
    return np.array(found).T


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("places", [1, 2, 3])
def test_closed_forms_are_the_sums_item_by_item(seed, places):
    _, _, laws = world(seed, n=5)
    revenue, minutes = ad_laws.revenue(laws, places), ad_laws.engagement(laws, places)
    for row in range(5):
        expected = by_items(laws, places, row)
        assert revenue[row] == pytest.approx(expected[0])
        assert minutes[row] == pytest.approx(expected[1])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_happens_has_the_expected_means(seed):
    random, _, laws = world(seed, n=40)
    rows = np.repeat(np.arange(40), 500)
    expected = ad_laws.revenue(laws, 2), ad_laws.engagement(laws, 2)
    for action in range(7):
        drawn = ad_laws.act(random, of(laws, rows), np.full(len(rows), action), 2)
        for happened, mean in zip(drawn, expected, strict=True):
            gap = happened.reshape(40, 500).mean(1) - mean[:, action]
            spread = happened.reshape(40, 500).std(1, ddof=1) / np.sqrt(500)
            assert abs(gap.sum()) <= 4 * np.sqrt((spread**2).sum()) + 1e-12
            assert (np.abs(gap) <= 5 * spread + 0.05).all()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_log_acts_as_its_propensities_say(seed):
    log, behind = ad_world.simulate(small(seed=seed))
    assert behind.logging.sum(1) == pytest.approx(1)
    assert log.propensity == pytest.approx(behind.logging[np.arange(4000), log.actions])
    assert behind.logging.min() >= 0.25 / len(log.action_names)
    for action in range(len(log.action_names)):
        p = behind.logging[:, action]
        surplus = ((log.actions == action) - p).sum() / np.sqrt((p * (1 - p)).sum())
        assert abs(surplus) < 4


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_neither_never_nor_always_nor_the_most_revenue_is_best(seed):
    truth = ad_truth.open_truth(small(seed=seed))
    reward = truth.revenue + truth.engagement
    best = reward.max(1).mean()
    way = best - (truth.logging * reward).sum(1).mean()
    assert way > 0.5
    for simple in (reward[:, 0], reward[np.arange(4000), truth.revenue.argmax(1)], reward[:, 1], reward[:, 3]):
        assert best - simple.mean() > 0.4 * way
    cost = truth.engagement[:, :1] - truth.engagement[:, 1:]
    assert np.quantile(cost, 0.9) > 3 * np.quantile(cost, 0.1) > 0  # an ad costs one user much and another little


def test_the_ad_systems_estimate_is_right_on_average_and_off_by_a_tenth():
    config = small(seed=4)
    estimate, truth = ad_world.load_ads(config).revenue_estimate, ad_truth.open_truth(config).revenue
    ratio = estimate[:, 1:] / truth[:, 1:]
    assert (estimate[:, 0] == 0).all()
    assert ratio.mean() == pytest.approx(1, abs=0.005)
    assert ratio.std() == pytest.approx(0.1, abs=0.01)


def test_the_same_config_gives_the_same_bytes():
    first, again, other = (ad_world.load_ads(small(seed=seed)) for seed in (1, 1, 2))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert (first.revenue == again.revenue).all()
    assert first.sizes == {"train": 2800, "val": 400, "test": 800}
    assert first.features.shape == (4000, len(first.feature_names))
    assert first.action_names == ["none", "ad 1 before item 1", "ad 2 before item 1", "ad 1 before item 4", "ad 2 before item 4"]  # fmt: skip  # noqa: E501


def test_wrong_values_are_refused_and_the_yaml_lists_every_field():
    for change in ({"sessions": 3}, {"ads": 0}, {"places": 4}, {"places": 0}, {"seed": -1}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            ad_world.check(small(**change))
    content = yaml.safe_load((ROOT / "conf" / "data" / "ad_world.yaml").read_text())
    assert vars(AdWorldConfig(**content)) == content
    assert "150,000 sessions" in ad_world.status(AdWorldConfig())


def test_nothing_that_feeds_a_model_imports_the_truth():
    allowed = {"ad_truth.py", "ad_laws.py", "ad_world.py"}
    for path in (ROOT / "recsysml").rglob("*.py"):
        if path.name in allowed or path.parent.name == "evals":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            assert not any(name.endswith(("ad_truth", "ad_laws")) for name in names), path
