"""What learning a policy from one log is: the supervised ranker first, from it the policy, in one folder."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recsysml.data.slate_batches import ShownBatches, ShownItems, SlateBatches
from recsysml.data.slates import LoggedSlates
from recsysml.engine import checkpoint, seeds
from recsysml.engine.checkpoint import Checkpoint
from recsysml.engine.device import Machine
from recsysml.engine.distributed import World
from recsysml.engine.loop import Fitted, Task, fit, over
from recsysml.errors import ConfigError
from recsysml.files import write_json
from recsysml.models.policy_ranker import PolicyRanker, checkpoint_folder
from recsysml.ranking.policies import aligned, build, log_probabilities, metadata, open_policy
from recsysml.ranking.policy_loss import PolicyLoss, clipped_value
from recsysml.ranking.slate_rewards import cross_fit
from recsysml.rows import Rows
from recsysml.runs import read_json
from recsysml.schemas.run import RunConfig

logger = logging.getLogger("recsysml")

# the supervised ranker's log loss is looked at so often, in steps
_LOOK_EVERY = 50


@dataclass(frozen=True)
class Begun:
    """An untrained policy, or that of model.init_from, and what it will learn from; `path` holds its checkpoints."""

    path: Path
    log: LoggedSlates  # with the columns that the policy reads
    shown: ShownItems
    model: PolicyRanker
    resume: Checkpoint | None

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())


@dataclass(frozen=True)
class Learnt:
    """A policy and the supervised ranker that it started from, on all requests of the log."""

    model: PolicyRanker
    log: LoggedSlates  # as the policy reads it
    policy: np.ndarray  # (R, N) probabilities
    supervised: np.ndarray  # (R, N)
    logits: dict[str, np.ndarray]  # `policy` and `supervised` -> (R, T) of the item on top
    chosen: str  # the folder below `checkpoints` whose weights are kept: best, or last
    fitted: Fitted | None  # None where no policy was trained


def begin(config: RunConfig, path: Path, log: LoggedSlates, machine: Machine, world: World) -> Begun:
    """What stands before the first step. `config` is resolved; a folder with checkpoints is gone on with.

    The weights of model.init_from are kept in the folder, in the place of a supervised ranker's: a run that goes on
    starts from these, whatever has become of the others.
    """
    seeds.seed_everything(config.seed)
    rewards, places = config.model.rewards(config.data), config.trainer.places
    supervised = path / "supervised"
    started = world.share((supervised / "best.json").is_file())
    opened = None
    if config.model.init_from:
        opened = open_policy(_best_of(supervised) if started else _initial(config))
        log = aligned(log, opened.names)
    shown = ShownItems(log, list(rewards), places)
    model = build(config.model, log, rewards, shown.n_places)
    if opened is not None and not started:
        _put_opened(config, model, opened.model)
        if world.main:
            root, described = supervised / "opened" / "checkpoints", metadata(config.model, log, model)
            checkpoint.save(root, 0, checkpoint.weights(model), {}, described, keep=1, is_best=True)
            write_json(supervised / "best.json", {"folder": "opened"})
    resume = checkpoint.latest_good(path / "checkpoints")
    world.share(0)  # no process reads what the main one is still writing, nor has it written what all have to find
    return Begun(path, log, shown, model.to(machine.device), resume)


def learn(
    config: RunConfig, record: Any, begun: Begun, true: np.ndarray | None, machine: Machine, world: World
) -> Learnt:
    """The supervised ranker, then the policy, the best weights by val. record: of its rows, a Run or a Phase; true
    (R, N): the expected rewards of a simulated world, which are logged to be looked at and have no say in anything."""
    path, log, model = begun.path, begun.log, begun.model
    folder = path / "checkpoints"
    supervised = path / "supervised"
    if not (supervised / "best.json").is_file():
        _supervise(config, model, log, begun.shown, supervised, machine, world)
    best = _best_of(supervised)
    checkpoint.put_weights(model, checkpoint.load_weights(best)[0], best)
    first = copy.deepcopy(model).eval()
    seeds.seed_everything(config.seed + world.rank)

    everyone, size = np.arange(len(log)), config.eval.batch_size
    before, before_logits = log_probabilities(first, log, everyone, batch_size=size, device=machine.device)
    fitted = None
    if config.trainer.policy_loss == "none":
        if world.main:
            described = metadata(config.model, log, model)
            checkpoint.save(folder, 0, checkpoint.weights(model), {}, described, keep=1, is_best=True)
    else:
        fitted = _earn(config, record, path, model, log, before, true, machine, world, begun.resume)
    world.share(0)  # no process reads what the main one is still writing
    chosen = "last" if log.fit_range == "train_val" else "best"
    checkpoint.put_weights(model, checkpoint.load_weights(folder / chosen)[0], folder / chosen)
    model.eval()
    after, after_logits = log_probabilities(model, log, everyone, batch_size=size, device=machine.device)
    logits = {"policy": after_logits, "supervised": before_logits}
    return Learnt(model, log, np.exp(after), np.exp(before), logits, chosen, fitted)


def _initial(config: RunConfig) -> Path:
    """The checkpoint of model.init_from, which may have gone since the config was checked."""
    folder = checkpoint_folder(config.model.init_from)
    if folder is None:
        raise ConfigError(f"model.init_from={config.model.init_from}: there is no checkpoint any more.")
    return folder


def _put_opened(config: RunConfig, model: PolicyRanker, opened: PolicyRanker) -> None:
    """Into `model` what the other has learnt; what is paid, and how sharply it chooses, stay its own.

    ConfigError where they differ. A log of other places has other costs of them, which nothing after this reads."""
    if opened.tasks != model.tasks or opened.config.hidden != model.config.hidden:
        raise ConfigError(
            f"model.init_from={config.model.init_from}: it has tasks {', '.join(opened.tasks)} and hidden layers"
            f" {opened.config.hidden}, this model {', '.join(model.tasks)} and {model.config.hidden}."
        )
    own = {name: tensor.clone() for name, tensor in checkpoint.weights(model).items()}
    common = min(len(model.places), len(opened.places))
    own["places"][:common] = opened.places.detach()[:common]
    kept = {name: own[name] for name in ("worth", "temperature", "places")}
    checkpoint.put_weights(model, checkpoint.weights(opened) | kept, Path(config.model.init_from))


def _best_of(supervised: Path) -> Path:
    """The folder of the weights that policies start from."""
    return supervised / read_json(supervised / "best.json")["folder"] / "checkpoints" / "best"


class Phase:
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
        phase = Phase(root / f"lr-{lr:g}")
        model.load_state_dict(untrained)
        resume = checkpoint.latest_good(phase.path / "checkpoints")
        if world.main:
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


def _earn(
    config: RunConfig,
    run: Any,
    path: Path,
    model: PolicyRanker,
    log: LoggedSlates,
    before: np.ndarray,
    true: np.ndarray | None,
    machine: Machine,
    world: World,
    resume: Checkpoint | None,
) -> Fitted:
    """Trains the policy in place. path: of the run; before (R, N): the supervised ranker's log probabilities; true: as
    in `learn`."""
    how = config.trainer
    if resume is not None and over(how, resume.step, resume.state["best_step"]):
        predicted = np.zeros(log.mask.shape, np.float32)  # no step is left that would read it
    else:
        predicted = cross_fit(
            log, model.rewards, kind=how.reward_model, trees=how.reward_model_trees, hidden=how.reward_model_hidden,
            dropout=how.reward_model_dropout, steps=how.reward_model_steps, folds=how.folds, places=how.places,
            seed=config.seed, share=how.reward_model_share, device=machine.device,
        )  # fmt: skip
    anchor = before
    if how.anchor == "logging" and log.logging is not None:
        anchor = np.where(log.mask, np.log(np.maximum(log.logging, 1e-12)), -np.inf)
    loss = PolicyLoss(model, log, how, predicted, anchor, path / "snapshots", writes=world.main, device=machine.device)
    rows = np.arange(*log.bounds["val"])
    reward = log.rewards(model.rewards)
    columns = [list(log.tasks).index(task) for task in model.tasks]
    labels = log.actions[rows][:, columns].astype(np.float64)

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
        return found if true is None else {**found, "val/policy/value": float((pi * true[rows]).sum(axis=1).mean())}

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
