"""Whole pages from what items are worth: in the order of it, or explored, varied, or true to the user's taste."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recsysml.data.world_candidates import Candidates
from recsysml.models.page import calibrated_slates, gumbel_slates, mmr_slates
from recsysml.models.value_model import ValueModel
from recsysml.ranking.task_probabilities import Probabilities


def worth(model: ValueModel, probabilities: Probabilities, candidates: Candidates) -> np.ndarray:
    """(R, M) what pages are ordered by: of every candidate, by the tasks' probabilities as if it were at the top."""
    found = probabilities(candidates.table, (0, candidates.items.size))
    return model.slate_values(found.reshape(*candidates.items.shape, -1), candidates.offered)


def make_pages(name: str, values: np.ndarray, candidates: Candidates, how: Any, seed: int) -> np.ndarray:
    """(R, how.length) columns of the candidates, top first. name: order, gumbel, mmr or calibrated; values (R, M).

    how: the eval's config; its knobs weigh against values in units of their standard deviation over all candidates.
    """
    offered = candidates.offered
    scores = (values - values[offered].mean()) / max(float(values[offered].std()), 1e-12)
    if name == "order":
        return candidates.slates(scores, how.length)
    # what is no candidate: so low that nothing makes up for it, and finite, as weights of 0 must not make it NaN
    scores = torch.from_numpy(np.where(offered, scores, -1e9))
    if name == "gumbel":
        made = gumbel_slates(scores, how.length, how.temperature, torch.Generator().manual_seed(seed))
    elif name == "mmr":
        made = mmr_slates(scores, torch.from_numpy(candidates.vectors).double(), how.length, how.diversity)
    else:
        categories, taste = torch.from_numpy(candidates.categories), torch.from_numpy(candidates.taste)
        made = calibrated_slates(scores, categories, taste, how.length, how.calibration)
    return made.numpy()
