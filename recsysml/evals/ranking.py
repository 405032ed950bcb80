"""A ranker's probabilities against what happened, task by task, beside simple methods on the same rows."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recsysml import lazy
from recsysml.data import KINDS as DATA
from recsysml.data.impression_data import ImpressionTable
from recsysml.data.progress import progress
from recsysml.engine import device
from recsysml.errors import ConfigError
from recsysml.metrics import ranking as metrics
from recsysml.metrics.retrieval import history_groups
from recsysml.models.ranking_baselines import BASELINES
from recsysml.ranking.baseline_features import baseline_features
from recsysml.ranking.calibrating import map_to_judge
from recsysml.ranking.calibration_report import record_calibrations
from recsysml.ranking.opening import arranged, open_ranker
from recsysml.ranking.scoring import logits

logger = logging.getLogger("recsysml")

# metric -> which way is better; those of a real label come last
BETTER = {"auc": "higher", "gauc": "higher", "logloss": "lower", "ne": "lower", "rmse": "lower"}

# task -> metric -> (value, standard error, n)
Judged = dict[str, dict[str, tuple[float, float, int]]]


def judge(scores: np.ndarray, table: ImpressionTable, rows: tuple[int, int], tasks: Sequence[str]) -> Judged:
    """scores (n, T): logits of the tasks in this order for rows from and to of the table."""
    found: Judged = {}
    requests = table.requests[rows[0] : rows[1]]
    for place, task in enumerate(tasks):
        labels = labels_of(table, rows, task)
        own, n = scores[:, place], len(labels)
        if table.shape.tasks[task] == "real":
            scale = table.encoder.scales[task][1]
            squares = (own - labels) ** 2
            value = math.sqrt(squares.mean())
            error = squares.std(ddof=1) / math.sqrt(n) / (2 * value) if value else 0.0
            found[task] = {"rmse": (scale * value, scale * error, n)}
            continue
        found[task] = {
            "auc": (*metrics.auc(own, labels), n),
            # where every row is a group of its own there is no order within one
            **({} if table.grouped_by == "row" else {"gauc": metrics.grouped_auc(own, labels, requests)}),
            "logloss": (*metrics.log_loss(own, labels), n),
            "ne": (*metrics.normalised_entropy(own, labels), n),
        }
    return found


def labels_of(table: ImpressionTable, rows: tuple[int, int], task: str) -> np.ndarray:
    """(n,) float64."""
    return table.labels[rows[0] : rows[1], list(table.shape.tasks).index(task)].astype(np.float64)


def means(judged: Judged) -> dict[str, float]:
    """Means of AUC and NE over the binary tasks that have them; empty where there are none."""
    found = {}
    for name in ("auc", "ne"):
        values = [own[name][0] for own in judged.values() if name in own and math.isfinite(own[name][0])]
        if values:
            found[name] = float(np.mean(values))
    return found


def values(split: str, judged: Judged, table: ImpressionTable) -> dict[str, float]:
    """By full name, for metrics.jsonl; with the mean over tasks of log losses, or half squares in standard units."""
    named = {f"{split}/{task}/{name}": value[0] for task, own in judged.items() for name, value in own.items()}
    losses = [
        own["logloss"][0] if "logloss" in own else 0.5 * (own["rmse"][0] / table.encoder.scales[task][1]) ** 2
        for task, own in judged.items()
    ]
    named[f"{split}/loss"] = float(np.mean(losses))
    return named | {f"{split}/{name}": value for name, value in means(judged).items()}


def baselines(
    names: Sequence[str], table: ImpressionTable, splits: Sequence[str], tasks: Sequence[str]
) -> dict[str, dict[str, Judged]]:
    """Each simple method, fitted task by task on the rows that are learnt from: split -> name -> what it got."""
    learnt = table.fitted
    found: dict[str, dict[str, Judged]] = {split: {} for split in splits}
    if names:
        logger.info("fitting what the model is compared with (%s) and judging it", ", ".join(names))
    with progress("fitting baselines", len(names) * len(tasks)) as advance:
        for name in names:
            features = {
                span: baseline_features(name, table, span) for span in {learnt, *(table.bounds[s] for s in splits)}
            }
            scores: dict[str, list[np.ndarray]] = {split: [] for split in splits}
            for task in tasks:
                method = BASELINES[name]()
                method.fit(features[learnt], labels_of(table, learnt, task), table.shape.tasks[task])
                for split in splits:
                    span = table.bounds[split]
                    scores[split].append(method.logits(features[span], span[1] - span[0]))
                advance(1)
            for split in splits:
                found[split][name] = judge(np.stack(scores[split], axis=1), table, table.bounds[split], tasks)
    return found


def record(
    run: Any,
    split: str,
    scores: np.ndarray,
    judged: Judged,
    simple: Mapping[str, Judged],
    table: ImpressionTable,
    tasks: Sequence[str],
) -> None:
    """Put a split's metrics, with the base rate as `baseline` and the other methods by name, and each row's log loss
    and what it adds to AUC and NE, whose means are the metrics, into the run's record: `diff` pairs rankers by them.
    """
    rows = table.bounds[split]
    ids = [str(row) for row in range(*rows)]
    for name, value in means(judged).items():  # first, so that they stand for the run where there is room for few
        others = {label: means(other)[name] for label, other in simple.items()}
        baseline = others.pop("base_rate", None)
        shares = _mean_shares(name, scores, table, rows, tasks)
        spread = None if shares is None else float(shares.std(ddof=1) / math.sqrt(len(shares)))
        if shares is not None:
            run.add_examples(f"{split}/{name}", ids, value + shares)
        run.metric(
            f"{split}/{name}", value, stderr=spread, n=len(ids), better=BETTER[name], baseline=baseline,
            baselines=others,
        )  # fmt: skip
    for place, task in enumerate(tasks):
        for name, (value, error, n) in judged[task].items():
            others = {label: other[task][name][0] for label, other in simple.items()}
            baseline = others.pop("base_rate", None)
            run.metric(
                f"{split}/{task}/{name}", value, stderr=error, n=n, better=BETTER[name], baseline=baseline,
                baselines=others,
            )  # fmt: skip
        if table.shape.tasks[task] == "binary":
            losses = metrics.log_losses(scores[:, place], labels_of(table, rows, task))
            run.add_examples(f"{split}/{task}/logloss", ids, losses)
            for name in ("auc", "ne"):
                share = metrics.influence(name, scores[:, place], labels_of(table, rows, task))
                if share is not None:
                    run.add_examples(f"{split}/{task}/{name}", ids, judged[task][name][0] + share)


def record_by_history(run: Any, split: str, scores: np.ndarray, table: ImpressionTable, tasks: Sequence[str]) -> None:
    """Put into the record the means over binary tasks for users of whom little is known and much: by how many of the
    impressions that were learnt from are theirs."""
    if table.shape.user is None:
        return
    start, stop = table.bounds[split]
    users = table.cohort(table.shape.user)
    known = np.bincount(users[slice(*table.fitted)], minlength=table.shape.sparse[table.shape.user])
    known[0] = 0  # whoever was never met
    groups, names = history_groups(known[users[start:stop]])
    for number, name in enumerate(names):
        own = np.flatnonzero(groups == number)
        pairs = [
            (scores[own, place], labels_of(table, (start, stop), task)[own])
            for place, task in enumerate(tasks)
            if table.shape.tasks[task] == "binary"
        ]
        pairs = [(z, y) for z, y in pairs if 0 < y.sum() < len(y)]
        if pairs:
            for metric, of in (("auc", metrics.auc), ("ne", metrics.normalised_entropy)):
                value = float(np.mean([of(z, y)[0] for z, y in pairs]))
                run.metric(f"{split}/history_{name}/{metric}", value, stderr=None, n=len(own), better=BETTER[metric])


def _mean_shares(
    name: str, scores: np.ndarray, table: ImpressionTable, rows: tuple[int, int], tasks: Sequence[str]
) -> np.ndarray | None:
    """(n,) what each row adds to a mean over tasks, whose rows are the same; None where no task has the metric."""
    shares = []
    for place, task in enumerate(tasks):
        if table.shape.tasks[task] == "binary":
            share = metrics.influence(name, scores[:, place], labels_of(table, rows, task))
            if share is not None:
                shares.append(share)
    return np.asarray(np.mean(shares, axis=0)) if shares else None


def sentence(split: str, judged: Judged, simple: Mapping[str, Judged]) -> str:
    """One line for the screen: of each task AUC and NE, beside the baselines'."""
    said = []
    for task, own in judged.items():
        for name in ("auc", "ne", "rmse"):
            if name in own:
                others = ", ".join(f"{label} {other[task][name][0]:.4f}" for label, other in simple.items())
                said.append(f"{split}/{task}/{name} {own[name][0]:.4f}" + (f" ({others})" if others else ""))
    return "\n".join(said)


def judge_and_record(
    run: Any,
    split: str,
    model: Any,
    table: ImpressionTable,
    simple: Mapping[str, Judged],
    *,
    batch_size: int,
    device: Any,
) -> None:
    """Judge a split by calibrated probabilities and say it; what they were before stands among the baselines."""
    rows, how = table.bounds[split], {"batch_size": batch_size, "device": device}
    scores = logits(model, table, rows, **how)
    judged = judge(scores, table, rows, model.tasks)
    raw = None
    if model.calibration is not None:
        raw = logits(model, table, rows, **how, calibrated=False)
        simple = {**simple, "uncalibrated": judge(raw, table, rows, model.tasks)}
    record(run, split, scores, judged, simple, table, model.tasks)
    logger.info("%s", sentence(split, judged, simple))
    record_by_history(run, split, scores, table, model.tasks)
    found = record_calibrations(run, split, scores, raw, table, model.tasks)
    if found:
        logger.info("%s", found)


def protocol(table: ImpressionTable, calibrated_on: Mapping[str, str]) -> dict[str, Any]:
    """How it was judged, for results.json: runs that differ here do not compare. calibrated_on: split -> the rows that
    maps of probabilities are fitted to, where a ranker has one."""
    return {
        "split": "time",
        "fit_range": table.fit_range,
        "ties": "mid-rank",
        "grouped_by": table.grouped_by,
        "positions": "as shown" if table.shape.positions else "none",
        "past": "before the row's own request",
        "calibrated_on": dict(calibrated_on),
    }


def evaluate_checkpoint(config: Any, checkpoint_dir: Path, run: Any) -> None:
    """`recsysml eval` of a ranker: judge a checkpoint on `config.eval.split` of `config.data`, encoded as it was."""
    machine = device.prepare(device.resolve_device(config.device), "fp32", threads=config.threads, deterministic=True)
    opened = open_ranker(checkpoint_dir, machine.device)
    load = lazy.resolve(f"{DATA[config.data.kind]}:load_impressions")
    table = arranged(load(config.data, opened.encoder), opened)
    for task in opened.model.tasks:
        kind = opened.shape.tasks[task]
        if table.shape.tasks.get(task) != kind:
            raise ConfigError(f"{table.name} has no {kind} label {task}, which {opened.name} predicts.")
    split = config.eval.split
    run.set_data(table.name, table.fingerprint, table.sizes)
    run.set_model(opened.name, opened.kind, opened.parameters, 0)
    how: dict[str, Any] = {"batch_size": config.eval.batch_size, "device": machine.device}
    run.set_protocol(**protocol(table, map_to_judge(opened, split, table, **how)))
    run.set_environment(machine.describe())
    simple = baselines(config.eval.baselines, table, [split], opened.model.tasks)[split]
    judge_and_record(run, split, opened.model, table, simple, **how)
