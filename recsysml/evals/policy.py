"""What a policy would have earned, from another one's log: off-policy estimates, and of a simulated world the truth."""

from __future__ import annotations

import dataclasses
import importlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsysml import sections
from recsysml.data import KINDS as DATA
from recsysml.data.slates import ESTIMATED, LoggedSlates
from recsysml.engine import device
from recsysml.errors import DataError
from recsysml.metrics import policy as metrics
from recsysml.metrics.policy import Estimate
from recsysml.ranking import policy_gain
from recsysml.ranking.policies import Opened, aligned, log_probabilities, open_policy
from recsysml.ranking.reward_model import cross_fit
from recsysml.runs import read_json

logger = logging.getLogger("recsysml")

NOTE = (
    "Bars are 95% intervals, the line is the truth where it is known. An estimate of fewer effective requests than"
    f" {metrics.LEAST_ESS:.0%} of the log is not to be believed, whatever its interval."
)
_TRUTHS = {
    "enumerated": "the policy's true value, by enumeration",
    "own log": "the mean reward in the policy's own log",
}


@dataclass(frozen=True)
class Truth:
    """What estimates are held against, and where it comes from: `enumerated`, or `own log` of the policy."""

    value: float
    stderr: float | None
    source: str
    each: np.ndarray | None = None  # (B,) of the requests, where it is enumerated
    others: Mapping[str, float] = dataclasses.field(default_factory=dict)  # value of logging, uniform and best policy


@dataclass(frozen=True)
class Judged:
    """One policy on the requests `rows` (B,) of a log."""

    rows: np.ndarray
    estimates: dict[str, Estimate]
    logged: Estimate  # the mean reward of the log itself
    mean_weight: float  # 1 if the propensities are right and the log shows all that the policy shows
    truth: Truth | None = None


def rewards_expected(log: LoggedSlates, rows: np.ndarray, reward: np.ndarray, how: Any, seed: int = 0) -> np.ndarray:
    """(B, N) cross-fitted reward of every candidate of `rows` (B,). reward (R,): of the whole log. how: the eval's
    config. It is the same for all policies."""
    return cross_fit(log.features, log.mask, log.shown, reward, rows, folds=how.folds, seed=seed)


def judge(
    log: LoggedSlates,
    rows: np.ndarray,
    policy: np.ndarray,
    reward: np.ndarray,
    expected: np.ndarray,
    how: Any,
    truth: Truth | None = None,
) -> Judged:
    """policy (B, N): probabilities over the candidates of `rows` (B,); reward (R,) of the whole log; expected (B, N):
    of `rewards_expected`."""
    mask, shown, propensity = log.mask[rows], log.shown[rows], log.propensity[rows]
    found = metrics.estimate(policy, mask, shown, propensity, reward[rows], expected, clip=how.clip)
    weights = policy[np.arange(len(rows)), shown] / propensity
    logged = metrics.ips(np.ones(len(rows)), reward[rows])
    return Judged(rows, found, logged, float(weights.mean()), truth)


def enumerated(policy: np.ndarray, mask: np.ndarray, logging: np.ndarray | None, rewards: np.ndarray) -> Truth:
    """The true value over these requests. policy, mask, logging and true expected rewards (B, N)."""
    each = np.where(mask, policy * rewards, 0.0).sum(axis=1)
    others = {
        "uniform": float((np.where(mask, rewards, 0).sum(axis=1) / mask.sum(axis=1)).mean()),
        "optimum": float(np.where(mask, rewards, -np.inf).max(axis=1).mean()),
    }
    if logging is not None:
        others["logging"] = float((logging * rewards * mask).sum(axis=1).mean())
    return Truth(float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each))), "enumerated", each, others)


def record(run: Any, split: str, judged: Judged, log: LoggedSlates) -> None:
    """Put a policy's estimates, and the truth where it is known, into the run's record, its report and its examples.

    The baseline of each is what the log's own policy earned.
    """
    ids = [str(row) for row in judged.rows]
    truth = judged.truth
    if truth is not None and truth.each is not None:
        others = dict(truth.others)
        run.metric(
            f"{split}/policy/value", truth.value, stderr=truth.stderr, n=len(ids), better="higher",
            baseline=others.pop("logging", None), baselines=others,
        )  # fmt: skip
        run.add_examples(f"{split}/policy/value", ids, truth.each)
    for name, one in judged.estimates.items():
        more: dict[str, Any] = {"low": one.low, "high": one.high, "ess": one.ess, "ess_share": one.ess_share}
        if one.unreliable:
            more["unreliable"] = one.unreliable
        if log.propensity_source == ESTIMATED:
            more["propensities"] = ESTIMATED
        if truth is not None:
            more["truth"] = truth.value
        metric = f"{split}/policy/{name}"
        run.metric(
            metric, one.value, stderr=one.stderr, n=len(ids), better="higher", baseline=judged.logged.value, **more
        )
        if np.isfinite(one.value):
            run.add_examples(metric, ids, one.scores)
    section(run, split, judged, log)
    for line in sentences(split, judged, log):
        logger.info("%s", line)


def section(run: Any, split: str, judged: Judged, log: LoggedSlates) -> None:
    """The estimators with their intervals, as a table and as bars, with the truth where it is known."""
    truth = judged.truth
    columns = ["estimator", "value", "low", "high", "ESS", "ESS / n", "remark"]
    if truth is not None:
        columns.insert(4, "error / stderr")
    rows, bars = [], []
    for name, one in judged.estimates.items():
        row: list[Any] = [name, one.value, one.low, one.high, one.ess, one.ess_share]
        row.append("not to be believed: few effective requests" if one.unreliable else "")
        if truth is not None:
            row.insert(4, (one.value - truth.value) / one.stderr if one.stderr else None)
        rows.append(row)
        line = None if truth is None else truth.value
        bars.append({"label": name, "value": one.value, "low": one.low, "high": one.high, "baseline": line})
    known: list[list[Any]] = [
        ["the log's own policy (mean reward)", judged.logged.value, judged.logged.stderr],
        ["mean weight (1 where the propensities are right)", judged.mean_weight, None],
    ]
    if truth is not None:
        known.insert(0, [_TRUTHS[truth.source], truth.value, truth.stderr])
        known += [[f"true value of {name}", value, None] for name, value in truth.others.items()]
    parts = [
        sections.bars("Off-policy estimates", "reward a request", bars),
        sections.table("Estimates", columns, rows),
        sections.table("Beside them", ["what", "value", "stderr"], known),
    ]
    note = NOTE
    if log.propensity_source == ESTIMATED:
        note += " The log has no propensities: they are estimated, and so is every number here."
    run.section(f"policy_{split}", f"Policy: {split}", parts, note)


def sentences(split: str, judged: Judged, log: LoggedSlates) -> list[str]:
    """Lines for the screen: what the log is worth for this policy, and the doubts there are."""
    first = judged.estimates["ips"]
    lines = [
        f"{split}, {len(judged.rows):,} requests: the log earned {judged.logged.value:.4f} each; effective sample size"
        f" {first.ess:,.1f} ({first.ess_share:.2%}), mean weight {judged.mean_weight:.3f}"
    ]
    if judged.truth is not None:
        error = f" ± {judged.truth.stderr:.4f}" if judged.truth.stderr is not None else ""
        lines.append(f"{split}: {_TRUTHS[judged.truth.source]}: {judged.truth.value:.4f}{error}")
    if first.unreliable:
        lines.append(f"{split}: no estimate is to be believed: {first.unreliable}")
    if log.propensity_source == ESTIMATED:
        lines.append(f"{split}: the propensities are estimated, and so is every result")
    return lines


def protocol(log: LoggedSlates, weights: Mapping[str, float], how: Any) -> dict[str, Any]:
    """How it was judged, for results.json: runs that differ here do not compare."""
    return {
        "split": how.split, "fit_range": log.fit_range, "candidates": "the slate's", "rewards": dict(weights),
        "propensities": log.propensity_source, "folds": how.folds, "clip": how.clip,
    }  # fmt: skip


def rows_of(log: LoggedSlates, split: str) -> np.ndarray:
    """(B,) of a split, or of all."""
    return np.arange(len(log)) if split == "all" else np.arange(*log.bounds[split])


def simple_policy(
    name: str, log: LoggedSlates, rows: np.ndarray, config: Any, weights: Mapping[str, float] | None = None
) -> tuple[np.ndarray, Truth | None]:
    """(B, N) of a policy that is no model, and the mean reward of its own log where there is one.

    name: uniform, logging, or bts. Raises DataError where the log does not say all of the policy that made it.
    """
    mask = log.mask[rows]
    if name == "logging":
        if log.logging is None:
            raise DataError(f"eval.policy=logging: {log.name} has logged only the probabilities of what was shown.")
        return log.logging[rows], None
    own = _own_log(name, config)
    truth = None
    if own is not None:
        mean = metrics.ips(np.ones(len(own)), own.rewards(weights))
        truth = Truth(mean.value, mean.stderr, "own log")
    if name == "uniform":
        return mask / mask.sum(axis=1, keepdims=True), truth
    return shares_by_place(own or log)[_places(log)[rows]], truth


def _own_log(name: str, config: Any) -> LoggedSlates | None:
    """The log that the policy made itself, where that is another one."""
    behaviour = {"uniform": "random", "bts": "bts"}[name]
    if config.kind != "open_bandit" or config.behaviour == behaviour:
        return None
    other: LoggedSlates = load(dataclasses.replace(config, behaviour=behaviour))
    return other


def shares_by_place(log: LoggedSlates) -> np.ndarray:
    """(places, N) how often each item stands in each place of a log whose candidates are always the same."""
    places = _places(log)
    counts = np.zeros((places.max() + 1, log.mask.shape[1]))
    np.add.at(counts, (places, log.shown), 1)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def _places(log: LoggedSlates) -> np.ndarray:
    columns = [place for place, name in enumerate(log.context_names) if name.startswith("position=")]
    return np.asarray(log.contexts[:, columns].argmax(axis=1))


def load(config: Any) -> LoggedSlates:
    """The log of a config of data."""
    found: LoggedSlates = importlib.import_module(DATA[config.kind]).load_slates(config)
    return found


def true_chances(config: Any) -> dict[str, np.ndarray] | None:
    """Action -> (R, N) true probability for each candidate, of a simulated world; else None. config: of the data."""
    if config.kind != "world":
        return None
    from recsysml.data.world_truth import top_chances

    return top_chances(config, config.actions)


def worth(chances: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """(R, N) expected reward of each candidate. chances: action -> (R, N)."""
    return np.asarray(sum(weight * chances[name] for name, weight in weights.items()))


def evaluate_checkpoint(config: Any, checkpoint_dir: Path, run: Any) -> None:
    """`recsysml eval` of a policy: a checkpoint's, or one that is no model, on `config.eval.split` of `config.data`."""
    how = config.eval
    log = load(config.data)
    rows = rows_of(log, how.split)
    before = None
    if how.policy == "model":
        machine = device.prepare(
            device.resolve_device(config.device), "fp32", threads=config.threads, deterministic=True
        )
        opened = open_policy(checkpoint_dir, machine.device)
        weights = opened.model.rewards
        policy, truth = _probabilities(opened, log, rows, how, machine), None
        supervised = supervised_folder(checkpoint_dir)
        if supervised is not None:
            before = _probabilities(open_policy(supervised, machine.device), log, rows, how, machine)
        run.set_model(opened.name, "policy_ranker", opened.parameters, 0)
        run.set_environment(machine.describe())
    else:
        weights = config.model.rewards(config.data)
        policy, truth = simple_policy(how.policy, log, rows, config.data, weights)
        run.set_model(how.policy, "policy", 0, 0)
    run.set_data(log.name, log.fingerprint, log.sizes)
    run.set_protocol(**protocol(log, weights, how))
    chances = true_chances(config.data)
    known = None if chances is None else worth(chances, weights)[rows]
    if known is not None:
        truth = enumerated(policy, log.mask[rows], None if log.logging is None else log.logging[rows], known)
    reward = log.rewards(weights)
    try:
        expected = rewards_expected(log, rows, reward, how, config.seed)
        judged = judge(log, rows, policy, reward, expected, how, truth)
    except ValueError as error:
        raise DataError(f"{log.name}, {how.split}: {error}") from error
    record(run, how.split, judged, log)
    if before is not None and chances is not None and known is not None:
        # its value is the baseline, as in the run that trained both
        mask = log.mask[rows]
        policies = {"policy": policy, "supervised": before, "uniform": mask / mask.sum(axis=1, keepdims=True)}
        if log.logging is not None:
            policies["logging"] = log.logging[rows]
        ids = [str(row) for row in rows]
        policy_gain.record_values(run, how.split, policies, known, mask, ids)
        policy_gain.record_rates(run, how.split, policies, {name: p[rows] for name, p in chances.items()}, ids)


def supervised_folder(checkpoint_dir: Path) -> Path | None:
    """The checkpoint of the supervised ranker that a run trained its policy from; None where it trained none."""
    folder = checkpoint_dir.resolve().parent.parent / "supervised"
    if not (folder / "best.json").is_file():
        return None
    return folder / read_json(folder / "best.json")["folder"] / "checkpoints" / "best"


def _probabilities(
    opened: Opened, log: LoggedSlates, rows: np.ndarray, how: Any, machine: device.Machine
) -> np.ndarray:
    """(B, N) of a model."""
    found, _ = log_probabilities(
        opened.model, aligned(log, opened.names), rows, batch_size=how.batch_size, device=machine.device
    )
    return np.exp(found)
