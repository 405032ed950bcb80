"""What is added to a ranker's log loss: the weighted losses of its binary tasks, by hand, and nothing at weight 0."""

from types import SimpleNamespace

import pytest
import torch

from recsysml.losses.calibration import bucket_loss, cohort_loss, listwise_loss
from recsysml.ranking.calibration_losses import CalibrationLosses
from recsysml.schemas.trainers import RankingTrainerConfig

MODEL = SimpleNamespace(joint=lambda logits: logits + 0.1, cohort_places=[0, 2], cohort_sizes=[3, 2])
KINDS = ["binary", "real", "binary"]


def batch(seed):
    torch.manual_seed(seed)
    sparse = torch.stack([torch.randint(0, 3, (40,)), torch.zeros(40, dtype=torch.long), torch.randint(0, 2, (40,))], 1)
    return torch.randn(40, 3), torch.randint(0, 2, (40, 3)).float(), sparse, torch.randint(0, 9, (40,))


@pytest.mark.parametrize("seed", [1, 2])
def test_each_is_its_weighted_sum_over_binary_tasks(seed):
    logits, labels, sparse, requests = batch(seed)
    settings = RankingTrainerConfig(bucket_weight=2.0, cohort_weight=3.0, listwise_weight=0.5)
    found = CalibrationLosses(settings, MODEL, KINDS)(logits, labels, sparse, requests)
    z, of_tasks = logits + 0.1, (0, 2)
    assert found["bucket"] == pytest.approx(2 * sum(bucket_loss(z[:, t], labels[:, t]).item() for t in of_tasks))
    assert found["listwise"] == pytest.approx(
        0.5 * sum(listwise_loss(z[:, t], labels[:, t], requests).item() for t in of_tasks)
    )
    cohorts = [
        cohort_loss(z[:, t], labels[:, t], sparse[:, place], size).item()
        for t in of_tasks
        for place, size in ((0, 3), (2, 2))
    ]
    assert found["cohort"] == pytest.approx(3 * sum(cohorts) / 2)


def test_without_weights_there_is_nothing():
    assert CalibrationLosses(RankingTrainerConfig(), MODEL, KINDS)(*batch(0)) == {}
