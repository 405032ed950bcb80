"""Training round by round: a policy is deployed in the simulated world, and the next one learns from what it showed.

Round 1 learns from what the world's own policy put on top. Its policy then shows one item at each of the same requests,
drawn by its probabilities, which are logged; the world answers by its laws; and round 2 learns from that log alone.
A row of metrics.jsonl is a round, 0 the world's own policy; those of a round's own training are in `rounds/<number>/`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recsysml import plots_rounds, sections
from recsysml.data import world_deployed
from recsysml.data.slates import LoggedSlates
from recsysml.data.world import load_slates
from recsysml.engine import checkpoint, start
from recsysml.engine.device import Machine
from recsysml.engine.distributed import World
from recsysml.engine.loop import Fitted
from recsysml.evals import policy as evals
from recsysml.metrics.policy import effective_sample_size
from recsysml.ranking import policy_gain
from recsysml.ranking.policies import metadata
from recsysml.ranking.policy_training import Learnt, Phase, begin, learn
from recsysml.schemas.run import RunConfig

logger = logging.getLogger("recsysml")

# what is told of a round, on val and on test
VALUE, GREEDY, ESS, CANDIDATES, ITEMS = "value", "greedy_value", "ess_share", "candidates", "items"
_NOTE = (
    "True values on test, by enumeration; round 0 is the world's own policy. ESS / n: the effective sample size of the"
    " policy on the log that it learnt from; under 10% nothing is to be believed. Candidates, items: exp of the entropy"
    " of what is shown, at a request and over all of them."
)


def train(config: RunConfig, run: Any) -> None:
    """Every round a policy from the log of the one before, each by the same settings; the last one is kept and judged.

    `config` is resolved. A run directory with checkpoints goes on where it was: rounds that are done take no step
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
    found = [_figures(log, own.logging, true)]
    for name in [name for name in found[0] if name.endswith(ESS)]:
        del found[0][name]  # it has learnt from no log
    fitted: list[Fitted] = []
    for number in range(1, how.rounds + 1):
        phase = Phase(path / "rounds" / str(number))
        begun = begin(config, phase.path, log, machine, world)
        if world.main:
            phase.keep(begun.resume.step if begun.resume else -1)
            if number == 1:
                _describe(config, run, own, begun.parameters, machine)
                _tell(run, 0, found[0])
            logger.info("round %s of %s", number, how.rounds)
        learnt = learn(config, phase, begun, true, machine, world)
        found.append(_figures(log, learnt.policy, true))
        fitted += [learnt.fitted] if learnt.fitted else []
        if world.main:
            _tell(run, number, found[-1])
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
        _time(run, fitted)


def _describe(config: RunConfig, run: Any, own: LoggedSlates, parameters: int, machine: Machine) -> None:
    how = config.trainer
    run.drop_metrics_after(-1)  # the rounds that are done tell their row again
    run.set_data(own.name, own.fingerprint, own.sizes)
    run.set_model(config.model.name, config.model.kind, parameters, parameters)
    protocol = evals.protocol(own, config.model.rewards(config.data), config.eval) | {"split": "test"}
    for name in ("folds", "clip"):  # of estimates, and here the truth is known
        del protocol[name]
    run.set_protocol(**protocol, rounds=how.rounds, exploration=how.exploration, temperature=config.model.temperature)
    run.set_environment(machine.describe())
    run.save()
    for said in ignored(config):
        logger.warning("%s", said)


def ignored(config: RunConfig) -> list[str]:
    """Settings that are not read, a sentence each."""
    usual = type(config.eval)()
    return config.trainer.ignored() + [
        f"eval.{name}={getattr(config.eval, name)} is not read: the rounds are judged by the truth, on val and test"
        for name in ("split", "folds", "clip")
        if getattr(config.eval, name) != getattr(usual, name)
    ]


def _tell(run: Any, number: int, figures: dict[str, float]) -> None:
    run.log(number, figures)
    said = ", ".join(f"{name.rpartition('/')[2]} {value:.4f}" for name, value in figures.items() if "test/" in name)
    logger.info("%s: %s", f"round {number}" if number else "the world's own policy", said)


def _figures(log: LoggedSlates, policy: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Of a policy (R, N), on the requests of val and of test. log: what it has learnt from; true (R, N)."""
    found: dict[str, float] = {}
    for split in ("val", "test"):
        rows = np.arange(*log.bounds[split])
        pi, mask = policy[rows], log.mask[rows]
        each = np.arange(len(rows))
        shown = np.bincount(log.candidates[rows][mask], pi[mask], len(log.items)) / len(rows)
        weights = pi[each, log.shown[rows]] / log.propensity[rows]
        figures = {
            VALUE: float(np.where(mask, pi * true[rows], 0.0).sum(axis=1).mean()),
            GREEDY: float(true[rows][each, pi.argmax(axis=1)].mean()),
            ESS: effective_sample_size(weights) / len(rows),
            CANDIDATES: float(np.exp(_entropy(pi)).mean()),
            ITEMS: float(np.exp(_entropy(shown))),
        }
        found |= {f"{split}/policy/{name}": value for name, value in figures.items()}
    return found


def _entropy(p: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    return np.asarray(-(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1))


def _judge(run: Any, own: LoggedSlates, learnt: Learnt, true: np.ndarray) -> None:
    """The last round's policy beside the ranker that it started from and the world's own policy, on val and test."""
    assert own.logging is not None
    for split in ("val", "test"):
        rows = np.arange(*own.bounds[split])
        mask = own.mask[rows]
        policies = {
            "policy": learnt.policy[rows], "supervised": learnt.supervised[rows], "logging": own.logging[rows],
            "uniform": mask / mask.sum(axis=1, keepdims=True),
        }  # fmt: skip
        policy_gain.record_values(run, split, policies, true[rows], mask, [str(row) for row in rows])


def _show(run: Any, found: Sequence[dict[str, float]]) -> None:
    """The rounds as a picture and as a section of the report. found: of each round, from 0 on."""

    def curve(name: str) -> tuple[list[float], list[float]]:
        told = [(float(number), each[f"test/policy/{name}"]) for number, each in enumerate(found)
                if f"test/policy/{name}" in each]  # fmt: skip
        return [number for number, _ in told], [value for _, value in told]

    values = {"true value, a request": curve(VALUE), "of its best item": curve(GREEDY)}
    others = {"ESS / n": curve(ESS), "items": curve(ITEMS)}
    picture = plots_rounds.rounds_plot(run.path / "plots" / "rounds.png", f"{run.path.name}: test", values, others)
    run.artifact("plots", str(picture.relative_to(run.path)))
    parts = [
        sections.curves(title, "round", title, {"": each})
        for title, each in {"true value": curve(VALUE), **others}.items()
    ]
    columns = ["round", "value", "value of its best item", "ESS / n", "candidates", "items"]
    names = (VALUE, GREEDY, ESS, CANDIDATES, ITEMS)
    rows = [[number, *(each.get(f"test/policy/{name}") for name in names)] for number, each in enumerate(found)]
    parts.append(sections.table("Rounds", columns, rows))
    run.section("feedback_loop", "Deploy, log, learn, deploy again", parts, _NOTE)


def _time(run: Any, fitted: Sequence[Fitted]) -> None:
    """The speed of all rounds' steps together, of those that this process took."""
    timed = [each.throughput for each in fitted if each.throughput["value"]]
    if not timed:
        return
    steps = sum(each["steps"] for each in timed)
    # a step of every round has as many slates
    value = steps / sum(each["steps"] / each["value"] for each in timed)
    memory = max(each["peak_memory_bytes"] for each in timed)
    run.set_throughput(timed[0]["unit"], value, steps, memory, processes=timed[0]["processes"])
    logger.info("%s slates/s, %.2f GiB at most", f"{value:,.0f}", memory / 2**30)
