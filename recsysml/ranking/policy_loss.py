"""What a step of a policy's training minimises: the log loss of what was shown plus a policy loss over the slate."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from recsysml.data.slates import LoggedSlates
from recsysml.engine import checkpoint
from recsysml.errors import JobError
from recsysml.files import write_atomic
from recsysml.losses import policy as losses
from recsysml.models.policy_ranker import PolicyRanker
from recsysml.ranking.policies import log_probabilities


class PolicyLoss:
    """total = log loss + policy_weight x policy loss + kl_weight x KL(policy || anchor), each a mean over requests."""

    def __init__(
        self,
        model: PolicyRanker,
        log: LoggedSlates,
        settings: Any,
        predicted: np.ndarray,
        anchor: np.ndarray,
        folder: Path,
        *,
        writes: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        """predicted (R, N): rewards of a cross-fitted model; anchor (R, N): log probabilities; folder: where snapshots
        of the policy lie, so that a run can go on between two of them; writes: whether this process writes them."""
        self.model, self.log, self.settings, self.folder = model, log, settings, folder
        self.writes, self.device = writes, device
        reward = log.rewards(model.rewards)
        self.mean = float(reward[slice(*log.fitted)].mean())
        self.predicted = torch.from_numpy(predicted).to(device)
        self.anchor = torch.from_numpy(anchor.astype(np.float32)).to(device)
        self.reward = torch.from_numpy(reward.astype(np.float32)).to(device)
        self.propensity = torch.from_numpy(log.propensity.astype(np.float32)).to(device)
        self.snapshot: int | None = None  # the step that `old` is of
        self.old = torch.zeros(0)  # (R,) of what is learnt from: log probabilities (R, N)

    def __call__(
        self,
        forward: nn.Module,
        contexts: Tensor,
        items: Tensor,
        pairs: Tensor,
        mask: Tensor,
        shown: Tensor,
        actions: Tensor,
        rows: Tensor,
        numbers: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What `SlateBatches` gives -> (what is minimised, the values to log)."""
        how = self.settings
        logits = forward(contexts, items, pairs)  # (B, N, T)
        top = self.model.placed(logits[torch.arange(len(shown), device=shown.device), shown], torch.zeros_like(shown))
        supervised = nn.functional.binary_cross_entropy_with_logits(top, actions)
        log_pi = self.model.log_policy(logits, mask)
        earned = self._earned(log_pi, shown, rows, numbers)
        total = supervised + how.policy_weight * earned
        named = {"train/loss": supervised, "train/policy_loss": earned}
        if how.kl_weight:
            named["train/kl"] = losses.kl(log_pi, self.anchor[rows], mask)
            total = total + how.kl_weight * named["train/kl"]
        return total, named

    def _earned(self, log_pi: Tensor, shown: Tensor, rows: Tensor, numbers: Tensor) -> Tensor:
        how, kind = self.settings, self.settings.policy_loss
        reward, propensity = self.reward[rows], self.propensity[rows]
        if kind == "dr":
            return losses.dr(log_pi, shown, propensity, reward, self.predicted[rows], how.max_weight)
        if kind == "dm":
            return losses.dm(log_pi, self.predicted[rows])
        if kind == "snips":
            return losses.snips(log_pi, shown, propensity, reward, how.max_weight)
        if kind in ("ips", "ips_baseline"):
            less = self.mean if kind == "ips_baseline" else 0.0
            return losses.ips(log_pi, shown, propensity, reward - less, how.max_weight)
        self._refresh(int(numbers[0]))
        old = self.old[rows - self.log.fitted[0]]
        advantage = losses.advantages(reward, self.predicted[rows], old.exp())
        weight = old.gather(1, shown[:, None])[:, 0].exp() / propensity
        if how.max_weight:
            weight = weight.clamp(max=how.max_weight)
        if kind == "grpo":
            return losses.grpo(log_pi, shown, old, advantage, weight, how.eps)
        if kind == "ecpo":
            return losses.ecpo(log_pi, shown, old, advantage, weight, how.eps, how.delta)
        if kind == "gbpo":
            return losses.gbpo(log_pi, shown, old, advantage, weight)
        return losses.cispo(log_pi, shown, old, advantage, weight, how.eps)

    def _refresh(self, step: int) -> None:
        """Takes a new snapshot where one is due; between two, after a resume, the old one is read again."""
        due = step - step % self.settings.refresh_every
        if self.snapshot == due:
            return
        file = self.folder / f"step-{due:08d}.safetensors"
        model = copy.deepcopy(self.model).eval()
        if step == due:
            if self.writes:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_atomic(file, safetensors.torch.save(checkpoint.weights(model)))
        else:
            try:
                checkpoint.put_weights(model, safetensors.torch.load_file(file), file)
            except (OSError, safetensors.SafetensorError) as error:
                raise JobError(f"{file}: the snapshot that the run looks back at cannot be read: {error}") from error
        rows = np.arange(*self.log.fitted)
        found, _ = log_probabilities(model, self.log, rows, batch_size=4096, device=self.device)
        self.old, self.snapshot = torch.from_numpy(found.astype(np.float32)).to(self.device), due


def clipped_value(
    log_pi: np.ndarray, log: LoggedSlates, rows: np.ndarray, reward: np.ndarray, predicted: np.ndarray, most: float
) -> float:
    """The doubly robust estimate with weights of at most `most` (0: any): what says which policy is best on val.

    log_pi (B, N) of rows (B,); reward (R,); predicted (R, N). Clipped, it is biased towards the reward model and far
    less noisy, and what it is asked is which of a few near policies is better.
    """
    pi = np.exp(log_pi)
    at = np.arange(len(rows)), log.shown[rows]
    weight = pi[at] / log.propensity[rows]
    if most:
        weight = np.minimum(weight, most)
    q = predicted[rows]
    return float(((pi * q).sum(axis=1) + weight * (reward[rows] - q[at])).mean())
