"""A value model's order of slates: each task's share of importance, and what the task gets of the order."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsysml import sections
from recsysml.data import world, world_truth
from recsysml.data.impression_data import ImpressionTable
from recsysml.engine import checkpoint, device
from recsysml.errors import ConfigError
from recsysml.metrics.page import slate_ndcg
from recsysml.models.value_model import Slates, ValueModel, from_checkpoint, losses, make_slates, shares
from recsysml.ranking.pages import worth
from recsysml.ranking.task_probabilities import Probabilities, open_probabilities

logger = logging.getLogger("recsysml")

# samples of requests from which the standard error of a share comes
_SAMPLES = 200


@dataclass(frozen=True)
class Judged:
    """Of one split. Per request, NaN where a task's label happened to nothing in it."""

    requests: np.ndarray  # (R,)
    ndcg: dict[str, np.ndarray]  # task -> (R,) of the order, judged by the task's labels
    equal: dict[str, np.ndarray]  # the same of an order by the sum of all probabilities
    shares: np.ndarray | None  # (T,) None where the model has none
    spread: np.ndarray | None  # (T,) standard errors
    error: tuple[float, float] | None  # L1 gap to the shares asked for, and its standard error


def judge(
    model: ValueModel,
    slates: Slates,
    labels: Mapping[str, np.ndarray],
    measure: str,
    target: np.ndarray | None,
) -> Judged:
    """labels: task -> (n,) of the rows that the slates were made of. target (T,): the shares asked for, if any."""
    value = model.slate_values(slates.probabilities, slates.real)
    equal = slates.probabilities.sum(axis=2)
    found = {task: slate_ndcg(slates.of(column), value, slates.real) for task, column in labels.items()}
    simple = {task: slate_ndcg(slates.of(column), equal, slates.real) for task, column in labels.items()}
    if not model.has_shares:
        return Judged(slates.requests, found, simple, None, None, None)
    lost = losses(measure, slates, model.weights)  # (R, T)
    reached = shares(measure, lost.mean(axis=0))
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(lost), np.full(len(lost), 1 / len(lost)), size=_SAMPLES)  # (S, R) times each is taken
    again = shares(measure, drawn @ lost / len(lost))
    error = None
    if target is not None:
        gaps = np.abs(again - target).sum(axis=1)
        error = float(np.abs(reached - target).sum()), float(gaps.std(ddof=1))
    return Judged(slates.requests, found, simple, reached, again.std(axis=0, ddof=1), error)


def record(
    run: Any,
    split: str,
    judged: Judged,
    model: ValueModel,
    unwanted: Sequence[str] = (),
    naive: float | None = None,
) -> None:
    """Put a split's metrics into the run's record. unwanted: tasks that an order does better without, as it does those
    whose weights lie below 0. naive: the L1 gap if the shares asked for were the weights."""
    below = {task for task, weight in zip(model.tasks, model.weights, strict=True) if weight < 0}
    for task, each in judged.ndcg.items():
        better = "lower" if task in unwanted or task in below else "higher"
        counted = np.isfinite(each)
        n = int(counted.sum())
        error = float(each[counted].std(ddof=1) / np.sqrt(n)) if n > 1 else None
        value, simple = (float(np.mean(x[counted])) if n else np.nan for x in (each, judged.equal[task]))
        run.metric(f"{split}/{task}/ndcg", value, stderr=error, n=n, better=better, baseline=simple)
        if n:
            run.add_examples(f"{split}/{task}/ndcg", [str(id_) for id_ in judged.requests[counted]], each[counted])
    if judged.error is not None:
        value, error = judged.error
        run.metric(
            f"{split}/importance_l1", value, stderr=error, n=len(judged.requests), better="lower", baseline=naive
        )


def section(run: Any, judged: Mapping[str, Judged], model: ValueModel, target: np.ndarray | None, note: str) -> None:
    """The weights and what came of them, as a table and bars of the report."""
    first = next(iter(judged.values()))
    columns = [
        "task",
        "weight",
        "asked",
        *(f"{split} share" for split in judged),
        *(f"{split} NDCG" for split in judged),
    ]
    rows, bars = [], []
    for place, task in enumerate(model.tasks):
        asked = None if target is None else float(target[place])
        weight = None if model.expression is not None else float(model.weights[place])
        reached = [None if each.shares is None else float(each.shares[place]) for each in judged.values()]
        ndcg = [
            float(np.nanmean(each.ndcg[task])) if np.isfinite(each.ndcg[task]).any() else None
            for each in judged.values()
        ]
        rows.append([task, weight, asked, *reached, *ndcg])
        for split, each in judged.items():
            if each.shares is not None and each.spread is not None:
                value, error = float(each.shares[place]), 1.96 * float(each.spread[place])
                bars.append(
                    {"label": f"{task}, {split}", "value": value, "low": value - error, "high": value + error,
                     "baseline": asked}
                )  # fmt: skip
    parts = [sections.table("Weights and what came of them", columns, rows)]
    if first.shares is not None:
        parts.append(sections.bars("Importance of each task; the line is what was asked for", "share", bars))
    run.section("value_model", "Value model", parts, note)


def record_pages(
    run: Any, split: str, model: ValueModel, probabilities: Probabilities, encoder: Any, config: Any
) -> None:
    """Of the simulated world: what pages in the order of the value truly bring, from all that could have been shown.

    The value of a page (leaving counted in) and of the session that may follow, beside the log's pages, and pages in
    the order of each item's true reward. Nothing of other data, and with eval.requests=0.
    """
    if config.data.kind != "world" or not config.eval.requests:
        return
    opened, weights = world_truth.open_truth(config.data), dict(config.data.reward_weights)
    length = world_truth.SLATE
    candidates = world.load_candidates(config.data, encoder, split=split, limit=config.eval.requests, length=length)
    moment = world_truth.moments_of(opened, candidates.requests)
    rewards = world_truth.reward(opened.responses(moment, candidates.items), weights)
    pages = {
        "value model": candidates.slates(worth(model, probabilities, candidates), length),
        "as logged": candidates.logged,
        "by truth": candidates.slates(rewards, length),
    }
    brought = {
        name: world_truth.outcome(opened, moment, np.take_along_axis(candidates.items, columns, axis=1), weights)
        for name, columns in pages.items()
    }
    n, bars = len(candidates.requests), []
    for name in ("value", "session"):
        own, logged, best = (getattr(one, name) for one in brought.values())
        error = float(own.std(ddof=1) / np.sqrt(n))
        run.metric(
            f"{split}/page/{name}", float(own.mean()), stderr=error, n=n, better="higher",
            baseline=float(logged.mean()), baselines={"by_truth": float(best.mean())},
        )  # fmt: skip
        run.add_examples(f"{split}/page/{name}", [str(id_) for id_ in candidates.requests], own)
    for label, one in brought.items():
        mean, error = float(one.value.mean()), 1.96 * float(one.value.std(ddof=1) / np.sqrt(n))
        bars.append({"label": label, "value": mean, "low": mean - error, "high": mean + error})
    rows = [[label, *(float(x.mean()) for x in (one.value, one.session, one.stays))] for label, one in brought.items()]
    parts = [
        sections.bars("True reward of a page of all candidates", "reward", bars),
        sections.table("What pages bring", ["order", "reward of a page", "of a session", "seen to the end"], rows),
    ]
    run.section("true_pages", f"True pages: {split}", parts)
    said = "; ".join(f"{label} {value:.4f} (session {session:.4f})" for label, value, session, _ in rows)
    logger.info("%s, true reward of %s pages: %s", split, f"{n:,}", said)


def naive_error(measure: str, slates: Slates, target: np.ndarray) -> float:
    """The L1 gap to the shares asked for (T,) if they were the weights."""
    return float(np.abs(shares(measure, losses(measure, slates, target).mean(axis=0)) - target).sum())


def sentence(split: str, judged: Judged, model: ValueModel) -> str:
    """One line for the screen."""
    parts = []
    for place, task in enumerate(model.tasks):
        of_share = "" if judged.shares is None else f"share {judged.shares[place]:.3f}, "
        gained = judged.ndcg[task]
        said = f"{np.nanmean(gained):.4f}" if np.isfinite(gained).any() else "none"
        parts.append(f"{task} {of_share}NDCG {said}")
    gap = "" if judged.error is None else f"; asked and reached differ by {judged.error[0]:.4f}"
    return f"{split}, {len(judged.requests):,} slates: {'; '.join(parts)}{gap}"


def labelled(
    table: ImpressionTable, probabilities: Probabilities, split: str, tasks: list[str]
) -> tuple[Slates, dict[str, np.ndarray]]:
    """The slates of a split with the tasks' probabilities, and the tasks' labels of its rows as gains: real labels in
    their own unit, those below 0 as nothing."""
    start, stop = table.bounds[split]
    columns = {}
    for task in tasks:
        found = table.labels[start:stop, list(table.shape.tasks).index(task)].astype(np.float64)
        if table.shape.tasks[task] == "real":
            own = table.encoder.original(task, found)
            found = np.where(own > 1e-5 * table.encoder.scales[task][1], own, 0.0)  # 0 comes back as nearly that
        columns[task] = found
    return make_slates(probabilities(table, (start, stop)), table.requests[start:stop]), columns


def protocol(table: ImpressionTable, measure: str) -> dict[str, Any]:
    """How it was judged, for results.json: runs that differ here do not compare."""
    return {"split": "time", "fit_range": table.fit_range, "ties": "mean gain", "slates": "as shown, 2 items or more",
            "importance": measure}  # fmt: skip


def evaluate_checkpoint(config: Any, checkpoint_dir: Path, run: Any) -> None:
    """`recsysml eval` of a value model: judge a checkpoint on `config.eval.split` of `config.data`."""
    tensors, found = checkpoint.load_weights(checkpoint_dir)
    described = found.get("model", {})
    if described.get("kind") != "value_model":
        raise ConfigError(f"{checkpoint_dir} holds a model of kind {described.get('kind')!r}, not a value model")
    machine = device.prepare(device.resolve_device(config.device), "fp32", threads=config.threads, deterministic=True)
    tasks, measure = described["tasks"], described["measure"]
    model = from_checkpoint(described, tensors["weights"])
    target = tensors["target"].numpy() if "target" in tensors else None
    table, probabilities = open_probabilities(
        described["init_from"], config.data, tasks, batch_size=config.eval.batch_size, device=machine.device
    )
    run.set_data(table.name, table.fingerprint, table.sizes)
    run.set_model(described["name"], described["kind"], len(tasks), 0)
    run.set_protocol(**protocol(table, measure))
    run.set_environment(machine.describe())
    split = config.eval.split
    slates, labels = labelled(table, probabilities, split, tasks)
    judged = judge(model, slates, labels, measure, target)
    naive = None if target is None else naive_error(measure, slates, target)
    record(run, split, judged, model, getattr(config.data, "unwanted", ()), naive)
    section(run, {split: judged}, model, target, "")
    record_pages(run, split, model, probabilities, table.encoder, config)
    logger.info("%s", sentence(split, judged, model))
