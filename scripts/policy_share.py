"""How much of what a ranker can gain by learning from true rewards does a policy loss gain from a log? Per seed.

    python scripts/policy_share.py [OVERRIDES] --seeds 8 --losses dr ips_baseline

Of every seed's world and run: the supervised ranker, the same ranker trained further with each policy loss, and with
the exact gradient of the policy's true value on the training requests (same start, steps, batches and learning rate).
share = (value - supervised) / (exact - supervised), true values on the test requests by enumeration. The truth is read
here to be compared with; nothing that trains otherwise sees it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsysml import job
from recsysml.config import compose
from recsysml.data.world_truth import top_rewards
from recsysml.ranking import policy_training as training
from recsysml.ranking.policy_loss import PolicyLoss
from recsysml.results import Run


class ExactLoss(PolicyLoss):
    """The policy loss that nobody can have: minus the true value of the policy."""

    true: np.ndarray

    def _earned(self, log_pi: Tensor, shown: Tensor, rows: Tensor, numbers: Tensor) -> Tensor:
        return -(log_pi.exp() * torch.from_numpy(self.true[rows.numpy()])).sum(dim=1).mean()


def exact_value(log_pi: np.ndarray, log: Any, rows: np.ndarray, *_: Any) -> float:
    """In the place of the estimate that chooses the best weights on val."""
    return float((np.exp(log_pi) * ExactLoss.true[rows]).sum(axis=1).mean())


def trained(overrides: Sequence[str], root: Path, *, exact: bool = False) -> tuple[Path, dict[str, Any]]:
    """A run's folder and its metrics."""
    config = job.resolve(compose(["model=policy_ranker", "tracker.mode=disabled", "progress=never", *overrides]))
    run = Run.create(root, "train", "share", argv=[], config=job.to_dict(config), overrides=list(overrides))
    kept = training.PolicyLoss, training.clipped_value
    if exact:
        ExactLoss.true = top_rewards(config.data, config.model.rewards(config.data)).astype(np.float32)
        training.PolicyLoss, training.clipped_value = ExactLoss, exact_value  # type: ignore[misc,assignment]
    try:
        job.run(config, run)
    finally:
        training.PolicyLoss, training.clipped_value = kept  # type: ignore[misc]
    return run.path, json.loads((run.path / "results.json").read_text())["metrics"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--losses", nargs="+", default=["dr"])
    parser.add_argument("overrides", nargs="*")
    asked = parser.parse_args()
    shares: dict[str, list[float]] = {name: [] for name in asked.losses}
    gains: dict[str, list[float]] = {name: [] for name in asked.losses}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(asked.first, asked.first + asked.seeds):
            common = [f"seed={seed}", f"data.seed={seed}", *asked.overrides]
            start, base = trained([*common, "trainer.policy_loss=none"], Path(folder))
            again = [*common, f"model.init_from={start}"]
            before = base["test/policy/value"]["value"]
            unused = ["trainer.reward_model=trees", "trainer.reward_model_trees=1", "trainer.folds=2"]
            _, best = trained([*again, *unused], Path(folder), exact=True)
            reach = best["test/policy/value"]["value"]
            line = f"seed {seed}: supervised {before:.4f} (greedy {base['test/policy/greedy_value']['value']:.4f})"
            line += f", exact {reach:.4f} (greedy {best['test/policy/greedy_value']['value']:.4f})"
            for name in asked.losses:
                _, own = trained([*again, f"trainer.policy_loss={name}"], Path(folder))
                value = own["test/policy/value"]["value"]
                shares[name].append((value - before) / (reach - before))
                gains[name].append(value - before)
                greedy = own["test/policy/greedy_value"]["value"]
                line += f"; {name} {value:.4f} (greedy {greedy:.4f}) share {shares[name][-1]:.3f}"
            print(line, flush=True)
    for name, found in shares.items():
        print(f"{name}: share {np.mean(found):.3f}, least {min(found):.3f}; least gain {min(gains[name]):+.4f}")


if __name__ == "__main__":
    main()
