"""A ranker's logits for rows of a table."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recsysml.data.impression_batches import ImpressionInputs
from recsysml.data.impression_data import ImpressionTable


@torch.no_grad()
def logits(
    model: Any,
    table: ImpressionTable,
    rows: tuple[int, int],
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    placed: bool = True,
    calibrated: bool = True,
) -> np.ndarray:
    """(n, T) float64 of rows from and to, each task's own probability, in float32 whatever the model was trained in.

    placed: at the positions they were shown at; else as if each stood at the top, which is how a served model scores.
    calibrated: mapped as the model's calibration says.
    """
    inputs = ImpressionInputs(table, model.context_length)
    found = []
    for start in range(rows[0], rows[1], batch_size):
        batch = inputs.of(np.arange(start, min(start + batch_size, rows[1])))
        *features, positions, _, _ = (tensor.to(device) for tensor in batch)
        scores = model.joint(model(*features, positions if placed else None))
        found.append((model.calibrated(scores, features[2]) if calibrated else scores).cpu().numpy())
    return np.concatenate(found).astype(np.float64) if found else np.zeros((0, len(model.tasks)))
