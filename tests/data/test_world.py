"""The simulated world against its own truth: what happens as often as its laws say, and the laws are nobody's model."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import sparse, stats

from recsysml.data import world, world_log, world_population, world_truth
from recsysml.data.world_laws import Moment
from recsysml.data.world_sessions import SLATE, SLICE
from recsysml.errors import ConfigError
from recsysml.schemas.data import WorldConfig

ROOT = Path(__file__).parents[2]
SEEDS = (1, 2, 3, 4)


def small(seed: int = 1, **changes) -> WorldConfig:
    return WorldConfig(**{"users": 400, "items": 500, "events": 30_000, "seed": seed} | changes)


@lru_cache
def everything(seed: int):
    """All slices of a small world with their truth: requests, impressions, behind; indices made to fit the whole."""
    config = small(seed)
    truth = world_truth.open_truth(config)
    parts = [
        {"requests": requests, "logged": logged, "behind": behind, "p": world_truth.p_true(logged, behind)}
        for (requests, logged), behind in zip(world_log.open_world(config), truth, strict=True)
    ]
    return config, truth, parts


def joined(parts, get) -> np.ndarray:
    return np.concatenate([get(part) for part in parts])


def z_score(happened: np.ndarray, p: np.ndarray) -> float:
    return float((happened - p).sum() / np.sqrt((p * (1 - p)).sum()))


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_happens_as_often_as_its_probability_says(seed):
    _, _, parts = everything(seed)
    for name in ("click", "long_view", "like", "share", "skip", "leave"):
        p = np.concatenate([part["p"][name] for part in parts])
        happened = np.concatenate([getattr(part["logged"], name) for part in parts])
        assert abs(z_score(happened, p)) < 3, name
        for rows in np.array_split(np.argsort(p), 5):  # and not on the whole only
            assert abs(z_score(happened[rows], p[rows])) < 3.5, name
    ad = joined(parts, lambda part: part["requests"].ad_shown)
    assert abs(z_score(ad, joined(parts, lambda part: part["requests"].ad_propensity))) < 3
    clicked = joined(parts, lambda part: part["requests"].ad_click)
    assert abs(z_score(clicked[ad], joined(parts, lambda part: part["behind"].ad_click)[ad])) < 3
    assert not clicked[~ad].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_watched_follows_its_law(seed):
    _, truth, parts = everything(seed)
    quantiles = []
    for part in parts:
        logged, laws = part["logged"], part["behind"].slate
        share = logged.watch_seconds / truth.population.durations[logged.items]
        shape = laws.watch_shape[logged.requests, logged.positions]
        quantiles.append((1 - (1 - share**shape) ** 2)[logged.click])
        assert not logged.watch_seconds[~logged.click].any()
        seconds, whole = logged.watch_seconds, truth.population.durations[logged.items]
        assert np.array_equal(logged.long_view, logged.click & (seconds > np.minimum(18.0, 0.9 * whole)))
    assert stats.kstest(np.concatenate(quantiles), "uniform").pvalue > 0.01


@pytest.mark.parametrize("seed", SEEDS)
def test_slates_are_drawn_with_the_propensities_that_are_logged(seed):
    _, _, parts = everything(seed)
    draws = []
    for part in parts:
        requests, logging = part["requests"], part["behind"].logging
        assert np.allclose(logging.sum(1), 1) and not logging[~requests.offered].any()
        chosen = np.take_along_axis(logging, requests.slate, axis=1)
        before = np.cumsum(chosen, axis=1) - chosen
        sure = before < 0.999  # beyond, the difference of sums has lost its digits
        assert np.allclose(requests.propensities[sure], (chosen / (1 - before))[sure], rtol=1e-6)
        # what would differ first if slates were drawn from a steeper or a flatter policy: the log of what is drawn
        logs = np.log(np.where(logging > 0, logging, 1.0))
        expected = (logging * logs).sum(1)
        drawn = logs[np.arange(len(logs)), requests.slate[:, 0]]
        draws.append(np.stack([drawn - expected, (logging * logs**2).sum(1) - expected**2]))
        shown = np.take_along_axis(requests.candidates, requests.slate, axis=1)
        logged = part["logged"]
        assert np.array_equal(shown[logged.requests, logged.positions], logged.items)
        assert np.array_equal(np.bincount(logged.requests, minlength=len(shown)), requests.shown)
    gaps, variances = np.concatenate(draws, axis=1)
    assert abs(gaps.sum() / np.sqrt(variances.sum())) < 3


def test_a_session_shows_nothing_twice_and_nothing_before_its_birth():
    _, truth, parts = everything(1)
    for part in parts:
        requests, logged = part["requests"], part["logged"]
        pairs = np.stack([requests.sessions[logged.requests], logged.items])
        assert np.unique(pairs, axis=1).shape == pairs.shape
        assert (truth.population.born[logged.items] <= logged.times).all()
        assert (np.diff(logged.times) >= 0).all() and (np.diff(requests.times) >= 0).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_value_of_a_slate_is_what_slates_brought(seed):
    """Whole slates and their exact value; the top place by inverse propensities and its exact value."""
    _, truth, parts = everything(seed)
    weights = {"click": 1.0, "like": 3.0, "skip": -0.5}
    brought, values, tops, exact = [], [], [], []
    for part in parts:
        requests, logged, behind = part["requests"], part["logged"], part["behind"]
        whole = requests.propensities.min(1) > 0
        gained = logged.click + 3.0 * logged.like - 0.5 * logged.skip
        sums = np.bincount(logged.requests, weights=gained, minlength=len(whole))
        whole &= requests.sessions != requests.sessions.max()  # the one that the quota cut off
        brought.append(sums[whole])
        values.append(world_truth.slate_value(behind.slate, weights)[whole])
        uniform = requests.offered / requests.offered.sum(1, keepdims=True)
        policy = 0.5 * behind.logging + 0.5 * uniform
        rewards = world_truth.reward(truth.responses(behind.moment, requests.candidates), {"click": 1.0})
        exact.append(world_truth.top_value(policy, rewards))
        first = logged.positions == 0
        rows = logged.requests[first]
        ratio = policy[rows, requests.slate[rows, 0]] / requests.propensities[rows, 0]
        tops.append(np.bincount(rows, weights=ratio * logged.click[first], minlength=len(whole)))
    for found, true in ((brought, values), (tops, exact)):
        gap = np.concatenate(found) - np.concatenate(true)
        assert abs(gap.mean()) < 3 * gap.std() / math.sqrt(len(gap))


def test_enumeration_agrees_with_a_plain_loop():
    _, truth, parts = everything(2)
    moment, requests = parts[0]["behind"].moment, parts[0]["requests"]
    few = Moment(*(getattr(moment, field.name)[:3] for field in dataclasses.fields(Moment)))
    items = requests.candidates[:3, :4]
    scores = np.random.default_rng(0).normal(size=(3, 4))
    weights = {"long_view": 1.0, "leave": -1.0}
    value = world_truth.policy_value(truth, few, items, scores, weights)
    for row in range(3):
        alone = Moment(*(getattr(few, field.name)[row : row + 1] for field in dataclasses.fields(Moment)))
        total = 0.0
        for order in itertools.permutations(range(4)):
            left, p = list(range(4)), 1.0
            for item in order:
                p *= math.exp(scores[row, item]) / sum(math.exp(scores[row, other]) for other in left)
                left.remove(item)
            there, gained = 1.0, 0.0
            for position, item in enumerate(order):
                laws = truth.responses(alone, items[row : row + 1, [item]], position)
                gained += there * float(laws.click[0, 0] * laws.long_view[0, 0] - laws.leave[0, 0])
                there *= 1 - float(laws.leave[0, 0])
            total += p * gained
        assert value[row] == pytest.approx(total, rel=1e-12)
    with pytest.raises(ValueError, match="at most 7"):
        world_truth.policy_value(truth, moment, requests.candidates, requests.candidates * 1.0, weights)
    with pytest.raises(ValueError, match="hug is no action"):
        world_truth.reward(parts[0]["behind"].slate, {"hug": 1.0})


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p) - np.log1p(-p)


def test_no_shipped_model_can_write_the_click_law_down():
    """Held by measurement: mood confounds, position does not add, matches have a peak, and no low rank holds them."""
    _, truth, parts = everything(1)
    behind, requests = parts[3]["behind"], parts[3]["requests"]
    moment, items = behind.moment, requests.candidates
    # unobserved mood moves clicks, and the policy's choice leans with it
    calm = dataclasses.replace(moment, mood=np.zeros_like(moment.mood))
    moved = truth.responses(moment, items).click - truth.responses(calm, items).click
    assert moved.std() > 0.05
    chosen_quality = (behind.logging * truth.latent.quality[items]).sum(1)
    assert stats.pearsonr(moment.mood, chosen_quality).pvalue < 1e-3
    # what a lower place costs is no constant of the place, in logits or in probits
    top, low = truth.responses(moment, items, 0).click, truth.responses(moment, items, 5).click
    for link in (logit, stats.norm.ppf):
        assert np.ptp(link(top) - link(low)) > 0.3
    # more match is not always better: users turn at a peak of their own
    users = np.flatnonzero(truth.latent.peak < 0.7)
    none = np.zeros(len(users))
    wish = truth.latent.content[np.zeros(len(users), int)]  # a match of 1 with item 0
    across = np.roll(wish, 1, axis=1)
    across -= (across * wish).sum(1, keepdims=True) * wish
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    at_peak = truth.latent.peak[users][:, None]
    tilted = at_peak * wish + np.sqrt(1 - at_peak**2) * across
    clicks = [
        truth.responses(Moment(users, none, vectors, none, none > 0), np.zeros((len(users), 1), int)).click
        for vectors in (tilted, wish)
    ]
    assert (clicks[0] > clicks[1]).all()
    # a dot product of 64 dimensions leaves more of the logits unexplained than 64 noise-free dimensions would
    affinity = logit(truth.affinity(np.arange(400), np.tile(np.arange(500), (400, 1)), np.full(400, 1e6)))
    centred = affinity - affinity.mean(0) - affinity.mean(1, keepdims=True) + affinity.mean()
    spectrum = np.linalg.svd(centred, compute_uv=False) ** 2
    assert spectrum[64:].sum() / spectrum.sum() > 0.005
    assert spectrum[12:].sum() / spectrum.sum() > 0.05  # taste itself has 12


@pytest.mark.parametrize("seed", SEEDS)
def test_friends_are_alike_and_know_each_other(seed):
    config = small(seed)
    population, latent = world_population.make(config.users, config.items, config.seed)
    edges = population.friends
    assert (edges[:, 0] < edges[:, 1]).all() and len(np.unique(edges, axis=0)) == len(edges)
    random = np.random.default_rng(seed)
    strangers = random.integers(config.users, size=(len(edges), 2))
    alike = [(latent.taste[pairs[:, 0]] * latent.taste[pairs[:, 1]]).sum(1) for pairs in (edges, strangers)]
    assert alike[0].mean() > alike[1].mean() + 0.2

    # a pair that meets stays together the likelier the closer the two tastes, by a law in closed form
    left, right = strangers[strangers[:, 0] != strangers[:, 1]].T
    close = (latent.taste[left] * latent.taste[right]).sum(1)
    for rows in (close < 0.2, close >= 0.2):
        p = 1 / (1 + np.exp(2.5 - 5 * close[rows]))
        kept = len(world_population._kept(latent, left[rows], right[rows], random))
        assert abs(kept - p.sum()) < 3 * np.sqrt((p * (1 - p)).sum())

    def closed(pairs: np.ndarray) -> float:
        """Share of two-paths that are closed."""
        both = np.concatenate([pairs, pairs[:, ::-1]])
        graph = sparse.csr_array((np.ones(len(both)), both.T), shape=(config.users, config.users))
        graph.data[:] = 1
        paths = graph @ graph
        paths.setdiag(0)
        return float((paths * graph).sum() / paths.sum())

    shuffled = np.stack([edges[:, 0], random.permutation(edges[:, 1])], axis=1)  # same degrees
    shuffled = np.unique(np.sort(shuffled[shuffled[:, 0] != shuffled[:, 1]], axis=1), axis=0)
    assert closed(edges) > 1.2 * closed(shuffled)


def test_what_can_be_seen_tells_something_of_what_cannot():
    population, latent = world_population.make(400, 500, 1)
    users, items = population.user_features, population.item_features
    assert (len(users), len(items), len(population.item_titles)) == (400, 500, 500)
    for features in (users, items):
        assert np.isfinite(features.dense).all() and features.categorical.min() >= 1
        assert (features.categorical.max(0) < features.n_categories).all()
        assert features.tags.max() < len(features.tag_names) and features.tag_offsets[-1] == len(features.tags)
    # content vectors of one topic are alike, and words name the topic more often than chance
    unit = items.vectors / np.linalg.norm(items.vectors, axis=1, keepdims=True)
    same = latent.topic[:, None] == latent.topic
    np.fill_diagonal(same, False)
    cosines = unit @ unit.T
    assert cosines[same].mean() > cosines[~same].mean() + 0.3
    owners = np.repeat(np.arange(500), np.diff(items.tag_offsets))
    assert 0.8 < np.bincount(owners[latent.topic[owners] == items.tags], minlength=500).mean() < 0.95
    assert stats.pearsonr(items.dense[:, 2], latent.quality)[0] == pytest.approx(0.78, abs=0.08)  # 1 / sqrt(1 + .8^2)


def test_same_config_same_bytes_and_slices_stand_alone():
    config = small(3)
    first, second = world_log.open_world(config), world_log.open_world(config)
    for index in (5, 0):  # in any order
        for a, b in zip(first.slice(index), second.slice(index), strict=True):
            assert all(getattr(a, f.name).tobytes() == getattr(b, f.name).tobytes() for f in dataclasses.fields(a))
    moods = [world_truth.open_truth(small(seed)).behind(index).moment.mood for seed, index in ((3, 0), (3, 1), (4, 0))]
    born = [world_log.open_world(small(seed)).population.born for seed in (3, 4)]
    for one, other in (*itertools.combinations(moods, 2), born):  # each slice and each seed has its own luck
        assert not np.intersect1d(one, other).size
    data = world.load(config)
    assert data.fingerprint == world.load(config).fingerprint
    others = [small(4), small(3, action="like"), small(3, split="last_out"), small(3, events=30_001)]
    assert len({data.fingerprint, *(world.load(other).fingerprint for other in others)}) == 5
    assert world.load(small(3, fit_range="train_val")).fingerprint == data.fingerprint  # the same examples


@pytest.mark.parametrize("events", [100, 1009, 2_000_000])
def test_a_world_has_as_many_events_as_asked_and_holds_a_slice_at_a_time(events):
    made = world_log.open_world(small(events=events, users=50, items=100))
    shares = [events * (i + 1) // len(made) - events * i // len(made) for i in range(len(made))]
    assert sum(shares) == events and max(shares) <= SLICE
    for index in (0, len(made) - 1) if events > 10_000 else range(len(made)):
        requests, impressions = made.slice(index)
        assert len(impressions.items) == shares[index] == requests.shown.sum()
        assert requests.shown.min() >= 1 and requests.shown.max() <= SLATE


def test_interactions_are_the_events_of_the_action():
    config, _, parts = everything(2)
    data = world.load(dataclasses.replace(config, action="like"))
    expected = sorted(
        (time, str(user), str(item))
        for part in parts
        for time, user, item, like in zip(
            *(getattr(part["logged"], name).tolist() for name in ("times", "users", "items", "like")), strict=True
        )
        if like
    )
    found = [
        (time, data.user_ids[user], data.item_ids[item])
        for name in ("train", "val", "test")
        for time, user, item in zip(
            data.splits[name].times, data.splits[name].users, data.splits[name].items, strict=True
        )
    ]
    assert found == expected
    assert len(data.user_features) == 400 and len(data.item_features) == 500 and data.friends is not None


def test_wrong_values_are_refused_and_the_yaml_lists_every_field():
    for change in (
        {"users": 3},
        {"items": 5},
        {"events": 0},
        {"action": "hug"},
        {"split": "random"},
        {"seed": -1},
        {"events": 10**12},
        {"users": 10**12},
    ):
        with pytest.raises(ConfigError, match=next(iter(change))):
            world.check(small(**change))
    content = yaml.safe_load((ROOT / "conf" / "data" / "world.yaml").read_text())
    assert vars(WorldConfig(**content)) == content
    assert "100,000 events" in world.status(WorldConfig())


def test_nothing_that_feeds_a_model_imports_the_truth():
    # the last draws what comes of a deployed policy, as the log is drawn
    allowed = {"world_truth.py", "world_laws.py", "world_sessions.py", "world_deployed.py"}
    for path in (ROOT / "recsysml").rglob("*.py"):
        if path.name in allowed or path.parent.name == "evals":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            assert not any(name.endswith(("world_truth", "world_laws")) for name in names), path
            assert "world_deployed" not in names or path.name == "feedback_loop.py", path
            # what the world keeps to itself, and what gives it away beside the log, are for the log alone
            hidden = isinstance(node, ast.Attribute) and node.attr == "_latent"
            hidden |= isinstance(node, ast.ImportFrom) and "simulate" in names and "sessions" in (node.module or "")
            assert not hidden or path.name == "world_log.py", path


def test_popularity_is_as_skewed_and_sessions_as_long_as_docs_say():
    """Beside KuaiRand's, whose figures are docs': the Gini index by its definition, over all pairs of items."""
    lines = (ROOT / "docs" / "world.md").read_text().splitlines()
    table = {cells[1].strip(): cells[2:4] for cells in (line.split("|") for line in lines) if len(cells) > 3}
    parts = list(world_log.open_world(WorldConfig()))
    items = np.concatenate([shown.items for _, shown in parts])
    counts = np.sort(np.unique(items, return_counts=True)[1])[::-1]
    gini = np.abs(counts[:, None] - counts).mean() / (2 * counts.mean())
    tops = [counts[: len(counts) // part].sum() / counts.sum() for part in (100, 10)]
    ours, theirs = table["shown: Gini, top 1%, top 10%"]
    assert ours.strip() == f"{gini:.2f}, {tops[0]:.0%}, {tops[1]:.0%}"
    assert float(theirs.split(",")[0]) == pytest.approx(gini, abs=0.03)
    clicks = np.concatenate([shown.click for _, shown in parts])
    assert table["click rate"][0].strip() == f"{clicks.mean():.3f}"
    _, events = np.unique(
        np.concatenate([asked.sessions[shown.requests] for asked, shown in parts]), return_counts=True
    )
    mean, *rest = map(float, table["session: mean, 50%, 90%, 99%"][0].split(","))
    assert mean == pytest.approx(events.mean(), rel=0.05)  # docs cut sessions at pauses, as KuaiRand's have to be
    assert rest == pytest.approx(np.percentile(events, (50, 90, 99)).tolist(), rel=0.15)
