"""The losses of several tasks on the same rows, each a mean of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def task_losses(logits: Tensor, labels: Tensor, kinds: list[str], parents: dict[int, int]) -> Tensor:
    """logits and labels (B, T) -> (T,): the mean log loss of binary tasks, half the mean square of real ones.

    A task with a parent counts 0 on rows where the parent did not happen. So the sum over tasks is the mean over rows
    of -log p(what happened), with p(b | a) where a did: a mean over rows however they are cut into batches.
    """
    each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")  # (B, T)
    real = torch.tensor([kind == "real" for kind in kinds], device=logits.device)
    if "real" in kinds:
        each = torch.where(real, 0.5 * (logits - labels) ** 2, each)
    if not parents:
        return each.mean(dim=0)
    everyone = torch.ones_like(labels[:, 0])
    columns = [labels[:, parents[task]] if task in parents else everyone for task in range(len(kinds))]
    return (each * torch.stack(columns, dim=1)).mean(dim=0)
