"""Training round by round: a policy is deployed in the simulated world, and the next one learns from what it showed.

Round 1 learns from what the world's own policy put on top. Its policy then shows one item at each of the same requests,
drawn by its probabilities, which are logged; the world answers by its laws; and round 2 learns from that log alone.
A row of metrics.jsonl is a round; the rows of a round's own training are in `rounds/<number>/`.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from recsysml import sections
from recsysml.data import world_deployed
from recsysml.data.slates import LoggedSlates
from recsysml.data.world import load_slates
from recsysml.engine import checkpoint, start
from recsysml.engine.device import Machine
from recsysml.engine.distributed import World
from recsysml.evals import policy as evals
from recsysml.metrics.policy import effective_sample_size
from recsysml.ranking import policy_gain
from recsysml.ranking.policies import metadata
from recsysml.ranking.policy_training import Learnt, Phase, begin, learn
from recsysml.schemas.run import RunConfig

logger = logging.getLogger("recsysml")

# what is told of a round, on the test requests
VALUE, GREEDY, ESS, CANDIDATES, ITEMS = "value", "greedy_value", "ess_share", "candidates", "items"
_NOTE = (
    "True values on test, by enumeration. ESS / n: the effective sample size of the policy on the log that it learnt"
    " from; under 10% nothing is to be believed. Candidates, items: exp of the entropy of what is shown, at a request"
    " and over all of them."
)


def train(config: RunConfig, run: Any) -> None:
    """Every round a policy from the log of the one before, each by the same settings; the last one is kept and judged.

    `config` is resolved. A run directory with checkpoints goes on where it was: rounds that are done are not learnt
    again. Under torchrun every process calls this; `run` is None in all but the main one.
    """
    with start.training(config) as (machine, world):
        with world.main_first():
            log = load_slates(config.data)
        _train(config, run, log, machine, world)


def _train(config: RunConfig, run: Any, own: LoggedSlates, machine: Machine, world: World) -> None:
    how, rewards = config.trainer, config.model.rewards(config.data)
    chances = evals.true_chances(config.data)
    assert chances is not None and own.logging is not None
    true = evals.worth(chances, rewards)
    path = Path(world.share(str(run.path) if world.main else ""))
    log = world_deployed.top_alone(own)
    found: list[dict[str, float]] = []
    for number in range(1, how.rounds + 1):
        phase = Phase(path / "rounds" / str(number))
        begun = begin(config, phase.path, log, machine, world)
        if world.main:
            phase.keep(begun.resume.step if begun.resume else -1)
            if number == 1:
                _describe(config, run, own, begun.parameters, machine)
            logger.info("round %s of %s", number, how.rounds)
        learnt = learn(config, phase, begun, true, machine, world)
        found.append(_figures(log, learnt, true))
        if world.main:
            run.log(number, {f"test/policy/{name}": value for name, value in found[-1].items()})
            logger.info("round %s: %s", number, ", ".join(f"{name} {value:.4f}" for name, value in found[-1].items()))
        if number < how.rounds:
            random = np.random.default_rng([config.seed, 11, number])
            log = world_deployed.answered(config.data, own, learnt.policy, random, how.exploration)
    if world.main:
        described = metadata(config.model, learnt.log, learnt.model)
        weights = checkpoint.weights(learnt.model)
        checkpoint.save(path / "checkpoints", how.rounds, weights, {}, described, keep=1, is_best=True)
        run.artifact("checkpoint", "checkpoints/best")
        _judge(run, own, learnt, true)
        _show(run, found)


def _describe(config: RunConfig, run: Any, own: LoggedSlates, parameters: int, machine: Machine) -> None:
    how = config.trainer
    run.drop_metrics_after(0)  # the rounds that are done tell their row again
    run.set_data(own.name, own.fingerprint, own.sizes)
    run.set_model(config.model.name, config.model.kind, parameters, parameters)
    run.set_protocol(
        split="test", candidates="the slate's", rewards=config.model.rewards(config.data), rounds=how.rounds,
        exploration=how.exploration, temperature=config.model.temperature,
    )  # fmt: skip
    run.set_environment(machine.describe())
    run.save()


def _figures(log: LoggedSlates, learnt: Learnt, true: np.ndarray) -> dict[str, float]:
    """Of a round's policy, on the test requests. log: what it has learnt from; true (R, N)."""
    rows = np.arange(*log.bounds["test"])
    pi, mask = learnt.policy[rows], log.mask[rows]
    each = np.arange(len(rows))
    shown = np.bincount(log.candidates[rows][mask], pi[mask], len(log.items)) / len(rows)
    weights = pi[each, log.shown[rows]] / log.propensity[rows]
    return {
        VALUE: float(np.where(mask, pi * true[rows], 0.0).sum(axis=1).mean()),
        GREEDY: float(true[rows][each, pi.argmax(axis=1)].mean()),
        ESS: effective_sample_size(weights) / len(rows),
        CANDIDATES: float(np.exp(_entropy(pi)).mean()),
        ITEMS: float(np.exp(_entropy(shown))),
    }


def _entropy(p: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    return np.asarray(-(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1))


def _judge(run: Any, own: LoggedSlates, learnt: Learnt, true: np.ndarray) -> None:
    """The last round's policy beside the ranker that it started from and the world's own policy."""
    rows = np.arange(*own.bounds["test"])
    mask = own.mask[rows]
    assert own.logging is not None
    policies = {
        "policy": learnt.policy[rows], "supervised": learnt.supervised[rows], "logging": own.logging[rows],
        "uniform": mask / mask.sum(axis=1, keepdims=True),
    }  # fmt: skip
    policy_gain.record_values(run, "test", policies, true[rows], mask, [str(row) for row in rows])


def _show(run: Any, found: list[dict[str, float]]) -> None:
    rounds = list(range(1, len(found) + 1))
    drawn = ((VALUE, "true value"), (ESS, "ESS / n"), (ITEMS, "items"))
    parts = [
        sections.curves(title, "round", title, {"": (rounds, [each[name] for each in found])}) for name, title in drawn
    ]
    columns = ["round", "value", "value of its best item", "ESS / n", "candidates", "items"]
    rows = [[number, *each.values()] for number, each in zip(rounds, found, strict=True)]
    parts.append(sections.table("Rounds", columns, rows))
    run.section("feedback_loop", "Deploy, log, learn, deploy again", parts, _NOTE)
