"""The losses of several tasks on the same rows, each a mean of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def task_losses(logits: Tensor, labels: Tensor, kinds: list[str], parents: dict[int, int]) -> Tensor:
    """logits and labels (B, T) -> (T,): the mean log loss of binary tasks, half the mean square of real ones.

    A task with a parent is judged on the rows where the parent happened, 0 where there is none.
    """
    each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")  # (B, T)
    real = torch.tensor([kind == "real" for kind in kinds], device=logits.device)
    if "real" in kinds:
        each = torch.where(real, 0.5 * (logits - labels) ** 2, each)
    if not parents:
        return each.mean(dim=0)
    columns = [
        labels[:, parents[task]] if task in parents else torch.ones_like(each[:, 0]) for task in range(len(kinds))
    ]
    counted = torch.stack(columns, dim=1)
    return (each * counted).sum(dim=0) / counted.sum(dim=0).clamp(min=1)
