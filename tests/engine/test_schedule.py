import itertools
import math

import pytest

from recsysml.engine.schedule import learning_rate
from recsysml.errors import ConfigError


def rates(schedule, **changes):
    settings = {"lr": 2.0, "max_steps": 21, "warmup_steps": 5, "min_lr_ratio": 0.1, "decay_fraction": 0.25, **changes}
    return [learning_rate(step, schedule=schedule, **settings) for step in range(settings["max_steps"])]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant"])
def test_warm_up_is_a_line_that_reaches_the_rate(schedule):
    assert rates(schedule)[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_decay_never_rises_and_ends_at_the_floor(schedule):
    values = rates(schedule)
    assert values[-1] == pytest.approx(0.2)
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(values[4:]))


def test_closed_forms():
    # 16 intervals from the peak at update 4 to the end at update 20
    cosine = [0.2 + 1.8 * 0.5 * (1 + math.cos(math.pi * k / 16)) for k in range(17)]
    assert rates("cosine")[4:] == pytest.approx(cosine)
    assert rates("linear")[4:] == pytest.approx([2.0 - 1.8 * k / 16 for k in range(17)])
    # a quarter of 21 steps, rounded, is the last 5 intervals
    assert rates("wsd")[4:16] == pytest.approx([2.0] * 12)
    assert rates("wsd")[15:] == pytest.approx([2.0 - 1.8 * k / 5 for k in range(6)])
    assert rates("constant")[4:] == [2.0] * 17


def test_edges():
    assert learning_rate(0, schedule="cosine", lr=1.0, max_steps=1) == 1.0
    assert rates("cosine", warmup_steps=0)[0] == 2.0
    assert rates("linear", warmup_steps=100)[-1] == pytest.approx(2.0 * 21 / 100)  # never out of warm-up
    with pytest.raises(ConfigError, match="cosine, linear, wsd, constant"):
        learning_rate(0, schedule="cosin", lr=1.0, max_steps=1)
