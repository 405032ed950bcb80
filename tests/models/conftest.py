"""Small random histories that the tests of retrievers share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from recsysml.models.histories import Histories


@pytest.fixture
def draw() -> Callable[..., Histories]:
    """draw(seed): one to eight events of each of 20 users, but user 3 has none; item 11 of 12 never occurs."""

    def drawn(seed: int = 0, n_users: int = 20, n_items: int = 12, longest: int = 8) -> Histories:
        rng = np.random.default_rng(seed)
        lengths = rng.integers(1, longest + 1, n_users)
        lengths[3] = 0
        events = int(lengths.sum())
        times = np.sort(rng.integers(0, 10_000, events)).astype(float)
        users = rng.permutation(np.repeat(np.arange(n_users), lengths))
        return Histories.of_events(users, rng.integers(0, n_items - 1, events), times, np.arange(n_users))

    return drawn


@pytest.fixture
def lists() -> Callable[[Histories], list[list[int]]]:
    """Each row's items as a list."""

    def listed(histories: Histories) -> list[list[int]]:
        bounds = zip(histories.offsets[:-1], histories.offsets[1:], strict=True)
        return [histories.items[a:b].tolist() for a, b in bounds]

    return listed
