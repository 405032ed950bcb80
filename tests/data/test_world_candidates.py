"""Candidates as rankers take them: what was shown has the inputs of its impression, all else is the world's."""

import numpy as np
import pytest

from recsysml.data import world, world_log, world_truth
from recsysml.schemas.data import WorldConfig

CONFIG = {"users": 80, "items": 200, "events": 4000}


@pytest.fixture(params=[1, 2])
def pair(request):
    config = WorldConfig(**CONFIG, seed=request.param)
    table = world.load_impressions(config)
    return config, table, world.load_candidates(config, table.encoder, split="test", limit=60, length=8)


def test_what_was_shown_is_encoded_as_its_impression_is(pair):
    _, table, candidates = pair
    found = 0
    start, stop = table.bounds["test"]
    target = list(table.shape.sparse).index("item")
    for place, request in enumerate(candidates.requests):
        rows = start + np.flatnonzero(table.requests[start:stop] == request)
        for row in rows:
            column = candidates.logged[place, table.positions[row]]
            other = place * candidates.items.shape[1] + column
            assert candidates.table.sparse[other, target] == table.sparse[row, target]
            np.testing.assert_array_equal(candidates.table.sparse[other], table.sparse[row])
            np.testing.assert_array_equal(candidates.table.dense[other], table.dense[row])
            mine = candidates.table.history.last(np.array([other]), 20)
            np.testing.assert_array_equal(mine, table.history.last(np.array([row]), 20))
            found += 1
    assert found > 100


def test_a_page_holds_candidates_only_each_once_and_by_their_values(pair):
    _, _, candidates = pair
    values = np.random.default_rng(0).normal(size=candidates.items.shape)
    pages = candidates.slates(values, 8)
    assert np.take_along_axis(candidates.offered, pages, axis=1).all()
    for row, page in enumerate(pages):
        wanted = sorted(np.flatnonzero(candidates.offered[row]), key=lambda column: -values[row, column])[:8]
        assert page.tolist() == wanted


def test_taste_is_the_tags_of_what_was_clicked_before(pair):
    config, _, candidates = pair
    opened = world_log.open_world(config)
    features = opened.population.item_features
    asked = {}
    clicks = []
    for requests, shown in opened:
        asked |= dict(zip(requests.ids.tolist(), zip(requests.users, requests.times, strict=True), strict=True))
        clicks += [(shown.users[row], shown.times[row], shown.items[row]) for row in np.flatnonzero(shown.click)]
    first = min(asked[request][1] for request in candidates.requests.tolist())

    def tags(item):
        own = np.zeros(len(features.tag_names))
        names = features.tags[features.tag_offsets[item] : features.tag_offsets[item + 1]]
        own[names] = 1 / len(names)
        return own

    mean = np.mean([tags(item) for _, time, item in clicks if time < first], axis=0)
    for place in range(0, 60, 7):
        user, time = asked[candidates.requests[place].item()]
        before = [tags(item) for who, when, item in clicks if who == user and when < time]
        np.testing.assert_allclose(candidates.taste[place], np.mean([mean, *before], axis=0), atol=1e-9)
    np.testing.assert_allclose(candidates.categories.sum(axis=2), 1)


def test_moments_are_those_of_the_requests_and_outcomes_their_laws(pair):
    config, _, candidates = pair
    truth = world_truth.open_truth(config)
    moment = world_truth.moments_of(truth, candidates.requests)
    items = np.take_along_axis(candidates.items, candidates.logged, axis=1)
    weights = {"click": 1.0, "share": 2.0}
    brought = world_truth.outcome(truth, moment, items, weights)
    laws = {}
    for index, (requests, _) in enumerate(world_log.open_world(config)):
        slate = truth.behind(index).slate
        for row, request in enumerate(requests.ids.tolist()):
            leave = slate.leave[row]
            reward = slate.click[row] * (1 + 2 * slate.share[row])
            there, value = 1.0, 0.0
            for k in range(len(leave)):
                value += there * reward[k]
                there *= 1 - leave[k]
            laws[request] = value, there
    wanted = np.array([laws[request] for request in candidates.requests.tolist()])
    np.testing.assert_allclose(brought.value, wanted[:, 0])
    np.testing.assert_allclose(brought.stays, wanted[:, 1])
    mean_value, mean_stays = wanted.mean(axis=0)
    more = 0.0
    for _ in range(5):  # from the last request to the second
        more = mean_value + 0.8 * mean_stays * more
    np.testing.assert_allclose(brought.session, wanted[:, 0] + 0.8 * wanted[:, 1] * more)
