"""What is added to a ranker's log loss so that its probabilities are right of many rows together."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recsysml.losses.calibration import bucket_loss, cohort_loss, listwise_loss


class CalibrationLosses:
    """The weighted sums over binary tasks, of those losses whose weight is not 0; each a mean over the batch's rows."""

    def __init__(self, settings: Any, model: Any, kinds: list[str]) -> None:
        """settings: bucket_weight, cohort_weight and listwise_weight. kinds: binary or real, of the model's tasks."""
        self.model = model
        self.tasks = [task for task, kind in enumerate(kinds) if kind == "binary"]
        self.weights = {
            "bucket": settings.bucket_weight,
            "cohort": settings.cohort_weight,
            "listwise": settings.listwise_weight,
        }

    def __call__(self, logits: Tensor, labels: Tensor, sparse: Tensor, requests: Tensor) -> dict[str, Tensor]:
        """logits (B, T) as the model's forward gives them, labels (B, T), sparse (B, S), requests (B,)."""
        if not any(self.weights.values()):
            return {}
        z = self.model.joint(logits)
        return {
            name: weight
            * torch.stack([self._one(name, z[:, t], labels[:, t], sparse, requests) for t in self.tasks]).sum()
            for name, weight in self.weights.items()
            if weight
        }

    def _one(self, name: str, z: Tensor, y: Tensor, sparse: Tensor, requests: Tensor) -> Tensor:
        if name == "bucket":
            return bucket_loss(z, y)
        if name == "listwise":
            return listwise_loss(z, y, requests)
        features = zip(self.model.cohort_places, self.model.cohort_sizes, strict=True)
        return torch.stack([cohort_loss(z, y, sparse[:, place], size) for place, size in features]).mean()


def held_out_loss(model: Any, batch: tuple[Tensor, ...], tasks: Tensor) -> Tensor:
    """The log loss of the calibrated probabilities on held-out rows, summed over tasks; only the calibration feels it.

    batch: what ImpressionBatches gives; tasks (T,) bool, those that have a map. The model is in eval mode meanwhile, as
    it is when it serves, and draws nothing at random.
    """
    *features, positions, _, labels = batch
    training = model.training
    model.eval()
    with torch.no_grad():
        z = model.joint(model(*features, positions))  # (B, T)
    model.train(training)
    each = F.binary_cross_entropy_with_logits(model.calibrated(z, features[2]), labels, reduction="none")
    return each[:, tasks].mean(dim=0).sum()
