"""What lived before a loop is not looked through inside it, and is again afterwards."""

import gc
import weakref

import pytest

from recsysml.engine.garbage import settled


class Ring:
    def __init__(self):
        self.me = self


def test_the_past_is_frozen_inside_and_collected_again_after():
    ring = Ring()
    alive = weakref.ref(ring)
    with settled():
        assert gc.get_freeze_count() > 1000
        del ring
        gc.collect()
        assert alive() is not None
        inside = weakref.ref(Ring())
        gc.collect()
        assert inside() is None  # what comes up in a loop is still cleared
    gc.collect()
    assert alive() is None


def test_it_ends_with_an_error_too():
    def interrupted():
        with settled():
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        interrupted()
    assert gc.get_freeze_count() == 0
