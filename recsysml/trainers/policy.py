"""Training of a ranker to earn: the supervised ranker first, then a policy loss over logged slates."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsysml import lazy, plots
from recsysml.data import KINDS as DATA
from recsysml.data.slates import LoggedSlates, warn_of_split
from recsysml.engine import device, start
from recsysml.engine.device import Machine
from recsysml.engine.distributed import World
from recsysml.engine.loop import Fitted
from recsysml.errors import DataError
from recsysml.evals import policy as evals
from recsysml.ranking import policy_gain
from recsysml.ranking.policy_training import begin, learn
from recsysml.schemas.run import RunConfig

logger = logging.getLogger("recsysml")


def train(config: RunConfig, run: Any) -> None:
    """Train the supervised ranker, from it the policy, keep the best weights by val, judge val and test once.

    `config` is resolved. A run directory with checkpoints is resumed from its newest whole one. Under torchrun every
    process calls this; `run` is None in all but the main one.
    """
    with start.training(config) as (machine, world):
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
    path = Path(world.share(str(run.path) if world.main else ""))
    begun = begin(config, path, log, machine, world)
    log = begun.log
    if world.main:
        resume = begun.resume
        run.drop_metrics_after(resume.step if resume else -1)
        if resume:
            logger.info("going on from %s", resume.path)
        run.set_data(log.name, log.fingerprint, log.sizes)
        run.set_model(config.model.name, config.model.kind, begun.parameters, begun.parameters)
        run.set_protocol(**evals.protocol(log, rewards, config.eval), temperature=config.model.temperature)
        run.set_environment(machine.describe())
        run.save()
        logger.info(
            "%s: %s parameters on %s, threads: %s; %s slates of %s to learn from, up to %s candidates, reward %s",
            *(config.model.name, f"{begun.parameters:,}", device.device_name(machine.device), torch.get_num_threads()),
            *(f"{log.fitted[1] - log.fitted[0]:,}", log.name, log.mask.shape[1]),
            " + ".join(f"{weight:g} {task}" for task, weight in rewards.items()),
        )
        warn_of_split(log)
        for said in how.ignored():
            logger.warning("%s", said)
        if np.ptp(log.rewards(rewards)[slice(*log.fitted)]) == 0:
            logger.warning("all requests of %s to learn from have the same reward: there is nothing to gain", log.name)
    chances = evals.true_chances(config.data)
    learnt = learn(config, run, begun, None if chances is None else evals.worth(chances, rewards), machine, world)
    if not world.main:
        return
    policies = {"policy": learnt.policy, "supervised": learnt.supervised}
    _judge(config, run, log, rewards, policies, learnt.logits, chances)
    run.artifact("checkpoint", f"checkpoints/{learnt.chosen}")
    if learnt.fitted is not None:
        _report(run, learnt.fitted, learnt.chosen)


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
