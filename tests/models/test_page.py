"""Slates that explore, vary and mirror, against brute force and known laws, each judged by its own metric."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from recsysml.metrics.page import coverage, intra_list_similarity, miscalibration, shares, slate_regret
from recsysml.models.page import calibrated_slates, gumbel_slates, mmr_slates


def test_gumbel_slates_are_plackett_luce() -> None:
    scores = torch.tensor([[0.3, -0.5, 1.0]], dtype=torch.float64)
    n, temperature = 20_000, 0.7
    slates = gumbel_slates(scores.expand(n, -1), 2, temperature, torch.Generator().manual_seed(0))
    weight = np.exp(scores[0].numpy() / temperature)
    for a, b in itertools.permutations(range(3), 2):
        expected = weight[a] / weight.sum() * weight[b] / (weight.sum() - weight[a])
        seen = ((slates[:, 0] == a) & (slates[:, 1] == b)).double().mean().item()
        assert abs(seen - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


def test_exploration_shows_more_and_costs_regret() -> None:
    torch.manual_seed(0)
    scores = torch.randn(1, 30, dtype=torch.float64).expand(400, -1)
    discounts = 1 / np.log2(np.arange(2, 7))
    rewards = scores.exp().numpy()
    regrets, covered = [], []
    for temperature in (0.0, 0.3, 1.0, 5.0):
        slates = gumbel_slates(scores, 5, temperature, torch.Generator().manual_seed(1)).numpy()
        assert all(len(set(slate)) == 5 for slate in slates.tolist())
        regrets.append(slate_regret(rewards, slates, discounts).mean())
        covered.append(coverage(slates, 30))
    assert regrets[0] == pytest.approx(0, abs=1e-12) and regrets == sorted(regrets)
    assert covered == sorted(covered) and covered[0] == pytest.approx(5 / 30)
    with pytest.raises(ValueError, match="at least 0"):
        gumbel_slates(scores, 5, -1.0, torch.Generator())


def test_regret_is_that_against_the_best_of_all_slates() -> None:
    rng = np.random.default_rng(2)
    rewards, discounts = rng.random((6, 5)), np.array([1.0, 0.6, 0.3])
    slates = rng.permuted(np.tile(np.arange(5), (6, 1)), axis=1)[:, :3]
    found = slate_regret(rewards, slates, discounts)
    for row in range(6):
        worth = {order: rewards[row, list(order)] @ discounts for order in itertools.permutations(range(5), 3)}
        assert found[row] == pytest.approx(1 - worth[tuple(slates[row].tolist())] / max(worth.values()))
    assert (slate_regret(np.zeros((6, 5)), slates, discounts) == 0).all()


@pytest.mark.parametrize("diversity", [0.0, 0.4, 1.0])
def test_mmr_is_a_loop(diversity: float) -> None:
    torch.manual_seed(3)
    scores, vectors = torch.rand(4, 8), torch.randn(4, 8, 3)
    slates = mmr_slates(scores, vectors, 5, diversity)
    for row in range(4):
        chosen: list[int] = []
        for _ in range(5):

            def value(item: int, row: int = row, above: tuple[int, ...] = tuple(chosen)) -> float:
                same = [float(torch.cosine_similarity(vectors[row, item], vectors[row, j], dim=0)) for j in above]
                return (1 - diversity) * float(scores[row, item]) - diversity * max(same, default=0.0)

            chosen.append(max((item for item in range(8) if item not in chosen), key=value))
        assert slates[row].tolist() == chosen


def test_mmr_makes_slates_less_alike() -> None:
    torch.manual_seed(4)
    scores, vectors = torch.rand(60, 20), torch.randn(60, 20, 4)
    found = [
        intra_list_similarity(mmr_slates(scores, vectors, 6, diversity).numpy(), vectors.numpy()).mean()
        for diversity in (0.0, 0.3, 0.7)
    ]
    assert found[0] > found[1] > found[2]
    one = intra_list_similarity(np.array([[0, 1, 2]]), vectors[:1].numpy())[0]
    pairs = [float(torch.cosine_similarity(vectors[0, a], vectors[0, b], dim=0)) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert one == pytest.approx(np.mean(pairs), abs=1e-6)


def test_calibrated_slates_mirror_the_prior() -> None:
    """Seven parts romance and three parts action: the textbook case. By score alone all is romance."""
    torch.manual_seed(5)
    categories = torch.zeros(50, 40, 2, dtype=torch.float64)
    categories[:, :20, 0] = categories[:, 20:, 1] = 1
    scores = torch.rand(50, 40, dtype=torch.float64) + categories[..., 0]
    prior = torch.tensor([0.7, 0.3], dtype=torch.float64).expand(50, -1)
    loss = []
    for weight in (0.0, 0.5, 0.99):
        slates = calibrated_slates(scores, categories, prior, 10, weight).numpy()
        shown = shares(slates, categories.numpy())
        loss.append(miscalibration(prior.numpy(), shown).mean())
    assert loss[0] > loss[1] >= loss[2]
    np.testing.assert_allclose(shown, prior.numpy())
    assert loss[2] == pytest.approx(0, abs=1e-9)
    # within a category it is still the best that are shown
    best = [set(scores[row, :20].topk(7).indices.tolist()) for row in range(50)]
    assert all(set(slates[row][slates[row] < 20].tolist()) == best[row] for row in range(50))


def test_calibrated_slates_without_weight_are_by_score() -> None:
    torch.manual_seed(6)
    scores, categories = torch.rand(3, 7), torch.softmax(torch.randn(3, 7, 4), dim=2)
    slates = calibrated_slates(scores, categories, torch.full((3, 4), 0.25), 7, 0.0)
    assert torch.equal(slates, scores.argsort(dim=1, descending=True))
    expected = miscalibration(np.array([[0.5, 0.5, 0.0]]), np.array([[0.25, 0.25, 0.5]]), 0.0)
    assert expected[0] == pytest.approx(math.log(2))
