"""Slates from scores that look at more than one item at a time: to explore, to vary, to mirror a taste.

Each takes scores (R, M) and gives slates (R, length), columns of the candidates, top first. They go place by place, all
requests at once.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gumbel_slates(scores: Tensor, length: int, temperature: float, generator: torch.Generator) -> Tensor:
    """Slates drawn without replacement with odds exp(score / temperature): a Plackett-Luce policy (Gumbel top-k, Kool
    et al. 2019). temperature 0 is the order of the scores."""
    if temperature < 0:
        raise ValueError(f"temperature={temperature}: it must be at least 0")
    if not temperature:
        return scores.topk(length, dim=1).indices
    uniform = torch.rand(scores.shape, generator=generator, dtype=torch.float64)
    noise = -torch.log(-torch.log(uniform.clamp(min=1e-300)).clamp(min=1e-300))
    return (scores / temperature + noise.to(scores.device)).topk(length, dim=1).indices


def mmr_slates(scores: Tensor, vectors: Tensor, length: int, diversity: float) -> Tensor:
    """Maximal marginal relevance (Carbonell & Goldstein 1998): each place goes to the candidate with the largest
    (1 - diversity) score - diversity x the largest cosine with those above. vectors (R, M, D), diversity in [0, 1]."""
    if not 0 <= diversity <= 1:
        raise ValueError(f"diversity={diversity}: it must lie between 0 and 1")
    unit = torch.nn.functional.normalize(vectors, dim=2)
    rows = torch.arange(len(scores), device=scores.device)
    nearest = torch.zeros_like(scores)
    taken = torch.zeros_like(scores, dtype=torch.bool)
    chosen = []
    for place in range(length):
        value = (1 - diversity) * scores - diversity * nearest
        best = value.masked_fill(taken, -torch.inf).argmax(dim=1)  # (R,)
        chosen.append(best)
        taken[rows, best] = True
        cosine = torch.einsum("rmd,rd->rm", unit, unit[rows, best])
        nearest = cosine if place == 0 else torch.maximum(nearest, cosine)
    return torch.stack(chosen, dim=1)


def calibrated_slates(
    scores: Tensor, categories: Tensor, prior: Tensor, length: int, weight: float, smoothing: float = 0.01
) -> Tensor:
    """Calibrated recommendations (Steck 2018, eq. 6): each place goes to the candidate with the largest
    (1 - weight) x mean score - weight x KL(prior || shares of the slate so far), greedily.

    categories (R, M, G) and prior (R, G) have rows that sum to 1; weight in [0, 1].
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight={weight}: it must lie between 0 and 1")
    rows = torch.arange(len(scores), device=scores.device)
    sums = torch.zeros_like(prior)
    taken = torch.zeros_like(scores, dtype=torch.bool)
    negative_entropy = torch.xlogy(prior, prior).sum(dim=1, keepdim=True)  # (R, 1)
    total = torch.zeros_like(scores[:, :1])
    chosen = []
    for place in range(1, length + 1):
        shown = (sums[:, None] + categories) / place  # (R, M, G) if each candidate were taken next
        mixed = (1 - smoothing) * shown + smoothing * prior[:, None]
        divergence = negative_entropy - torch.xlogy(prior[:, None], mixed).sum(dim=2)  # (R, M)
        value = (1 - weight) * (total + scores) / place - weight * divergence
        best = value.masked_fill(taken, -torch.inf).argmax(dim=1)
        chosen.append(best)
        taken[rows, best] = True
        sums = sums + categories[rows, best]
        total = total + scores[rows, best][:, None]
    return torch.stack(chosen, dim=1)
