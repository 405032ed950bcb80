"""Training of a ranker on impressions: data, model and what a step's loss is, handed to the loop."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recsysml import lazy, plots
from recsysml.data import KINDS as DATA
from recsysml.data.impression_batches import ImpressionBatches
from recsysml.data.impression_data import ImpressionTable
from recsysml.engine import checkpoint, device, seeds, start
from recsysml.engine.device import Machine
from recsysml.engine.distributed import World
from recsysml.engine.loop import Fitted, Task, fit
from recsysml.errors import ConfigError
from recsysml.evals import ranking as evals
from recsysml.losses.tasks import task_losses
from recsysml.ranking.opening import build, metadata
from recsysml.ranking.scoring import logits
from recsysml.schemas.run import RunConfig

logger = logging.getLogger("recsysml")


def train(config: RunConfig, run: Any) -> None:
    """Train, keep the best weights by validation, judge val and test once with them beside the baselines.

    `config` is resolved (no `auto`). A run directory with checkpoints is resumed from its newest whole one. Under
    torchrun every process calls this; `run` is None in all but the main one.
    """
    with start.training(config) as (machine, world):
        _train(config, run, machine, world)


def _train(config: RunConfig, run: Any, machine: Machine, world: World) -> None:
    settings = config.trainer
    with world.main_first():
        table: ImpressionTable = lazy.resolve(f"{DATA[config.data.kind]}:load_impressions")(config.data)
    seeds.seed_everything(config.seed)
    model = build(config.model, table.shape).to(machine.device)
    if settings.compile and model.task_weights.needs_norms:
        raise ConfigError("model.weighting=gradnorm looks into the backward pass: it needs trainer.compile=false.")
    folder = Path(world.share(str(run.path) if world.main else "")) / "checkpoints"
    resume = checkpoint.latest_good(folder)
    if world.rank:
        seeds.seed_everything(config.seed + world.rank)  # every process its own dropout

    parameters = sum(p.numel() for p in model.parameters())
    learnt = table.fitted
    if world.main:
        run.drop_metrics_after(resume.step if resume else -1)
        if resume:
            logger.info("going on from %s", resume.path)
        run.set_data(table.name, table.fingerprint, table.sizes)
        run.set_model(config.model.name, config.model.kind, parameters, parameters)
        run.set_protocol(**evals.protocol(table))
        run.set_environment(machine.describe())
        run.save()
        logger.info(
            "%s: %s parameters on %s, %s, threads: %s; %s impressions of %s to learn from, tasks %s",
            *(config.model.name, f"{parameters:,}", device.device_name(machine.device), machine.precision),
            *(torch.get_num_threads(), f"{learnt[1] - learnt[0]:,}", table.name, ", ".join(model.tasks)),
        )
        if table.fit_range == "train_val":
            logger.warning(
                "data.fit_range=train_val: val is learnt from, so it says nothing; the last weights are used"
            )
    batches = ImpressionBatches(
        table,
        learnt,
        context_length=model.context_length,
        batch_size=settings.batch_size,
        seed=config.seed,
        rank=world.rank,
        world_size=world.size,
    )
    columns = [list(table.shape.tasks).index(task) for task in model.tasks]
    step_loss = TaskLoss(model, columns, [table.shape.tasks[task] for task in model.tasks])

    def scored(split: str) -> Any:
        size = config.eval.batch_size
        return logits(model, table, table.bounds[split], batch_size=size, device=machine.device)

    def evaluate(step: int) -> dict[str, float]:
        values = evals.values("val", evals.judge(scored("val"), table, table.bounds["val"], model.tasks), table)
        return {best_by: worst} | values

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
    chosen = "last" if table.fit_range == "train_val" else "best"
    checkpoint.put_weights(model, checkpoint.load_weights(folder / chosen)[0], folder / chosen)
    model.eval()
    simple = evals.baselines(config.eval.baselines, table, ["val", "test"], model.tasks)
    for split in ("val", "test"):
        scores = scored(split)
        judged = evals.judge(scores, table, table.bounds[split], model.tasks)
        evals.record(run, split, scores, judged, simple[split], table, model.tasks)
        logger.info("%s", evals.sentence(split, judged, simple[split]))
    _report(run, fitted, best_by, chosen)


class TaskLoss:
    """The loss of a batch: every task's mean log loss, added up as the model's weighting says."""

    def __init__(self, model: Any, columns: list[int], kinds: list[str]) -> None:
        """columns: of the labels, those of the model's tasks; kinds: binary or real, of each."""
        self.model, self.columns, self.kinds = model, columns, kinds

    def __call__(self, forward: nn.Module, *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """batch: what ImpressionBatches gives -> (what is minimised, the losses to log)."""
        *features, positions, labels = batch
        losses = task_losses(
            forward(*features, positions), labels[:, self.columns], self.kinds, self.model.parents
        )  # (T,)
        weights = self.model.task_weights
        norms = gradient_norms(losses, self.model.mixer.shared_weight()) if weights.needs_norms else None
        named = {f"train/{task}/loss": losses[place] for place, task in enumerate(self.model.tasks)}
        return weights(losses, norms), {"train/loss": losses.mean()} | named


def gradient_norms(losses: Tensor, weight: Tensor) -> Tensor:
    """losses (T,) -> (T,): the norm of each one's gradient at a shared weight."""
    norms = [torch.autograd.grad(loss, weight, retain_graph=True)[0].norm() for loss in losses]
    return torch.stack(norms)


def _report(run: Any, fitted: Fitted, best_by: str, chosen: str) -> None:
    throughput = dict(fitted.throughput)
    logger.info("best weights: step %s of %s by %s", fitted.best_step, fitted.steps, best_by)
    if throughput["value"] is not None:
        run.set_throughput(**throughput)
        memory = throughput["peak_memory_bytes"] / 2**30
        logger.info("%s impressions/s, %.2f GiB at most", f"{throughput['value']:,.0f}", memory)
    run.artifact("checkpoint", f"checkpoints/{chosen}")
    run.artifact("plots", str(plots.loss_plot(run.path).relative_to(run.path)))
