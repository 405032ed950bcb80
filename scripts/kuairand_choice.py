"""What rows before test say of settings of `experiment=kuairand`; test is not scored.

    python scripts/kuairand_choice.py [--seeds 4,5,6,7,8,9] SETTING...

SETTING is as norm=batch,embedding_std=0.1,dropout=0,lr=5e-3,max_steps=60: fields of the model and of the trainer. Each
ranker learns from the first 60% of the log and is judged on the next 20%, as many rows as test has: AUC of each task,
their mean over long views and entered profiles, by which the peers of `bench/ranking.py` are chosen too, and the mean
NE. With the mean over seeds stands the deviation from seed to seed.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsysml.data import kuairand
from recsysml.data.impression_batches import ImpressionBatches
from recsysml.data.impression_data import CALIBRATION
from recsysml.engine import device, seeds
from recsysml.engine.distributed import World
from recsysml.engine.loop import Task, fit
from recsysml.metrics.ranking import auc, normalised_entropy
from recsysml.ranking.calibration_losses import CalibrationLosses
from recsysml.ranking.opening import build
from recsysml.ranking.scoring import logits
from recsysml.schemas.impressions import KuaiRandConfig
from recsysml.schemas.rankers import MTMLConfig
from recsysml.schemas.trainers import RankingTrainerConfig
from recsysml.trainers.ranking import TaskLoss, rows_together

CHOSEN_BY = ("long_view", "profile_enter")


def setting(words: str) -> tuple[MTMLConfig, RankingTrainerConfig]:
    model: Any = MTMLConfig(history="none", interaction="concat")
    trainer: Any = RankingTrainerConfig(warmup_steps=15, eval_every=0, checkpoint_every=0)
    for word in words.split(","):
        name, value = word.split("=")
        config = model if hasattr(model, name) else trainer
        default = getattr(config, name)
        setattr(config, name, int(value) if default is None else type(default)(value))
    return model, trainer


@dataclass
class Unlogged:
    """In the place of a run: nothing but where its checkpoints go."""

    path: Path

    def log(self, step: int, values: dict[str, float]) -> None:
        pass


def scores(model_config: MTMLConfig, config: RankingTrainerConfig, seed: int, table: Any, machine: Any) -> np.ndarray:
    """(n, T) logits on val and on the rows for calibration, after the steps that `train` would do."""
    seeds.seed_everything(seed)
    model = build(model_config, table.shape)
    drawn = {"batch_size": config.batch_size, "rows_per_user": rows_together(config, model), "seed": seed}
    batches = ImpressionBatches(table, table.fitted, context_length=0, **drawn)
    kinds = ["binary"] * len(model.tasks)
    loss = TaskLoss(model, list(range(len(kinds))), kinds, CalibrationLosses(config, model, kinds))
    # it is judged once, by its last weights, so that nothing is chosen on the way
    task = Task(loss=loss, weight=lambda batch: len(batch[0]), evaluate=lambda step: {"val/loss": 0.0})
    with tempfile.TemporaryDirectory() as folder:
        fit(
            model, batches, task, config, Unlogged(Path(folder)), machine=machine, world=World(), metadata={},
            progress="never",
        )  # fmt: skip
    rows = table.bounds["val"][0], table.bounds[CALIBRATION][1]
    return logits(model.eval(), table, rows, batch_size=4096, calibrated=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+", metavar="SETTING")
    parser.add_argument("--seeds", default="4,5,6,7,8,9")
    arguments = parser.parse_args()
    machine = device.prepare("cpu", device.resolve_precision("auto", "cpu"), threads=1, deterministic=True)
    table = kuairand.load_impressions(KuaiRandConfig(val_fraction=0.2))
    tasks = list(table.shape.tasks)
    y = table.labels[table.bounds["val"][0] : table.bounds[CALIBRATION][1]].astype(np.float64)
    print(f"| setting | {' | '.join(tasks)} | mean of {' and '.join(CHOSEN_BY)} | NE |\n|{' --- |' * (len(tasks) + 3)}")
    for words in arguments.settings:
        found = []
        for seed in map(int, arguments.seeds.split(",")):
            z = scores(*setting(words), seed, table, machine)
            aucs = [auc(z[:, place], y[:, place])[0] for place in range(len(tasks))]
            ne = float(np.mean([normalised_entropy(z[:, place], y[:, place])[0] for place in range(len(tasks))]))
            found.append([*aucs, float(np.mean([aucs[tasks.index(task)] for task in CHOSEN_BY])), ne])
        values = torch.tensor(found)
        spreads = values.std(dim=0) if len(found) > 1 else torch.zeros(values.shape[1])
        cells = [f"{mean:.4f} ± {spread:.4f}" for mean, spread in zip(values.mean(dim=0), spreads, strict=True)]
        print(f"| {words} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
