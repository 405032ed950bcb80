"""Training of a ranker on impressions: data, model and what a step's loss is, handed to the loop."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recsysml import lazy
from recsysml.data import KINDS as DATA
from recsysml.data.impression_batches import BesideHeldOut, ImpressionBatches
from recsysml.data.impression_data import CALIBRATION, ImpressionTable
from recsysml.engine import checkpoint, device, record, seeds, start
from recsysml.engine.device import Machine
from recsysml.engine.distributed import World
from recsysml.engine.loop import Task, fit
from recsysml.evals import ranking as evals
from recsysml.losses.tasks import task_losses
from recsysml.ranking.calibrating import calibrate, calibrated_on, enough, held_out_labels, rows_of_map
from recsysml.ranking.calibration_losses import CalibrationLosses, held_out_loss
from recsysml.ranking.opening import build, metadata
from recsysml.ranking.scoring import logits
from recsysml.schemas.evals import TrueRewardEvalConfig
from recsysml.schemas.run import RunConfig
from recsysml.schemas.trainers import RankingTrainerConfig

logger = logging.getLogger("recsysml")


def train(config: RunConfig, run: Any) -> None:
    """Train, keep the best weights by validation, calibrate them, judge val and test once, beside the baselines.

    `config` is resolved (no `auto`). A run directory with checkpoints is resumed from its newest whole one. Under
    torchrun every process calls this; `run` is None in all but the main one.
    """
    with start.training(config) as (machine, world):
        _train(config, run, machine, world)


def _train(config: RunConfig, run: Any, machine: Machine, world: World) -> None:
    settings = config.trainer
    config.model.check_trainer(settings, world.size)  # a config made in code has passed no check
    record_reward = None
    if isinstance(config.eval, TrueRewardEvalConfig):
        lazy.resolve("recsysml.evals.true_reward:check")(config)
        record_reward = lazy.resolve("recsysml.evals.true_reward:record")
    with world.main_first():
        table: ImpressionTable = lazy.resolve(f"{DATA[config.data.kind]}:load_impressions")(config.data)
    seeds.seed_everything(config.seed)
    model = build(config.model, table.shape).to(machine.device)
    in_model = config.model.calibration_fit == "in_model"
    folder = Path(world.share(str(run.path) if world.main else "")) / "checkpoints"
    resume = checkpoint.latest_good(folder)
    if world.rank:
        seeds.seed_everything(config.seed + world.rank)  # every process its own dropout

    learnt = table.fitted
    if world.main:
        protocol = evals.protocol(table, calibrated_on(config.model))
        parameters = record.begin(run, table, config.model, model, protocol, machine, resume)
        logger.info(
            "%s: %s parameters on %s, %s, threads: %s; %s impressions of %s to learn from, tasks %s",
            *(config.model.name, parameters, device.device_name(machine.device), machine.precision),
            *(torch.get_num_threads(), f"{learnt[1] - learnt[0]:,}", table.name, ", ".join(model.tasks)),
        )
        _warn_of_orphans(model, table)
    drawn = {"context_length": model.context_length, "seed": config.seed}
    batches: Any = ImpressionBatches(
        table,
        learnt,
        **drawn,
        batch_size=settings.batch_size,
        rank=world.rank,
        world_size=world.size,
        by_request=settings.listwise_weight > 0,
        rows_per_user=rows_together(settings, model),
    )
    mapped = None
    if in_model:
        answers = held_out_labels(model, table, table.bounds[CALIBRATION])
        mapped = torch.from_numpy(enough(answers, model.tasks)).to(machine.device)
        # a quarter as many rows: three numbers or so a task are learnt from them, and they cost a third each
        size = settings.grad_accum * max(1, settings.batch_size // (4 * settings.grad_accum))
        batches = BesideHeldOut(batches, ImpressionBatches(table, table.bounds[CALIBRATION], **drawn, batch_size=size))
    columns = [list(table.shape.tasks).index(task) for task in model.tasks]
    kinds = [table.shape.tasks[task] for task in model.tasks]
    step_loss = TaskLoss(model, columns, kinds, CalibrationLosses(settings, model, kinds), mapped)
    how: dict[str, Any] = {"batch_size": config.eval.batch_size, "device": machine.device}

    def evaluate(step: int) -> dict[str, float]:
        scores = logits(model, table, table.bounds["val"], **how, calibrated=False)
        return {best_by: worst} | evals.values(
            "val", evals.judge(scores, table, table.bounds["val"], model.tasks), table
        )

    # real labels alone have neither AUC nor NE
    binary = "binary" in (table.shape.tasks[task] for task in model.tasks)
    best_by = f"val/{settings.best_by if binary else 'loss'}"
    worst = 0.0 if best_by == "val/auc" else math.inf  # of a val in which every answer is the same
    fitted = fit(
        model,
        batches,
        Task(
            loss=step_loss,
            weight=lambda batch: len(batch[0]),
            evaluate=evaluate,
            best_by=best_by,
            higher_is_better=best_by == "val/auc",
            unit="impressions/s",
        ),
        settings,
        run,
        machine=machine,
        world=world,
        metadata=metadata(config.model, table),
        resume=resume,
        progress=config.progress,
    )
    if not world.main:
        return
    chosen = record.put_chosen_back(model, folder, table.fit_range)
    simple = evals.baselines(config.eval.baselines, table, ["val", "test"], model.tasks)
    # val is judged by a map that has not seen it, test by the one that is kept, of twice as many rows
    for split in ("val", "test"):
        if calibrate(model, table, rows_of_map(split, table), **how) and split == "test":
            checkpoint.replace_weights(folder / chosen, checkpoint.weights(model))
        evals.judge_and_record(run, split, model, table, simple[split], **how)
        if record_reward:
            record_reward(run, split, config, model, table, machine)
    record.finish(run, fitted, best_by, chosen)


def rows_together(settings: RankingTrainerConfig, model: Any) -> int:
    """How many rows of a user stay side by side in batches: more than one only where that saves products, which a GPU
    and a compiled step form of all rows (`nn.deduplicated.alike`). A norm over a batch wants rows that lie apart, and
    a batch some thirty users."""
    saves = model.n_shared and not settings.compile and next(model.parameters()).device.type == "cpu"
    by_default = min(16, max(1, settings.batch_size // 32)) if saves and model.config.norm == "none" else 1
    return settings.rows_per_user or by_default


def _warn_of_orphans(model: Any, table: ImpressionTable) -> None:
    """Says where a task happened without the one that it is said not to be without: its probability comes out low."""
    names = list(table.shape.tasks)
    happened = {task: table.labels[slice(*table.fitted), names.index(task)] == 1 for task in model.tasks}
    for place, above in model.parents.items():
        task, parent = model.tasks[place], model.tasks[above]
        orphans = int((happened[task] & ~happened[parent]).sum())
        if orphans:
            logger.warning(
                "model.factorised: %s happened without %s in %s of its %s rows, which p(%s) p(%s | %s) takes for"
                " impossible; leave it out of model.factorised, or mend the labels",
                task, parent, f"{orphans:,}", f"{int(happened[task].sum()):,}", parent, task, parent,
            )  # fmt: skip


class TaskLoss:
    """The loss of a batch: every task's mean log loss, added up as the model's weighting says."""

    def __init__(
        self, model: Any, columns: list[int], kinds: list[str], more: CalibrationLosses, mapped: Tensor | None = None
    ) -> None:
        """columns: of the labels, those of the model's tasks; kinds: binary or real, of each; more: what is added.

        mapped (T,) bool: the tasks whose calibration is trained along, on the second half of a batch's tensors.
        """
        self.model, self.columns, self.kinds, self.more, self.mapped = model, columns, kinds, more, mapped

    def __call__(self, forward: nn.Module, *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """batch: what ImpressionBatches gives, or BesideHeldOut -> (what is minimised, the losses to log)."""
        held_out: tuple[Tensor, ...] = ()
        if self.mapped is not None:
            batch, held_out = batch[: len(batch) // 2], batch[len(batch) // 2 :]
        *features, positions, requests, labels = batch
        logits, labels = forward(*features, positions), labels[:, self.columns]  # (B, T)
        losses = task_losses(logits, labels, self.kinds, self.model.parents)  # (T,)
        added = self.more(logits, labels, features[2], requests)
        weights = self.model.task_weights
        norms = gradient_norms(losses, self.model.mixer.shared_weight()) if weights.needs_norms else None
        named = {f"train/{task}/loss": losses[place] for place, task in enumerate(self.model.tasks)}
        total = weights(losses, norms)
        for name, value in added.items():
            total, named[f"train/{name}"] = total + value, value
        if self.mapped is not None:
            *others, labels = held_out
            value = held_out_loss(self.model, (*others, labels[:, self.columns]), self.mapped)
            total, named["train/calibration"] = total + value, value
        return total, {"train/loss": losses.mean()} | named


def gradient_norms(losses: Tensor, weight: Tensor) -> Tensor:
    """losses (T,) -> (T,): the norm of each one's gradient at a shared weight."""
    norms = [torch.autograd.grad(loss, weight, retain_graph=True)[0].norm() for loss in losses]
    return torch.stack(norms)
