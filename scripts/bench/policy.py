"""What a policy step costs beside the supervised step of the same ranker: 256 slates of 100 candidates, one thread.

    python scripts/bench/policy.py

Both score every candidate of every slate. The supervised step then takes the log loss of all of them, as a ranker that
learns from whole slates does; the policy step that of what was shown, and the policy loss. Steps are interleaved, and
processor time is what counts. Of the losses that look back at a snapshot its refreshing is not in the step: it is one
forward pass over the log in every `trainer.refresh_every` steps.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn

from recsysml.losses import policy as losses
from recsysml.models.policy_ranker import PolicyRanker
from recsysml.schemas.policies import PolicyRankerConfig

SLATES, CANDIDATES, WIDTHS, ROUNDS = 256, 100, (38, 87, 4), 30
REWARDS = {"click": 0.5, "long_view": 1.0, "like": 1.0, "share": 2.0}


class Case:
    """A ranker, slates for it, and its losses."""

    def __init__(self, hidden: list[int]) -> None:
        torch.manual_seed(0)
        self.model = PolicyRanker(PolicyRankerConfig(hidden=hidden), WIDTHS, REWARDS)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.inputs = [torch.randn(SLATES, WIDTHS[0])]
        self.inputs += [torch.randn(SLATES, CANDIDATES, width) for width in WIDTHS[1:]]
        self.mask = torch.rand(SLATES, CANDIDATES) < 0.95
        self.mask[:, 0] = True
        self.shown, self.rows = torch.zeros(SLATES, dtype=torch.long), torch.arange(SLATES)
        self.labels = (torch.rand(SLATES, CANDIDATES, len(REWARDS)) < 0.3).float()
        self.reward, self.propensity = torch.rand(SLATES), torch.rand(SLATES) * 0.1 + 0.01
        self.predicted = torch.rand(SLATES, CANDIDATES)
        with torch.no_grad():
            self.old = self.model.log_policy(self.model(*self.inputs), self.mask)

    def loss(self, kind: str) -> Tensor:
        logits = self.model(*self.inputs)
        bce = nn.functional.binary_cross_entropy_with_logits
        if kind == "supervised":
            return bce(logits, self.labels)
        log_pi = self.model.log_policy(logits, self.mask)
        known = bce(logits[self.rows, self.shown], self.labels[self.rows, self.shown])
        if kind == "ips":
            return known + losses.ips(log_pi, self.shown, self.propensity, self.reward, 3.0)
        if kind == "dr":
            return known + losses.dr(log_pi, self.shown, self.propensity, self.reward, self.predicted, 3.0)
        advantage = losses.advantages(self.reward, self.predicted, self.old.exp())
        return known + losses.ecpo(log_pi, self.shown, self.old, advantage)

    def step(self, kind: str) -> float:
        """Processor seconds of one step."""
        before = time.process_time()
        self.loss(kind).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.process_time() - before


def main() -> None:
    torch.set_num_threads(1)
    kinds = ("supervised", "ips", "dr", "ecpo")
    for hidden in ([], [64]):
        case = Case(hidden)
        for kind in kinds * 3:  # to warm up
            case.step(kind)
        rounds = [[case.step(kind) for kind in kinds] for _ in range(ROUNDS)]
        base, *own = (statistics.median(column) for column in zip(*rounds, strict=True))
        said = [f"{kind} {1e3 * each:.1f} ms, {each / base:.2f}x" for kind, each in zip(kinds[1:], own, strict=True)]
        print(f"hidden {hidden}: supervised {1e3 * base:.1f} ms; {'; '.join(said)}")


if __name__ == "__main__":
    main()
