"""Rows of one time, and a split by time that has to begin somewhere among them."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

log = logging.getLogger("recsysml")


def warn_of_ties(name: str, times: np.ndarray, begins: Mapping[str, int], rows: str) -> None:
    """One line for the splits that begin among rows of one time, which nothing but how they are sorted divides.

    times (N,), rising; begins: split -> its first row; rows: what they are called.
    """
    torn = {
        split: int(np.searchsorted(times, times[at], "right") - np.searchsorted(times, times[at], "left"))
        for split, at in begins.items()
        if 0 < at < len(times) and times[at - 1] == times[at]
    }
    if torn:
        said = ", ".join(f"{split} begins among {count:,}" for split, count in torn.items())
        log.warning(
            "%s: the split by time cuts through %s of one time (%s): on which side each falls says nothing of what came"
            " first",
            *(name, rows, said),
        )
