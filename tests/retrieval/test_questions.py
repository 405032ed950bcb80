"""Questions against a plain Python reading of the same events."""

import numpy as np
import pytest

from recsysml.data.features import no_features
from recsysml.data.interaction_data import Interactions, InteractionSplit
from recsysml.errors import DataError
from recsysml.retrieval.questions import before, questions, training


def made(seed, n_users=15, n_items=25, events=240, cut=(160, 200)):
    """Random events in time order, repeats included, split by time."""
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, n_users, events), rng.integers(0, n_items, events)
    bounds = dict(zip(("train", "val", "test"), ((0, cut[0]), cut, (cut[1], events)), strict=True))
    splits = {
        name: InteractionSplit(users[a:b], items[a:b], np.arange(a, b, dtype=float)) for name, (a, b) in bounds.items()
    }
    ids = [f"u{i:02d}" for i in range(n_users)], [f"i{i:02d}" for i in range(n_items)]
    return Interactions("made", "f" * 64, *ids, splits, no_features(n_users), no_features(n_items))


def events_of(data, user, names):
    return [int(i) for n in names for u, i in zip(data.splits[n].users, data.splits[n].items, strict=True) if u == user]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("split", "known"), [("val", ["train"]), ("test", ["train", "val"])])
@pytest.mark.parametrize("mask_seen", [True, False])
def test_each_user_of_a_split_is_asked_once_for_what_is_new_to_it(seed, split, known, mask_seen):
    data = made(seed)
    asked = questions(data, split, mask_seen=mask_seen)
    rows, dropped = [], 0
    for user in range(15):
        seen = events_of(data, user, known)
        wanted = sorted(set(events_of(data, user, [split])))
        fresh = [item for item in wanted if not (mask_seen and item in seen)]
        dropped += len(wanted) - len(fresh)
        if fresh:
            rows.append((user, seen, fresh))
    assert asked.left_out == dropped
    assert (dropped > 0) == mask_seen
    assert asked.histories.users.tolist() == [user for user, *_ in rows]
    histories = asked.histories
    for r, (_, seen, fresh) in enumerate(rows):
        assert histories.items[histories.offsets[r] : histories.offsets[r + 1]].tolist() == seen
        assert asked.targets[asked.offsets[r] : asked.offsets[r + 1]].tolist() == fresh
        assert asked.targets[asked.rows == r].tolist() == fresh


def test_training_has_a_row_for_every_user_and_nothing_of_later():
    data = made(0)
    found = training(data)
    assert found.users.tolist() == list(range(15))
    assert found.times.max() < data.splits["val"].times.min()
    assert len(found.items) == 160
    assert before(data, "test", np.array([4, 2])).users.tolist() == [4, 2]


def test_a_split_without_anything_new_is_an_error_that_names_it():
    data = made(0, n_items=1)
    with pytest.raises(DataError, match="made: the test split has nothing to ask"):
        questions(data, "test", mask_seen=True)
