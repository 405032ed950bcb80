"""Losses that make a policy over a slate earn more, from a log of another policy.

pi = softmax over the slate's candidates (masked); rho = pi(shown) / propensity, the LOGGED probability of what was
shown. Every loss is minus a surrogate whose gradient is c A grad log pi(shown), A the reward or an advantage; `c` as a
function of rho is in closed form (`coefficient`), checked by autograd over a grid in tests/losses/test_policy.py.

    ips     c = min(rho, M)            Horvitz-Thompson; Bottou et al. 2013, clipping: Ionides 2008
    snips   c = rho / mean rho         with r - (mean rho r / mean rho) for A; Swaminathan & Joachims 2015
    dr      sum_i pi_i q_i + rho (r - q_shown)   Dudik et al. 2011: unbiased if the propensities or q are right
    dm      sum_i pi_i q_i   the direct method: it believes the reward model, also where that is wrong
    grpo    min(rho A, clip(rho, 1-eps, 1+eps) A), PPO's clip (Schulman et al. 2017) with A normalised within a group
            (Shao et al. 2024, eq. 3)
    ecpo    grpo with pi_old' = max(sg(pi)/(1+eps+delta), pi_old): early clipping of what has grown far (OneRec, Zhou et
            al. 2025). For A < 0: c = min(rho, 1+eps+delta) where rho >= 1-eps, else 0
    gbpo    c = min(rho, 1) for A >= 0, min(rho, pi/(1-pi)) for A < 0: the gradient of a reward's log loss bounds it
            (OneRec-V2, 2025)
    cispo   sg(clip(rho, 0, 1+eps_high)) A log pi: what is clipped still learns (MiniMax-M1, 2025)

In the last four rho is pi/pi_old, of a snapshot that is refreshed on a schedule; a separate clipped weight
pi_old/propensity (`weight`) leads back to the log. With pi_old fixed to the log, grpo and ecpo never leave it.
All losses are means over requests, so that their size does not depend on the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

ON_LOG = ("ips", "snips", "ips_baseline", "dr", "dm")
ON_SNAPSHOT = ("grpo", "ecpo", "gbpo", "cispo")
KINDS = (*ON_LOG, *ON_SNAPSHOT)


def log_policy(scores: Tensor, mask: Tensor) -> Tensor:
    """scores (B, N), mask (B, N) bool -> (B, N) log probability of each candidate on top, -inf outside of mask."""
    return scores.masked_fill(~mask, -torch.inf).log_softmax(dim=1)


def plackett_luce(scores: Tensor, mask: Tensor, slate: Tensor) -> Tensor:
    """(B,) log probability of whole rankings: slate (B, K) columns from the top, -1 where it ends (Plackett 1975)."""
    real = slate >= 0
    chosen = slate.clamp(min=0)
    taken = torch.zeros(*slate.shape, scores.shape[1], dtype=torch.bool, device=scores.device)
    taken.scatter_(2, chosen[..., None], real[..., None])  # (B, K, N): which one each place takes
    before = taken.cumsum(dim=1) - taken.long() > 0
    left = mask[:, None] & ~before  # (B, K, N) candidates of each place
    top = scores.gather(1, chosen)
    total = scores[:, None].masked_fill(~left, -torch.inf).logsumexp(dim=2)
    return torch.where(real, top - torch.where(real, total, 0.0), 0.0).sum(dim=1)


def _shown(log_pi: Tensor, shown: Tensor) -> Tensor:
    return log_pi.gather(1, shown[:, None])[:, 0]


def ips(log_pi: Tensor, shown: Tensor, propensity: Tensor, reward: Tensor, clip: float = 0.0) -> Tensor:
    """-mean rho r. log_pi (B, N); shown (B,) columns; propensity, reward (B,). clip: M, the largest rho; 0 is none.

    A clipped request keeps its gradient, M r grad log pi: with min(rho, M) as it stands it would have none.
    """
    ratio = _ratio(_shown(log_pi, shown), propensity.log())
    if clip:
        ratio = ratio * (clip / ratio.detach()).clamp(max=1.0)
    return -(ratio * reward).mean()


def snips(log_pi: Tensor, shown: Tensor, propensity: Tensor, reward: Tensor, clip: float = 0.0) -> Tensor:
    """-(mean rho r) / (mean rho): shifting every reward by a constant changes nothing that is learnt."""
    ratio = _ratio(_shown(log_pi, shown), propensity.log())
    if clip:
        ratio = ratio * (clip / ratio.detach()).clamp(max=1.0)
    return -(ratio * reward).sum() / ratio.sum().clamp(min=1e-12)


def dr(
    log_pi: Tensor, shown: Tensor, propensity: Tensor, reward: Tensor, predicted: Tensor, clip: float = 0.0
) -> Tensor:
    """-mean(sum_i pi_i q_i + rho (r - q_shown)). predicted (B, N): q, of a model that has not seen these requests."""
    residual = reward - _shown(predicted, shown)
    return dm(log_pi, predicted) + ips(log_pi, shown, propensity, residual, clip)


def dm(log_pi: Tensor, predicted: Tensor) -> Tensor:
    """-mean sum_i pi_i q_i. log_pi, predicted (B, N): q."""
    return -(log_pi.exp() * predicted).sum(dim=1).mean()


def advantages(reward: Tensor, predicted: Tensor, policy: Tensor) -> Tensor:
    """(B,) rewards of what was shown, normalised within their request: minus the mean, over the standard deviation.

    predicted (B, N): rewards; policy (B, N): probabilities of the draws that make up the group. A log shows one item a
    request, which is no group: the whole slate stands for it, each candidate as often as the policy draws it. So the
    advantages of all candidates, weighted like that, sum to 0, and a constant added to rewards and predictions changes
    nothing. Where all candidates are alike the spread counts as 0.01.
    """
    mean = (policy * predicted).sum(dim=1)
    spread = (policy * (predicted - mean[:, None]) ** 2).sum(dim=1).sqrt()
    return (reward - mean) / spread.clamp(min=1e-2)


def grpo(
    log_pi: Tensor, shown: Tensor, log_old: Tensor, advantage: Tensor, weight: Tensor | None = None, eps: float = 0.2
) -> Tensor:
    """-mean min(rho A, clip(rho, 1-eps, 1+eps) A). log_pi, log_old (B, N): of the policy and of its snapshot; advantage
    (B,); weight (B,): pi_old/propensity, clipped, without gradient."""
    ratio = _ratio(_shown(log_pi, shown), _shown(log_old, shown))
    return -_weighted(torch.minimum(ratio * advantage, ratio.clamp(1 - eps, 1 + eps) * advantage), weight)


def ecpo(
    log_pi: Tensor,
    shown: Tensor,
    log_old: Tensor,
    advantage: Tensor,
    weight: Tensor | None = None,
    eps: float = 0.2,
    delta: float = 0.1,
) -> Tensor:
    """grpo against pi_old' = max(sg(pi)/(1+eps+delta), pi_old): a negative advantage pulls no harder than so much."""
    now = _shown(log_pi, shown)
    floor = now.detach() - torch.log1p(torch.tensor(eps + delta))
    ratio = _ratio(now, torch.maximum(floor, _shown(log_old, shown)))
    return -_weighted(torch.minimum(ratio * advantage, ratio.clamp(1 - eps, 1 + eps) * advantage), weight)


def gbpo(log_pi: Tensor, shown: Tensor, log_old: Tensor, advantage: Tensor, weight: Tensor | None = None) -> Tensor:
    """-mean pi/pi_old' A with pi_old' = max(pi_old, sg(pi)) for A >= 0 and max(pi_old, sg(1-pi)) for A < 0."""
    now = _shown(log_pi, shown)
    rest = torch.log1p(-now.detach().exp().clamp(max=1 - 1e-6))
    bound = torch.maximum(_shown(log_old, shown), torch.where(advantage >= 0, now.detach(), rest))
    return -_weighted(_ratio(now, bound) * advantage, weight)


def cispo(
    log_pi: Tensor,
    shown: Tensor,
    log_old: Tensor,
    advantage: Tensor,
    weight: Tensor | None = None,
    eps_high: float = 0.2,
) -> Tensor:
    """-mean sg(clip(rho, 0, 1+eps_high)) A log pi."""
    now = _shown(log_pi, shown)
    ratio = _ratio(now, _shown(log_old, shown)).detach().clamp(max=1 + eps_high)
    return -_weighted(ratio * advantage * now, weight)


def coefficient(
    kind: str, ratio: Tensor, advantage: Tensor, pi: Tensor | None = None, *, eps: float = 0.2, delta: float = 0.1,
    clip: float = 0.0,
) -> Tensor:  # fmt: skip
    """c in c A grad log pi, (B,) of ratios and advantages (B,), in closed form; `pi` (B,) for gbpo alone.

    clip: M of ips. eps: also eps_high of cispo. snips and dr are not of this form for a request alone: their terms are.
    """
    if kind == "ips":
        return ratio.clamp(max=clip) if clip else ratio
    if kind == "grpo":
        stopped = torch.where(advantage >= 0, ratio > 1 + eps, ratio < 1 - eps)
        return torch.where(stopped, 0.0, ratio)
    if kind == "ecpo":
        kept = torch.where(advantage >= 0, ratio <= 1 + eps, ratio >= 1 - eps)
        return torch.where(kept, ratio.clamp(max=1 + eps + delta), 0.0)
    if kind == "gbpo":
        assert pi is not None
        return torch.minimum(ratio, torch.where(advantage >= 0, 1.0, pi / (1 - pi)))
    if kind == "cispo":
        return ratio.clamp(max=1 + eps)
    raise ValueError(f"{kind} has no coefficient of its own: it is one of ips, {', '.join(ON_SNAPSHOT)}")


def kl(log_pi: Tensor, log_anchor: Tensor, mask: Tensor) -> Tensor:
    """Mean over requests of KL(pi || anchor), exact: the sum over the slate. log_pi, log_anchor, mask (B, N)."""
    gap = torch.where(mask, log_pi - log_anchor, 0.0)
    return (torch.where(mask, log_pi, -torch.inf).exp() * gap).sum(dim=1).mean()


def _ratio(now: Tensor, before: Tensor) -> Tensor:
    """pi / before of log probabilities (B,), kept finite."""
    return (now - before).clamp(-30, 30).exp()


def _weighted(surrogate: Tensor, weight: Tensor | None) -> Tensor:
    return (surrogate if weight is None else surrogate * weight).mean()
