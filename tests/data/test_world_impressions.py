"""The world's log as impressions: every event once, and nothing of a row's own slate among its inputs."""

import dataclasses

import numpy as np
import pytest

from recsysml.data import world, world_log
from recsysml.data.world_impressions import read
from recsysml.errors import ConfigError
from recsysml.schemas.data import WorldConfig


def small(seed=1, **changes):
    return WorldConfig(**{"users": 60, "items": 150, "events": 3000, "seed": seed} | changes)


@pytest.mark.parametrize("seed", [1, 2])
def test_every_impression_is_a_row_with_its_labels(seed):
    config = small(seed)
    opened = world_log.open_world(config)
    raw = read(config, opened)
    parts = list(opened)
    for name in config.task_types():
        assert raw.labels[name].sum() == sum(int(getattr(shown, name).sum()) for _, shown in parts)
    assert len(raw.requests) == 3000
    shown = {}
    for requests, part in parts:
        places = zip(requests.ids[part.requests].tolist(), part.positions.tolist(), strict=True)
        shown |= dict(zip(places, part.items.tolist(), strict=True))
    for row in range(0, 3000, 7):
        assert shown[raw.requests[row].item(), raw.positions[row].item()] == int(raw.sparse["item"][row])
    changes = raw.requests[1:] != raw.requests[:-1]
    assert changes.sum() + 1 == len(np.unique(raw.requests))  # a request's rows stand side by side
    assert (np.diff(raw.times) >= 0).all()


def test_a_row_knows_nothing_of_its_own_request():
    config = small(3)
    opened = world_log.open_world(config)
    raw = read(config, opened)
    users = raw.sparse["user"].cast(int).to_numpy()
    parts = [shown for _, shown in opened]
    event_users = np.concatenate([part.users for part in parts])
    event_times = np.concatenate([part.times for part in parts])
    event_items = np.concatenate([part.items for part in parts])
    items = raw.history["past_item"].cast(int).to_numpy()
    for row in range(0, 3000, 11):
        before = (event_users == users[row]) & (event_times < raw.times[row])
        order = np.argsort(event_times[before], kind="stable")
        assert items[raw.history_starts[row] : raw.history_stops[row]].tolist() == event_items[before][order].tolist()
    same = raw.requests[1:] == raw.requests[:-1]
    assert (raw.history_stops[1:] == raw.history_stops[:-1])[same].all()


def test_no_input_is_an_outcome():
    """Of each input no single column tells a label apart, as an outcome would."""
    table = world.load_impressions(small(4, events=4000))
    assert set(table.shape.tasks) == {"click", "long_view", "like", "share", "skip", "leave"}
    assert not set(table.shape.tasks) & {*table.shape.dense, *table.shape.sparse, *table.shape.bags}
    for column in [*table.dense.T, *table.sparse.T]:
        assert abs(np.corrcoef(column, table.labels[:, 0])[0, 1]) < 0.4 or np.std(column) == 0


def test_the_same_config_gives_the_same_table_and_another_split_is_refused():
    assert world.load_impressions(small()).fingerprint == world.load_impressions(small()).fingerprint
    assert world.load_impressions(small()).fingerprint != world.load_impressions(small(2)).fingerprint
    with pytest.raises(ConfigError, match=r"use data\.split=time"):
        world.load_impressions(small(split="last_out"))


@pytest.mark.parametrize(("seed", "pays", "after"), [(5, None, None), (6, "click", None), (7, None, "long_view")])
def test_later_labels_are_what_the_rest_of_the_session_brought(seed, pays, after):
    asked = {"retention": ["conversions", "items"], "retention_discount": 0.8}
    config = small(seed, **asked, retention_pays=pays, retention_after=after)
    opened = world_log.open_world(config)
    raw = read(config, opened)
    events = {}  # session -> (time, request, position, conversions, pays, is paid)
    for requests, shown in opened:
        for row, at in enumerate(shown.requests):
            done = (
                int(shown.like[row]) + int(shown.share[row]),
                getattr(shown, pays)[row] if pays else True,
                getattr(shown, after)[row] if after else True,
            )
            place = (shown.times[row], requests.ids[at].item(), shown.positions[row].item())
            events.setdefault(requests.sessions[at].item(), []).append((*place, *done))
    expected = {}
    for session in events.values():
        session.sort()
        for i, (_, request, position, _, _, paid) in enumerate(session):
            later = [(0.8**k, *event[3:5]) for k, event in enumerate(session[i + 1 :], start=1)]
            sums = [sum(w * own for w, own, counts in later if counts), sum(w for w, _, counts in later if counts)]
            expected[request, position] = sums if paid else [0.0, 0.0]
    wanted = np.array([expected[key] for key in zip(raw.requests.tolist(), raw.positions.tolist(), strict=True)])
    np.testing.assert_allclose(raw.labels["later_conversions"], wanted[:, 0], atol=1e-9)
    np.testing.assert_allclose(raw.labels["later_items"], wanted[:, 1], atol=1e-9)
    assert wanted.max() > 2
    assert raw.task_types["later_items"] == "real"


@pytest.mark.parametrize("seed", [1, 4])
def test_retention_labels_are_what_the_session_went_on_to_bring(seed):
    """Against a walk through every session of the log, item by item; the other labels stay as they were."""
    config = WorldConfig(users=40, items=120, events=900, seed=seed, retention=["long_view", "items"])
    raw = read(config, world_log.open_world(config))
    plain = read(dataclasses.replace(config, retention=[]), world_log.open_world(config))
    assert list(raw.labels) == list(config.task_types()) and config.task_types()["later_items"] == "real"
    for name, values in plain.labels.items():
        assert np.array_equal(values, raw.labels[name])
    session_of = {}
    for requests, _ in world_log.open_world(config):
        session_of |= dict(zip(requests.ids.tolist(), requests.sessions.tolist(), strict=True))
    sessions = np.array([session_of[request] for request in raw.requests.tolist()])
    for value, of in (("long_view", raw.labels["long_view"]), ("items", np.ones(len(sessions)))):
        for session in np.unique(sessions):
            own = np.flatnonzero(sessions == session)
            own = own[np.lexsort((raw.positions[own], raw.times[own]))]
            for place, row in enumerate(own):
                wanted = sum(0.9 ** (k + 1) * of[later] for k, later in enumerate(own[place + 1 :]))
                assert raw.labels[f"later_{value}"][row] == pytest.approx(wanted, abs=1e-9)
