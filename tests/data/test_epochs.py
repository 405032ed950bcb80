"""What is drawn once an epoch: by one thread, with the others waiting for it, and not kept for ever."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from recsysml.data.epochs import Epochs


@pytest.mark.parametrize("threads", [2, 8])
def test_one_thread_draws_and_the_others_wait(threads: int) -> None:
    drawn: list[int] = []
    together = Barrier(threads)

    def draw(epoch: int) -> list[int]:
        drawn.append(epoch)
        time.sleep(0.05)  # long enough for every other thread to ask meanwhile
        return [epoch]

    epochs = Epochs(draw)

    def ask(epoch: int) -> list[int]:
        together.wait()
        return epochs[epoch]

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(ask, [3] * threads))
    assert drawn == [3]
    assert all(each is found[0] for each in found)


def test_the_two_drawn_last_are_kept() -> None:
    drawn: list[int] = []

    def draw(epoch: int) -> int:
        drawn.append(epoch)
        return epoch**2

    epochs = Epochs(draw)
    assert [epochs[i] for i in (0, 1, 0, 1, 2, 1, 2, 0)] == [0, 1, 0, 1, 4, 1, 4, 0]
    assert drawn == [0, 1, 2, 0]


def test_an_epoch_that_failed_is_drawn_again() -> None:
    answers = iter([MemoryError("no room"), 7])

    def draw(epoch: int) -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    epochs = Epochs(draw)
    with pytest.raises(MemoryError):
        epochs[0]
    assert epochs[0] == 7
