"""What is drawn anew for each epoch, such as the order of its rows, shared by the threads that read batches."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

Drawn = TypeVar("Drawn")

# a batch may reach into the next epoch, and a thread be a batch behind another
_KEPT = 2


class Epochs(Generic[Drawn]):
    """`epochs[i]` is `draw(i)`. One thread draws while the others wait for it; the two drawn last are kept."""

    def __init__(self, draw: Callable[[int], Drawn]) -> None:
        """draw: the same for the same epoch, whenever it is called."""
        self._draw = draw
        self._drawn: dict[int, Drawn] = {}
        self._lock = Lock()

    def __getitem__(self, epoch: int) -> Drawn:
        with self._lock:
            if epoch not in self._drawn:
                self._drawn[epoch] = self._draw(epoch)
                for old in list(self._drawn)[:-_KEPT]:
                    del self._drawn[old]
            return self._drawn[epoch]
