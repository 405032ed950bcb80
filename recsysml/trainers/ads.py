"""Training of ad placement from a log of decisions: what the loop is to minimise, and what that needs beforehand."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recsysml import lazy, plots
from recsysml.data import KINDS as DATA
from recsysml.data.ads import AdLog
from recsysml.data.row_order import RowOrder
from recsysml.engine import checkpoint, device, seeds, start
from recsysml.engine.device import Machine
from recsysml.engine.distributed import World
from recsysml.engine.loop import Task, fit
from recsysml.engine.schedule import learning_rate
from recsysml.evals import ads as evals
from recsysml.losses import bandit
from recsysml.models.ad_placement import AdPlacement, outcome_network
from recsysml.schemas.run import RunConfig

logger = logging.getLogger("recsysml")


def train(config: RunConfig, run: Any) -> None:
    """Train, keep the weights that are best on val by the method's own loss, judge val and test with them.

    `config` is resolved (no `auto`). A run directory with checkpoints is resumed from its newest whole one. Under
    torchrun every process calls this; `run` is None in all but the main one.
    """
    with start.training(config) as (machine, world):
        _train(config, run, machine, world)


def _train(config: RunConfig, run: Any, machine: Machine, world: World) -> None:
    settings = config.trainer
    log: AdLog = lazy.resolve(f"{DATA[config.data.kind]}:load_ads")(config.data)
    seeds.seed_everything(config.seed)
    model = AdPlacement(config.model, len(log.feature_names), len(log.action_names))
    learner = Learner(model, log, settings, config.seed)
    model.to(machine.device)
    folder = Path(world.share(str(run.path) if world.main else "")) / "checkpoints"
    resume = checkpoint.latest_good(folder)
    parameters = sum(p.numel() for p in model.parameters())
    if world.main:
        run.drop_metrics_after(resume.step if resume else -1)
        if resume:
            logger.info("going on from %s", resume.path)
        run.set_data(log.name, log.fingerprint, log.sizes)
        run.set_model(config.model.name, config.model.kind, parameters, parameters)
        run.set_protocol(**evals.protocol(config.model))
        run.set_environment(machine.describe())
        run.save()
        logger.info(
            "%s: %s, %s parameters on %s; %s sessions of %s to learn from, %s actions",
            *(config.model.name, config.model.method, f"{parameters:,}", device.device_name(machine.device)),
            *(f"{log.sizes['train']:,}", log.name, len(log.action_names)),
        )
        for said in ignored(settings, config.model.method):
            logger.warning("%s", said)
    rows = learner.prepare()

    def evaluate(step: int) -> dict[str, float]:
        return learner.validate() | {"val/policy/snips": evals.from_log(model, log, "val")["snips"].value}

    fitted = fit(
        model,
        Batches(rows, RowOrder(len(rows[0]), settings.batch_size, config.seed, world.rank, world.size)),
        Task(
            loss=learner.loss,
            weight=lambda batch: len(batch[0]),
            evaluate=evaluate,
            unit="sessions/s",
        ),
        settings,
        run,
        machine=machine,
        world=world,
        metadata=metadata(config.model, log),
        resume=resume,
        progress=config.progress,
    )
    if not world.main:
        return
    checkpoint.put_weights(model, checkpoint.load_weights(folder / "best")[0], folder / "best")
    model.eval()
    run.artifact("checkpoint", "checkpoints/best")
    logger.info("best weights: step %s of %s by val/loss", fitted.best_step, fitted.steps)
    if fitted.throughput["value"] is not None:
        run.set_throughput(**fitted.throughput)
    truth = evals.open_truth(config.data)
    for split in ("val", "test"):
        judged = evals.judge(model, log, truth, split)
        evals.record(run, judged)
        logger.info("%s", evals.sentence(judged))
    evals.show(run, model, judged, config.eval.dials)
    run.artifact("plots", str(plots.loss_plot(run.path).relative_to(run.path)))


def ignored(settings: Any, method: str) -> list[str]:
    """Settings of a config of the trainer that a method does not read, a sentence each."""
    names = ("learning",) if method == "reinforce" else ("baseline", "importance_weights", "max_weight")
    changed = [name for name in names if getattr(settings, name) != getattr(type(settings)(), name)]
    return [f"trainer.{name}={getattr(settings, name)} is not read: model.method={method}" for name in changed]


def metadata(config: Any, log: AdLog) -> dict[str, Any]:
    """What the checkpoint says beside the weights: enough to build the model and to see whether a log fits it."""
    described = {"name": config.name, "kind": config.kind, "config": dataclasses.asdict(config)}
    named = {"features": log.feature_names, "actions": log.action_names}
    return {"model": described | named, "data": {"name": log.name, "fingerprint": log.fingerprint}}


class Batches:
    """Map-style batches of rows of tensors (n, ...)."""

    def __init__(self, rows: tuple[Tensor, ...], order: RowOrder) -> None:
        self.rows, self.order = rows, order

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        chosen = torch.from_numpy(self.order(i))
        return tuple(part[chosen] for part in self.rows)


class Learner:
    """What a method learns from the log, and the loss of a batch of it."""

    def __init__(self, model: AdPlacement, log: AdLog, settings: Any, seed: int) -> None:
        self.model, self.settings, self.seed = model, settings, seed
        # the reward's zero is moved for all sessions alike, and revenue is where it shows
        outcomes = np.stack([log.revenue + settings.reward_shift, log.engagement], axis=1)  # (R, 2)
        learnt = log.rows("train")
        features = torch.from_numpy(log.features)
        logged = np.stack([log.revenue, log.engagement], axis=1)
        model.fit_units(features[learnt], torch.from_numpy(logged[learnt]))  # what it says is without the shift
        # in 64 bits up to here: where the zero is must not show in what is rounded
        units = (outcomes - outcomes[learnt].mean(axis=0)) / outcomes[learnt].std(axis=0)
        reward = outcomes[:, 0] + model.dial * model.minute_value * outcomes[:, 1]
        scale, middle = reward[learnt].std(), reward[learnt].mean()
        self.middle = torch.tensor(middle / scale, dtype=torch.float32)
        self.parts = {
            split: (
                features[log.rows(split)],
                torch.from_numpy(log.actions[log.rows(split)]),
                torch.from_numpy(log.propensity[log.rows(split)]).float(),
                torch.from_numpy(units[log.rows(split)]).float(),
                torch.from_numpy((reward[log.rows(split)] - middle) / scale).float(),
            )
            for split in ("train", "val")
        }

    def prepare(self) -> tuple[Tensor, ...]:
        """The training rows: features, targets (n, A, 2) and weights (n, A); of reinforce features, actions,
        propensities and advantages. What these need of other models is learnt here, each from rows of other folds."""
        features, actions, propensity, outcomes, reward = self.parts["train"]
        learning, size = self.settings.learning, self.model.n_actions
        if not self.model.learns_outcomes:
            return features, actions, propensity, self._advantage(reward, self._expected(features, reward))
        predicted = torch.zeros(len(actions), size, 2)
        if learning == "dr":
            weights = bandit.outcome_weights("direct", actions, propensity, size)
            targets = bandit.outcome_targets("direct", actions, propensity, outcomes, predicted)

            def loss(found: Tensor, rows: Tensor) -> Tensor:
                return bandit.outcome_loss(found.view(-1, size, 2), targets[rows], weights[rows])

            predicted = self._cross_fit(features, size * 2, loss).view(-1, size, 2)
        return (
            features,
            bandit.outcome_targets(learning, actions, propensity, outcomes, predicted),
            bandit.outcome_weights(learning, actions, propensity, size),
        )

    def loss(self, forward: nn.Module, *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """batch: rows of what `prepare` gives -> (what is minimised, the losses to log)."""
        features, *rest = batch
        found = forward(features)
        loss = bandit.outcome_loss(found, *rest) if self.model.learns_outcomes else self._reinforce(found, *rest)
        return loss, {"train/loss": loss}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """val/loss: of outcomes the squared error of the actions taken, by their propensities that of all actions; of
        reinforce its own loss, with the mean in place of a learnt baseline."""
        features, actions, propensity, outcomes, reward = (
            part.to(next(self.model.parameters()).device) for part in self.parts["val"]
        )
        found = self.model(features)
        if not self.model.learns_outcomes:
            loss = self._reinforce(found, actions, propensity, self._advantage(reward, torch.zeros_like(reward)))
            return {"val/loss": loss.item()}
        none = torch.zeros_like(found)
        targets = bandit.outcome_targets("ipw", actions, propensity, outcomes, none)
        weights = bandit.outcome_weights("ipw", actions, propensity, self.model.n_actions)
        return {"val/loss": bandit.outcome_loss(found, targets, weights).item()}

    def _reinforce(self, logits: Tensor, actions: Tensor, propensity: Tensor, advantage: Tensor) -> Tensor:
        how = {"weighted": self.settings.importance_weights, "clip": self.settings.max_weight}
        return bandit.reinforce(logits, actions, propensity, advantage, **how)

    def _advantage(self, reward: Tensor, expected: Tensor) -> Tensor:
        """reward and what was expected of it, around the mean, in units of its spread -> what REINFORCE weighs by."""
        return reward + self.middle.to(reward) if self.settings.baseline == "none" else reward - expected

    def _expected(self, features: Tensor, reward: Tensor) -> Tensor:
        """(n,) the reward that is expected of each session, whatever is done in it; 0, the mean, without a model."""
        if self.settings.baseline != "value":
            return torch.zeros_like(reward)
        return self._cross_fit(features, 1, lambda found, rows: ((found[:, 0] - reward[rows]) ** 2).mean())[:, 0]

    def _cross_fit(self, features: Tensor, n_out: int, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """(n, n_out) what networks say of rows that they have not learnt from. loss(found, rows of a batch)."""
        units = (features - self.model.feature_mean.cpu()) / self.model.feature_scale.cpu()
        widths = [layer.out_features for layer in self.model.network if isinstance(layer, nn.Linear)][:-1]
        folds = np.random.default_rng(self.seed).permutation(len(units)) % self.settings.folds
        found = torch.empty(len(units), n_out)
        for fold in range(self.settings.folds):
            logger.info("cross-fitting: part %s of %s", fold + 1, self.settings.folds)
            network = outcome_network(units.shape[1], widths, n_out)
            others = torch.from_numpy(np.flatnonzero(folds != fold))
            self._fit(network, units, others, loss)
            own = torch.from_numpy(np.flatnonzero(folds == fold))
            with torch.no_grad():
                found[own] = network(units[own])
        return found

    def _fit(self, network: nn.Module, units: Tensor, rows: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        """A helper's training: as many passes over its rows as the model itself makes over all of them."""
        how = self.settings
        steps = max(1, round(how.max_steps * len(rows) / len(units)))
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=how.lr, betas=(how.beta1, how.beta2), weight_decay=how.weight_decay
        )
        order = RowOrder(len(rows), how.batch_size, self.seed)
        warmup = min(how.warmup_steps, steps // 10)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    step, schedule=how.schedule, lr=how.lr, max_steps=steps, warmup_steps=warmup,
                    min_lr_ratio=how.min_lr_ratio, decay_fraction=how.decay_fraction,
                )  # fmt: skip
            chosen = rows[torch.from_numpy(order(step))]
            optimizer.zero_grad(set_to_none=True)
            loss(network(units[chosen]), chosen).backward()
            nn.utils.clip_grad_norm_(network.parameters(), how.grad_clip or float("inf"))
            optimizer.step()
