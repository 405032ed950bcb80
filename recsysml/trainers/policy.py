"""Training of a ranker to earn: the supervised ranker first, then a policy loss over logged slates."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recsysml import lazy, plots
from recsysml.data import KINDS as DATA
from recsysml.data.slate_batches import ShownBatches, ShownItems, SlateBatches
from recsysml.data.slates import LoggedSlates
from recsysml.engine import checkpoint, device, seeds, start
from recsysml.engine.device import Machine
from recsysml.engine.distributed import World
from recsysml.engine.loop import Fitted, Task, fit
from recsysml.errors import ConfigError, DataError
from recsysml.evals import policy as evals
from recsysml.files import write_json
from recsysml.models.policy_ranker import PolicyRanker, checkpoint_folder
from recsysml.ranking import policy_gain
from recsysml.ranking.policies import aligned, build, log_probabilities, metadata, open_policy
from recsysml.ranking.policy_loss import PolicyLoss, clipped_value
from recsysml.ranking.slate_rewards import cross_fit
from recsysml.rows import Rows
from recsysml.runs import read_json
from recsysml.schemas.run import RunConfig

logger = logging.getLogger("recsysml")

# the supervised ranker's log loss is looked at so often, in steps
_LOOK_EVERY = 50


def train(config: RunConfig, run: Any, log: LoggedSlates | None = None) -> None:
    """Train the supervised ranker, from it the policy, keep the best weights by val, judge val and test once.

    `config` is resolved. A run directory with checkpoints is resumed from its newest whole one. Under torchrun every
    process calls this; `run` is None in all but the main one. log: what is learnt from where it is not what
    `config.data` logs, but the same requests answered by another policy.
    """
    with start.training(config) as (machine, world):
        if log is None:
            with world.main_first():
                log = lazy.resolve(f"{DATA[config.data.kind]}:load_slates")(config.data)
        _train(config, run, log, machine, world)


def _train(config: RunConfig, run: Any, log: LoggedSlates, machine: Machine, world: World) -> None:
    how = config.trainer
    rewards = config.model.rewards(config.data)
    if how.anchor == "logging" and how.kl_weight and log.logging is None:
        raise DataError(
            f"trainer.anchor=logging: {log.name} has logged only the probabilities of what was shown; use"
            " trainer.anchor=supervised, or propensities of all candidates."
        )
    seeds.seed_everything(config.seed)
    path = Path(world.share(str(run.path) if world.main else ""))
    folder = path / "checkpoints"
    resume = checkpoint.latest_good(folder)

    shown = ShownItems(log, list(rewards), how.places)
    model = build(config.model, log, rewards, shown.n_places).to(machine.device)
    opened = None
    if config.model.init_from and resume is None:
        log, opened = _opened(config, log, model)
        shown = ShownItems(log, list(rewards), how.places)
    parameters = sum(p.numel() for p in model.parameters())
    if world.main:
        run.drop_metrics_after(resume.step if resume else -1)
        if resume:
            logger.info("going on from %s", resume.path)
        run.set_data(log.name, log.fingerprint, log.sizes)
        run.set_model(config.model.name, config.model.kind, parameters, parameters)
        run.set_protocol(**evals.protocol(log, rewards, config.eval), temperature=config.model.temperature)
        run.set_environment(machine.describe())
        run.save()
        logger.info(
            "%s: %s parameters on %s, %s threads; %s slates of %s to learn from, up to %s candidates, reward %s",
            *(config.model.name, f"{parameters:,}", device.device_name(machine.device), torch.get_num_threads()),
            *(f"{log.fitted[1] - log.fitted[0]:,}", log.name, log.mask.shape[1]),
            " + ".join(f"{weight:g} {task}" for task, weight in rewards.items()),
        )
        for said in ignored(how):
            logger.warning("%s", said)
        if np.ptp(log.rewards(rewards)[slice(*log.fitted)]) == 0:
            logger.warning("all requests of %s to learn from have the same reward: there is nothing to gain", log.name)
    supervised = path / "supervised"
    if opened is None and not (supervised / "best.json").is_file():
        _supervise(config, model, log, shown, supervised, machine, world)
    if opened is None:
        _put_best(model, supervised)
    first = copy.deepcopy(model).eval()
    seeds.seed_everything(config.seed + world.rank)

    everyone = np.arange(len(log))
    size = config.eval.batch_size
    chances = evals.true_chances(config.data)
    before, before_logits = log_probabilities(first, log, everyone, batch_size=size, device=machine.device)
    fitted = None
    if how.policy_loss == "none":
        if world.main:
            described = metadata(config.model, log, model)
            checkpoint.save(folder, 0, checkpoint.weights(model), {}, described, keep=1, is_best=True)
    else:
        fitted = _earn(config, run, path, model, log, before, chances, machine, world, resume)
    if not world.main:
        return
    chosen = "last" if log.fit_range == "train_val" else "best"
    checkpoint.put_weights(model, checkpoint.load_weights(folder / chosen)[0], folder / chosen)
    model.eval()
    after, after_logits = log_probabilities(model, log, everyone, batch_size=size, device=machine.device)
    logits = {"policy": after_logits, "supervised": before_logits}
    _judge(config, run, log, rewards, {"policy": np.exp(after), "supervised": np.exp(before)}, logits, chances)
    run.artifact("checkpoint", f"checkpoints/{chosen}")
    if fitted is not None:
        _report(run, fitted, chosen)


def ignored(how: Any) -> list[str]:
    """Settings of a config of the trainer that others make idle, a sentence each."""
    found = []
    if how.policy_loss == "none" and how.kl_weight:
        found.append(f"trainer.kl_weight={how.kl_weight:g} is not read: trainer.policy_loss=none trains no policy")
    if how.anchor == "logging" and not how.kl_weight:
        found.append("trainer.anchor=logging is not read: trainer.kl_weight is 0")
    return found


def _opened(config: RunConfig, log: LoggedSlates, model: PolicyRanker) -> tuple[LoggedSlates, PolicyRanker]:
    """The log as the run of model.init_from reads it, its weights put into `model`. ConfigError where they differ."""
    folder = checkpoint_folder(config.model.init_from)
    if folder is None:
        raise ConfigError(f"model.init_from={config.model.init_from}: there is no checkpoint any more.")
    opened = open_policy(folder)
    if opened.model.tasks != model.tasks or opened.model.config.hidden != model.config.hidden:
        raise ConfigError(
            f"model.init_from={config.model.init_from}: it has tasks {', '.join(opened.model.tasks)} and hidden layers"
            f" {opened.model.config.hidden}, this model {', '.join(model.tasks)} and {model.config.hidden}."
        )
    log = aligned(log, opened.names)
    worth, temperature = model.worth.clone(), model.temperature.clone()
    checkpoint.put_weights(model, checkpoint.weights(opened.model), folder)
    model.worth.copy_(worth)
    model.temperature.copy_(temperature)
    return log, opened.model


class _Phase:
    """A training within a run, with rows and checkpoints of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.rows = Rows(path / "metrics.jsonl")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.rows.append({"step": step, **values})

    def keep(self, last: int) -> None:
        """Drops the rows after step `last`."""
        self.rows.keep(lambda row: row["step"] <= last)


def _supervise(
    config: RunConfig,
    model: PolicyRanker,
    log: LoggedSlates,
    shown: ShownItems,
    root: Path,
    machine: Machine,
    world: World,
) -> None:
    """Trains the supervised ranker with every learning rate, early-stopped on val, and writes which was best."""
    how = config.trainer
    untrained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    val = shown.within(log.bounds["val"])
    found: list[tuple[float, str]] = []

    def step_loss(forward: nn.Module, *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        *features, places, actions = batch
        logits = model.placed(forward(*features)[:, 0], places)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, actions)
        return loss, {"train/loss": loss}

    @torch.no_grad()
    def evaluate(step: int) -> dict[str, float]:
        total = 0.0
        for part in np.split(val, range(8192, len(val), 8192)):
            batch = (tensor.to(machine.device) for tensor in shown.of(part))
            total += float(step_loss(model, *batch)[0]) * len(part)
        return {"val/loss": total / len(val)}

    for lr in how.supervised_lrs:
        phase = _Phase(root / f"lr-{lr:g}")
        model.load_state_dict(untrained)
        resume = checkpoint.latest_good(phase.path / "checkpoints")
        phase.keep(resume.step if resume else -1)
        batches = ShownBatches(
            shown, shown.within(log.fitted), batch_size=how.batch_size, seed=config.seed, rank=world.rank,
            world_size=world.size,
        )  # fmt: skip
        settings = dataclasses.replace(
            how, lr=lr, max_steps=how.supervised_steps, eval_every=_LOOK_EVERY, checkpoint_every=0, keep_checkpoints=1
        )
        task = Task(loss=step_loss, weight=lambda batch: len(batch[0]), evaluate=evaluate, unit="items/s")
        done = fit(
            model, batches, task, settings, phase, machine=machine, world=world,
            metadata=metadata(config.model, log, model), resume=resume, progress=config.progress,
        )  # fmt: skip
        assert done.best_value is not None
        found.append((done.best_value, phase.path.name))
        if world.main:
            logger.info(
                "supervised, lr %g: log loss on val %.4f at step %s of %s",
                *(lr, done.best_value, done.best_step, done.steps),
            )
    if world.main:
        write_json(root / "best.json", {"folder": min(found)[1], "log_loss": min(found)[0]})
    world.share(0)  # no process reads what the main one is still writing


def _put_best(model: PolicyRanker, root: Path) -> None:
    folder = root / read_json(root / "best.json")["folder"] / "checkpoints" / "best"
    checkpoint.put_weights(model, checkpoint.load_weights(folder)[0], folder)


def _earn(
    config: RunConfig,
    run: Any,
    path: Path,
    model: PolicyRanker,
    log: LoggedSlates,
    before: np.ndarray,
    chances: Mapping[str, np.ndarray] | None,
    machine: Machine,
    world: World,
    resume: Any,
) -> Fitted:
    """Trains the policy in place. path: of the run; before (R, N): the supervised ranker's log probabilities; chances:
    what is true of a simulated world, which is logged to be looked at and has no say in anything."""
    how = config.trainer
    predicted = cross_fit(
        log, model.rewards, hidden=how.reward_model_hidden, dropout=how.reward_model_dropout,
        steps=how.reward_model_steps, folds=how.folds, places=how.places, seed=config.seed,
        share=how.reward_model_share, device=machine.device,
    )  # fmt: skip
    anchor = before
    if how.anchor == "logging" and log.logging is not None:
        anchor = np.where(log.mask, np.log(np.maximum(log.logging, 1e-12)), -np.inf)
    loss = PolicyLoss(model, log, how, predicted, anchor, path / "snapshots", writes=world.main, device=machine.device)
    rows = np.arange(*log.bounds["val"])
    reward = log.rewards(model.rewards)
    columns = [list(log.tasks).index(task) for task in model.tasks]
    labels = log.actions[rows][:, columns].astype(np.float64)
    true = None if chances is None else evals.worth(chances, model.rewards)[rows]

    def evaluate(step: int) -> dict[str, float]:
        now, logits = log_probabilities(model, log, rows, batch_size=config.eval.batch_size, device=machine.device)
        pi = np.exp(now)
        missed = np.logaddexp(0, logits) - labels * logits
        gap = np.subtract(now, before[rows], out=np.zeros_like(now), where=log.mask[rows])
        found = {
            "val/loss": float(missed.mean()),
            "val/policy/clipped_dr": clipped_value(now, log, rows, reward, predicted, how.max_weight),
            "val/policy/dm": float((pi * predicted[rows]).sum(axis=1).mean()),
            "val/policy/kl": float((pi * gap).sum(axis=1).mean()),
        }
        return found if true is None else {**found, "val/policy/value": float((pi * true).sum(axis=1).mean())}

    batches = SlateBatches(
        log, log.fitted, batch_size=how.batch_size, seed=config.seed, tasks=model.tasks, rank=world.rank,
        world_size=world.size,
    )  # fmt: skip
    task = Task(
        loss=loss, weight=lambda batch: len(batch[0]), evaluate=evaluate, best_by="val/policy/clipped_dr",
        higher_is_better=True, unit="slates/s",
    )  # fmt: skip
    return fit(
        model, batches, task, how, run, machine=machine, world=world, metadata=metadata(config.model, log, model),
        resume=resume, progress=config.progress,
    )  # fmt: skip


def _judge(
    config: RunConfig,
    run: Any,
    log: LoggedSlates,
    rewards: dict[str, float],
    policies: dict[str, np.ndarray],
    logits: dict[str, np.ndarray],
    chances: Mapping[str, np.ndarray] | None,
) -> None:
    """Both policies on val and test: off-policy estimates, the truth where it is known, calibration."""
    reward = log.rewards(rewards)
    true = None if chances is None else evals.worth(chances, rewards)
    columns = [list(log.tasks).index(task) for task in rewards]
    for split in ("val", "test"):
        rows = np.arange(*log.bounds[split])
        expected = evals.rewards_expected(log, rows, reward, config.eval, config.seed)
        mask, logged = log.mask[rows], None if log.logging is None else log.logging[rows]
        truth = None if true is None else evals.enumerated(policies["policy"][rows], mask, logged, true[rows])
        judged = evals.judge(log, rows, policies["policy"][rows], reward, expected, config.eval, truth)
        evals.record(run, split, judged, log)
        if chances is None or true is None:
            first = evals.judge(log, rows, policies["supervised"][rows], reward, expected, config.eval)
            evals.record_estimated_value(run, split, judged, first, log)
        else:
            own = {name: pi[rows] for name, pi in policies.items()}
            if logged is not None:
                own["logging"] = logged
            own["uniform"] = mask / mask.sum(axis=1, keepdims=True)
            ids = [str(row) for row in rows]
            policy_gain.record_values(run, split, own, true[rows], mask, ids)
            policy_gain.record_rates(run, split, own, {name: p[rows] for name, p in chances.items()}, ids)
        own_logits = {name: each[rows] for name, each in logits.items()}
        policy_gain.record_calibration(run, split, list(rewards), own_logits, log.actions[rows][:, columns])


def _report(run: Any, fitted: Fitted, chosen: str) -> None:
    throughput = dict(fitted.throughput)
    logger.info("best weights: step %s of %s by val/policy/clipped_dr", fitted.best_step, fitted.steps)
    if throughput["value"] is not None:
        run.set_throughput(**throughput)
        memory = throughput["peak_memory_bytes"] / 2**30
        logger.info("%s slates/s, %.2f GiB at most", f"{throughput['value']:,.0f}", memory)
    run.artifact("plots", str(plots.loss_plot(run.path).relative_to(run.path)))
