"""Popularity and its decayed form against a count in plain Python."""

import numpy as np
import pytest

from recsysml.models.popularity import Popularity
from recsysml.models.recent_popularity import RecentPopularity
from recsysml.schemas.retrievers import PopularityConfig, RecentPopularityConfig


@pytest.mark.parametrize("seed", range(3))
def test_popularity_counts_events(draw, seed):
    histories = draw(seed)
    model = Popularity(PopularityConfig(), 12)
    model.fit(histories)
    expected = [histories.items.tolist().count(item) for item in range(12)]
    assert model.scores(histories).tolist() == [expected] * 20
    again = Popularity(PopularityConfig(), 12)
    again.restore(model.arrays())
    assert again.scores(histories.part(0, 1)).tolist() == [expected]


@pytest.mark.parametrize("half_life", [0.05, 0.5, 4.0])
def test_recent_popularity_halves_with_every_half_life(draw, half_life):
    histories = draw()
    model = RecentPopularity(RecentPopularityConfig(half_life=half_life), 12)
    model.fit(histories)
    end, span = histories.times.max(), np.ptp(histories.times)
    expected = [0.0] * 12
    for item, time in zip(histories.items, histories.times, strict=True):
        expected[item] += 0.5 ** ((end - time) / (half_life * span))
    assert model.scores(histories)[7] == pytest.approx(np.array(expected), rel=1e-5)


def test_recent_popularity_of_events_at_one_moment_is_popularity(draw):
    histories = draw()
    histories.times[:] = 5.0
    model, plain = RecentPopularity(RecentPopularityConfig(), 12), Popularity(PopularityConfig(), 12)
    model.fit(histories)
    plain.fit(histories)
    assert (model.scores(histories) == plain.scores(histories)).all()
