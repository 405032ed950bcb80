"""Softmax cross-entropy over a sample of the catalogue, corrected for how often each item is drawn.

The full loss of a row is log Z - s(target) with Z = sum over all items of exp(s). A sample in which item j is expected
c(j) times gives Z back without bias when every drawn item counts exp(s) / c, that is: when log c is SUBTRACTED from its
logit (Bengio & Senecal 2008). Popular items are drawn more often than they should count; without the correction a model
is punished for ranking them high.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Candidates(NamedTuple):
    """Items drawn as negatives for all rows of a batch alike."""

    ids: Tensor  # (S,) int64, repeats included
    log_expected: Tensor  # (S,) log of how often the item is expected among the S; +inf takes a place out


def draw(
    n_items: int,
    *,
    uniform: int = 0,
    batch_items: Tensor | None = None,
    in_batch: int = 0,
    probability: Tensor | None = None,
    hard: Tensor | None = None,
) -> Candidates:
    """Candidates from up to three sources at once; an item's expected count is the sum over the sources it may be in.

    uniform: how many to draw evenly, with replacement, from the catalogue. in_batch: how many of the batch's own
    target items `batch_items` (N,) to take, without choosing; probability (n_items,) is how likely a target is each
    item. hard (H,): distinct items that are there for certain, because they score high; they count exactly once,
    whatever else drew them. Draws from torch's global generator. ValueError where nothing is asked for.
    """
    if not uniform and not in_batch and (hard is None or not len(hard)):
        raise ValueError("no candidates: draw some uniformly, from the batch, or give hard ones")
    device = next((t.device for t in (batch_items, probability, hard) if t is not None), torch.device("cpu"))
    parts = [torch.randint(n_items, (uniform,), device=device)]
    if in_batch:
        if batch_items is None or probability is None:
            raise ValueError("in-batch candidates need the batch's items and the probability of each item")
        in_batch = min(in_batch, len(batch_items))
        parts.append(batch_items[torch.randperm(len(batch_items), device=device)[:in_batch]])
    sampled = torch.cat(parts)  # (S - H,)
    expected = torch.full(sampled.shape, uniform / n_items, device=device)
    if in_batch and probability is not None:
        expected = expected + in_batch * probability[sampled]
    log_expected = expected.log()
    if hard is None:
        return Candidates(sampled, log_expected)
    certain = torch.zeros(n_items, dtype=torch.bool, device=device)
    certain[hard] = True
    log_expected = log_expected.masked_fill(certain[sampled], math.inf)
    return Candidates(torch.cat([sampled, hard]), torch.cat([log_expected, log_expected.new_zeros(len(hard))]))


def hardest(queries: Tensor, items: Tensor, n: int) -> Tensor:
    """(n,) the items of (I, C) that score highest with any of the rows (N, C), without gradients."""
    with torch.no_grad():
        return (queries @ items.T).amax(dim=0).topk(min(n, len(items))).indices


def excluded(ids: Tensor, targets: Tensor, known: Tensor | None = None, group: Tensor | None = None) -> Tensor:
    """(N, S) which candidates are no negatives of a row: its own target drawn by accident, and its other positives.

    ids (S,), targets (N,). known (G, P) holds the items known to be liked by each of G groups, a user's rows say,
    padded with a number that is no item; group (N,) is each row's.
    """
    out = ids[None, :] == targets[:, None]
    if known is None or group is None:
        return out
    return out | (ids[None, None, :] == known[:, :, None]).any(dim=1)[group]


def sampled_softmax(
    positive: Tensor,
    negative: Tensor,
    log_expected: Tensor,
    excluded: Tensor,
    *,
    positive_log_expected: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean over rows of log(exp(positive) + sum of exp(negative - log_expected)) - positive: a scalar, in nats.

    positive (N,) logits of the targets; negative (N, S) of the candidates; log_expected (S,); excluded (N, S) takes
    candidates out of a row; weights (N,) are divided by their sum.

    Once the target's accidental draws are excluded it is in the sum exactly once, so its own expected count is 1 and
    there is nothing to correct: the gradient goes to the full softmax's as S grows. `positive_log_expected` (N,)
    corrects it like a drawn item all the same (Jean et al. 2015, Yi et al. 2019): its gradient is another one, which
    weighs rare targets more, but it vanishes at the same model when accidental draws are NOT excluded (Ma & Collins
    2018, theorem 4.1).
    """
    own = positive if positive_log_expected is None else positive - positive_log_expected
    others = (negative - log_expected).masked_fill(excluded, -math.inf)
    losses = torch.cat([own[:, None], others], dim=1).float().logsumexp(dim=1) - own.float()  # (N,)
    return weighted_mean(losses, weights)


def weighted_mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of (N,) losses; with weights (N,), which need not sum to anything, the mean in their proportions."""
    if weights is None:
        return losses.mean()
    return (losses * weights).sum() / weights.sum().clamp(min=torch.finfo(losses.dtype).tiny)
