"""Rows of one time, and a split by time that has to begin somewhere among them."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

log = logging.getLogger("recsysml")


# of a split: fewer rows of one time where it begins change nothing that is measured
_FEW = 0.01


def warn_of_ties(name: str, times: np.ndarray, splits: Mapping[str, tuple[int, int]], rows: str) -> None:
    """One line for the splits that begin among rows of one time, which nothing but how they are sorted divides; a
    hundredth of the split, as there may be anywhere in a long log, is not worth it.

    times (N,), rising; splits: name -> its rows, from and to; rows: what they are called.
    """
    torn = {
        split: int(np.searchsorted(times, times[start], "right") - np.searchsorted(times, times[start], "left"))
        for split, (start, stop) in splits.items()
        if 0 < start < stop and times[start - 1] == times[start]
    }
    many = {split: count for split, count in torn.items() if count > _FEW * (splits[split][1] - splits[split][0])}
    if many:
        said = ", ".join(f"{split} begins among {count:,}" for split, count in many.items())
        log.warning(
            "%s: the split by time cuts through %s of one time (%s): on which side each falls says nothing of what came"
            " first",
            *(name, rows, said),
        )
