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
from recsysml.data.slates import ESTIMATED, LoggedSlates, warn_of_split
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
_NO_ERROR = "without an error: all that it rests on says the same"
# so many standard errors a mean weight may be off 1
_OFF = 4
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
    weight: Estimate  # the mean weight: 1 if the propensities are right and the log shows all that the policy shows
    truth: Truth | None = None

    def doubt(self, name: str) -> str | None:
        """Why an estimate is not to be believed, in one line, or None: few effective requests, or a mean weight off 1.

        dm has no weights, but what keeps their mean from 1 may be that the log cannot teach its reward model."""
        few = self.estimates[name].unreliable
        error = self.weight.stderr
        if few or error is None or abs(self.weight.value - 1) <= max(_OFF * error, 0.01):
            return few
        off = f"mean weight is {self.weight.value:.3f} ± {error:.3f}, not 1"
        if name == "dm":
            return (
                f"the {off}: the log may never show some of what the policy shows, and of that its reward model only"
                " guesses; its interval knows nothing of such a bias"
            )
        return f"its {off}: the propensities are wrong, or the log never shows some of what the policy shows"


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
    one = np.ones(len(rows))
    return Judged(rows, found, metrics.ips(one, reward[rows]), metrics.ips(weights, one), truth)


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
        if doubt := judged.doubt(name):
            more["unreliable"] = doubt
        if log.propensity_source == ESTIMATED:
            more["propensities"] = ESTIMATED
        if truth is not None:
            more["truth"] = truth.value
        metric = f"{split}/policy/{name}"
        run.metric(
            metric, one.value, stderr=one.stderr, n=len(ids), better="higher", baseline=judged.logged.value, **more
        )
        if one.stderr is not None:  # scores without a spread of their own would lend `diff` a certainty
            run.add_examples(metric, ids, one.scores)
    section(run, split, judged, log)
    for line in sentences(split, judged, log):
        logger.info("%s", line)


def section(run: Any, split: str, judged: Judged, log: LoggedSlates) -> None:
    """The estimators with their intervals, as a table and as bars, with the truth where it is known."""
    truth = judged.truth
    error = ["error / stderr"] if truth is not None else []
    columns = ["estimator", "value", "low", "high", *error, "ESS", "ESS / n", "remark"]
    rows, bars = [], []
    for name, one in judged.estimates.items():
        remark = _NO_ERROR if one.stderr is None else ""
        remark = f"not to be believed: {judged.doubt(name)}" if judged.doubt(name) else remark
        off = [] if truth is None else [(one.value - truth.value) / one.stderr if one.stderr else None]
        rows.append([name, one.value, one.low, one.high, *off, one.ess, one.ess_share, remark])
        line = None if truth is None else truth.value
        bars.append({"label": name, "value": one.value, "low": one.low, "high": one.high, "baseline": line})
    known: list[list[Any]] = [
        ["the log's own policy (mean reward)", judged.logged.value, judged.logged.stderr],
        ["mean weight (1 where the propensities are right)", judged.weight.value, judged.weight.stderr],
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
        f" {first.ess:,.1f} ({first.ess_share:.2%}), mean weight {judged.weight.value:.3f}"
    ]
    if judged.truth is not None:
        error = f" ± {judged.truth.stderr:.4f}" if judged.truth.stderr is not None else ""
        lines.append(f"{split}: {_TRUTHS[judged.truth.source]}: {judged.truth.value:.4f}{error}")
    if bare := [name for name, one in judged.estimates.items() if one.stderr is None]:
        lines.append(f"{split}: {', '.join(bare)}: {_NO_ERROR}")
    if doubt := judged.doubt("ips"):
        lines.append(f"{split}: no estimate is to be believed: {doubt}")
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
            raise DataError(
                f"eval.policy=logging: {log.name} has logged only the probabilities of what was shown;"
                " a policy that is known whole has propensities of all candidates."
            )
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
    model, before = None, None
    if how.policy == "model":
        on = device.resolve_device(config.device)
        machine = device.prepare(on, "fp32", threads=config.threads, deterministic=True)
        opened = open_policy(checkpoint_dir, machine.device)
        weights = opened.model.rewards
        if (pays := config.model.rewards(config.data)) != weights:
            logger.warning("judged by the reward it was trained for, %s; the data pay %s", weights, pays)
        model, truth = _outputs(opened, log, rows, how, machine), None
        policy = np.exp(model[0])
        supervised = supervised_folder(checkpoint_dir)
        if supervised is not None:
            before = _outputs(open_policy(supervised, machine.device), log, rows, how, machine)
        run.set_model(opened.name, "policy_ranker", opened.parameters, 0)
        run.set_environment(machine.describe())
    else:
        weights = config.model.rewards(config.data)
        policy, truth = simple_policy(how.policy, log, rows, config.data, weights)
        if how.split != "all":  # who trains a model has been told
            warn_of_split(log)
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
    if model is None or before is None:
        return
    # as in the run that trained both: the supervised ranker is the baseline
    policies = {"policy": policy, "supervised": np.exp(before[0])}
    if chances is None or known is None:
        first = judge(log, rows, policies["supervised"], reward, expected, how)
        record_estimated_value(run, how.split, judged, first, log)
    else:
        mask, ids = log.mask[rows], [str(row) for row in rows]
        policies["uniform"] = mask / mask.sum(axis=1, keepdims=True)
        if log.logging is not None:
            policies["logging"] = log.logging[rows]
        policy_gain.record_values(run, how.split, policies, known, mask, ids)
        policy_gain.record_rates(run, how.split, policies, {name: p[rows] for name, p in chances.items()}, ids)
    columns = [list(log.tasks).index(task) for task in weights]
    logits = {"policy": model[1], "supervised": before[1]}
    policy_gain.record_calibration(run, how.split, list(weights), logits, log.actions[rows][:, columns])


def record_estimated_value(run: Any, split: str, policy: Judged, supervised: Judged, log: LoggedSlates) -> None:
    """Where no truth is known: the doubly robust estimate is the value, that of the supervised ranker its baseline."""
    doubts = [each for each in (policy.doubt("dr"), supervised.doubt("dr")) if each]
    estimates = policy.estimates["dr"], supervised.estimates["dr"]
    policy_gain.record_estimates(run, split, *estimates, log.propensity_source, doubts[0] if doubts else None)


def supervised_folder(checkpoint_dir: Path) -> Path | None:
    """The checkpoint of the supervised ranker that a run's policy started from, of a loop in its last round; None where
    there is none."""
    run = checkpoint_dir.resolve().parent.parent
    rounds = sorted(run.glob("rounds/*"), key=lambda folder: int(folder.name))
    supervised = (rounds[-1] if rounds else run) / "supervised"
    if not (supervised / "best.json").is_file():
        return None
    return supervised / read_json(supervised / "best.json")["folder"] / "checkpoints" / "best"


def _outputs(
    opened: Opened, log: LoggedSlates, rows: np.ndarray, how: Any, machine: device.Machine
) -> tuple[np.ndarray, np.ndarray]:
    """A model's (B, N) log probabilities of the candidates, and (B, T) logits of the item on top."""
    own = aligned(log, opened.names)
    return log_probabilities(opened.model, own, rows, batch_size=how.batch_size, device=machine.device)
