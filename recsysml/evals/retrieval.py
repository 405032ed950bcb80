"""A retriever judged on the full catalogue: ranks of what users turned to next, beside the simple methods' ranks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recsysml import lazy, plots, sections
from recsysml.data import KINDS as DATA
from recsysml.data.interaction_data import Interactions
from recsysml.data.progress import progress
from recsysml.engine import device
from recsysml.errors import ConfigError
from recsysml.metrics import retrieval as metrics
from recsysml.models import KINDS as MODELS
from recsysml.models.histories import Histories
from recsysml.models.retriever import Retriever
from recsysml.models.stages import StagedRetriever
from recsysml.models.top_k import top_k
from recsysml.retrieval.health import Health, health
from recsysml.retrieval.opening import open_retriever
from recsysml.retrieval.questions import Questions, questions, training
from recsysml.schemas import SCHEMAS

logger = logging.getLogger("recsysml")

HEALTH_ROWS = 2048  # vectors that health is taken of: its pairs are a matrix of that many squared
IN_BATCH_BATCHES = 8
_NOTE = "Bars are 95% intervals, the dashed line is popularity's value. A spectrum that falls early is a collapse."


@dataclass
class Judged:
    """Per-user values (R,) of each metric, such as `recall@10`, and what has one value for all users."""

    users: dict[str, np.ndarray]
    ranks: np.ndarray  # (N,) of the targets
    coverage: dict[str, float] = field(default_factory=dict)
    in_batch: np.ndarray | None = None  # (M,) 1 where the pair's own item won
    health: Health | None = None

    def values(self, split: str) -> dict[str, float]:
        """The means by full name, for metrics.jsonl."""
        return {f"{split}/{name}": float(values.mean()) for name, values in self.users.items()}


def judge(
    retriever: Retriever, asked: Questions, *, mask_seen: bool, ks: list[int], batch_size: int, whole: bool = False
) -> Judged:
    """Score the full catalogue for every row of `asked`, `batch_size` rows at a time.

    whole: also coverage, the in-batch hit rate and the health of vectors, which validation on the way does without.
    """
    deepest = min(max(ks), retriever.n_items)
    ranks = np.empty(len(asked.targets))
    tops = []
    owner = asked.rows
    n_rows = len(asked.histories)
    with progress("judging", n_rows) as advance:
        for start in range(0, n_rows, batch_size):
            stop = min(start + batch_size, n_rows)
            part = asked.histories.part(start, stop)
            scores = np.array(retriever.scores(part), dtype=np.float32)  # a copy: some give a view of their own
            if mask_seen:
                scores[part.owners, part.items] = -np.inf
            targets = slice(asked.offsets[start], asked.offsets[stop])
            ranks[targets] = metrics.mid_ranks(scores, owner[targets] - start, asked.targets[targets])
            if whole:
                tops.append(top_k(scores, deepest)[0])
            advance(stop - start)
    users: dict[str, np.ndarray] = {}
    for k in ks:
        users[f"recall@{k}"] = metrics.recall(ranks, asked.offsets, k)
        users[f"ndcg@{k}"] = metrics.ndcg(ranks, asked.offsets, k)
        users[f"hit_rate@{k}"] = metrics.hit_rate(ranks, asked.offsets, k)
    users["mrr"] = metrics.reciprocal_rank(ranks, asked.offsets)
    judged = Judged(users, ranks)
    if whole:
        shown = np.concatenate(tops)
        judged.coverage = {f"coverage@{k}": metrics.coverage(shown[:, :k], retriever.n_items) for k in ks}
        judged.in_batch = _in_batch(retriever, asked)
        judged.health = _health(retriever, asked)
    return judged


def _pairs(asked: Questions) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N,) and targets (N,) in an order that is random and always the same."""
    order = np.random.default_rng(0).permutation(len(asked.targets))
    return asked.rows[order], asked.targets[order]


def rows_of(histories: Histories, rows: np.ndarray) -> Histories:
    """The rows (M,) of `histories` in that order, repeats included."""
    lengths = histories.lengths[rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    events = np.arange(offsets[-1]) + np.repeat(histories.offsets[rows] - offsets[:-1], lengths)
    return Histories(histories.users[rows], offsets, histories.items[events], histories.times[events])


def _in_batch(retriever: Retriever, asked: Questions) -> np.ndarray:
    """In-batch hits of up to eight batches of 1,024 pairs; where there are fewer pairs, of one batch of them all."""
    rows, targets = _pairs(asked)
    size = min(metrics.IN_BATCH, len(rows))
    hits = []
    for start in range(0, min(len(rows) - size + 1, IN_BATCH_BATCHES * size), size):
        batch = slice(start, start + size)
        scores = np.asarray(retriever.scores(rows_of(asked.histories, rows[batch])))
        hits.append(metrics.in_batch_hits(scores[:, targets[batch]], targets[batch]))
    return np.concatenate(hits)


def _health(retriever: Any, asked: Questions) -> Health | None:
    """Of a sample of the vectors, where the retriever has any."""
    if not hasattr(retriever, "item_vectors"):
        return None
    rows, targets = (found[:HEALTH_ROWS] for found in _pairs(asked))
    items = retriever.item_vectors()
    users = retriever.user_vectors(rows_of(asked.histories, rows))
    if users.ndim == 3:  # of several vectors the one that is nearest to the target speaks for the user
        nearest = np.einsum("nhc,nc->nh", users, items[targets]).argmax(axis=1)
        users = users[np.arange(len(users)), nearest]
    drawn = items[np.random.default_rng(0).permutation(len(items))[:HEALTH_ROWS]]
    return health(users, items[targets], drawn, items)


def baselines(
    names: list[str], data: Interactions, asked: Mapping[str, Questions], **how: Any
) -> dict[str, dict[str, Judged]]:
    """Each simple method, fitted on the training events and judged like the model: split -> name -> what it got.

    A method is left out with a warning where the catalogue is too large for it, or it needs times and there are none.
    """
    events = training(data)
    found: dict[str, dict[str, Judged]] = {split: {} for split in asked}
    if names:
        logger.info("fitting what the model is compared with (%s) and judging it", ", ".join(names))
    for name in names:
        if name == "recent_popularity" and not data.timed:
            logger.warning("baseline %s is left out: %s has no times", name, data.name)
            continue
        config = lazy.resolve(SCHEMAS["model"][name])()
        try:
            method = lazy.resolve(MODELS[name])(config, len(data.item_ids))
        except ConfigError as error:
            logger.warning("baseline %s is left out: %s", name, error)
            continue
        method.fit(events)
        for split, part in asked.items():
            found[split][name] = judge(method, part, **how, whole=True)
    return found


def first_stage(
    run: Any, retriever: Retriever, asked: Mapping[str, Questions], *, mask_seen: bool, ks: list[int], batch_size: int
) -> dict[str, dict[str, Judged]]:
    """Of a retriever in two stages the first one alone, judged like the whole: split -> `stage_one` -> what it got;
    nothing of any other retriever.

    Records `candidate_recall@n`: how many of the targets stage two is given at all, the most that it can find.
    """
    found: dict[str, dict[str, Judged]] = {split: {} for split in asked}
    if isinstance(retriever, StagedRetriever):
        n, alone = retriever.n_candidates, retriever.first_stage()
        for split, part in asked.items():
            judged = judge(alone, part, mask_seen=mask_seen, ks=[*ks, n], batch_size=batch_size, whole=True)
            value, error = metrics.mean(judged.users[f"recall@{n}"])
            run.metric(f"{split}/candidate_recall@{n}", value, stderr=error, n=len(part.histories), better="higher")
            found[split]["stage_one"] = judged
    return found


def record(
    run: Any, split: str, judged: Judged, simple: Mapping[str, Judged], asked: Questions, data: Interactions
) -> None:
    """Put a split's metrics, with popularity as `baseline` and the other methods by name, and the per-user scores into
    the run's record; then the same by the targets' popularity decile and by the length of the users' histories."""
    ids = [data.user_ids[user] for user in asked.histories.users]
    for name, values in judged.users.items():
        value, error = metrics.mean(values)
        others = {label: float(other.users[name].mean()) for label, other in simple.items()}
        _metric(run, f"{split}/{name}", value, error, len(values), others)
        run.add_examples(f"{split}/{name}", ids, values)
    for name, value in judged.coverage.items():
        others = {label: other.coverage[name] for label, other in simple.items()}
        _metric(run, f"{split}/{name}", value, None, len(ids), others)
    if judged.in_batch is not None:
        value, error = metrics.mean(judged.in_batch)
        others = {label: float(o.in_batch.mean()) for label, o in simple.items() if o.in_batch is not None}
        _metric(run, f"{split}/in_batch_hit_rate@1", value, error, len(judged.in_batch), others)
    parts = _record_groups(run, split, judged, simple, asked, data)
    if judged.health is not None:
        for name, (value, better) in judged.health.values.items():
            run.metric(f"{split}/{name}", value, stderr=None, n=len(ids), better=better)
        parts += _show_vectors(run, split, judged.health, data)
    run.section(f"retrieval_{split}", f"Retrieval: {split}", parts, _NOTE)


def _metric(run: Any, name: str, value: float, error: float | None, n: int, others: dict[str, float]) -> None:
    baseline = others.pop("popularity", None)
    run.metric(name, value, stderr=error, n=n, better="higher", baseline=baseline, baselines=others)


def _record_groups(
    run: Any, split: str, judged: Judged, simple: Mapping[str, Judged], asked: Questions, data: Interactions
) -> list[dict[str, Any]]:
    """The first recall and ndcg of the config by group: deciles judge targets, histories judge users. What they give
    is returned as parts of a section."""
    name = next(iter(judged.users))  # recall@k of the first k
    k = int(name.partition("@")[2])
    bars: dict[str, list[dict[str, Any]]] = {"decile": [], name: [], f"ndcg@{k}": []}

    def put(bar: str, label: str, metric: str, values: np.ndarray, others: dict[str, float]) -> None:
        value, error = metrics.mean(values)
        spread = 1.96 * error if error is not None else None
        low, high = (None, None) if spread is None else (value - spread, value + spread)
        bars[bar].append(
            {"label": label, "value": value, "low": low, "high": high, "baseline": others.get("popularity")}
        )
        _metric(run, f"{split}/{metric}", value, error, len(values), others)

    deciles = _deciles(data)[asked.targets]  # (N,)
    for decile in np.unique(deciles):
        group = deciles == decile
        others = {label: float((other.ranks[group] <= k).mean()) for label, other in simple.items()}
        hits = (judged.ranks[group] <= k).astype(np.float64)
        put("decile", str(decile), f"popularity_decile_{decile}/{name}", hits, others)
    groups, names = metrics.history_groups(asked.histories.lengths)
    for number in np.unique(groups):
        group = groups == number
        for metric in (name, f"ndcg@{k}"):
            others = {label: float(other.users[metric][group].mean()) for label, other in simple.items()}
            put(metric, names[number], f"history_{names[number]}/{metric}", judged.users[metric][group], others)
    return [
        sections.bars("By popularity decile of what was turned to (10: the most popular)", name, bars["decile"]),
        *(sections.bars("By events in the user's history", m, bars[m]) for m in (name, f"ndcg@{k}")),
    ]


def _show_vectors(run: Any, split: str, found: Health, data: Interactions) -> list[dict[str, Any]]:
    """Draw the spectra and the norms, and return them as parts of a section."""
    deciles = _deciles(data)
    norms = {int(decile): float(found.item_norms[deciles == decile].mean()) for decile in np.unique(deciles)}
    run.artifact("plots", str(plots.vector_plot(run.path, split, found.spectra, norms).relative_to(run.path)))
    named = {who: (range(1, len(shares) + 1), shares.tolist()) for who, shares in found.spectra.items()}
    rows = [{"label": str(decile), "value": value} for decile, value in norms.items()]
    return [
        sections.curves("Singular values of the vectors", "rank", "share of their sum", named, log_y=True),
        sections.bars("Length of item vectors by popularity decile", "mean length", rows),
    ]


def _deciles(data: Interactions) -> np.ndarray:
    """(I,) each item's popularity decile, by the events that are learnt from."""
    return metrics.popularity_deciles(np.bincount(data.fitted.items, minlength=len(data.item_ids)))


def sentence(split: str, judged: Judged, simple: Mapping[str, Judged]) -> str:
    """One line for the screen: the first k's recall and ndcg, beside the baselines'."""
    name = next(iter(judged.users))
    k = name.partition("@")[2]
    said = []
    for metric in (name, f"ndcg@{k}"):
        others = ", ".join(f"{label} {other.users[metric].mean():.4f}" for label, other in simple.items())
        said.append(f"{split}/{metric} {judged.users[metric].mean():.4f}" + (f" ({others})" if others else ""))
    return "; ".join(said)


def protocol(data: Interactions, asked: Mapping[str, Questions], *, mask_seen: bool) -> dict[str, Any]:
    """How it was judged, for results.json: runs that differ here do not compare."""
    return {
        "split": data.split,
        "mask_seen": mask_seen,
        "ties": "mid-rank",
        "candidates": "full",
        "fit_range": data.fit_range,
        "in_batch": {name: min(metrics.IN_BATCH, len(part.targets)) for name, part in asked.items()},
        "left_out": {name: part.left_out for name, part in asked.items()},
    }


def evaluate_checkpoint(config: Any, checkpoint_dir: Path, run: Any) -> None:
    """`recsysml eval` of a retriever: judge a checkpoint on `config.eval.split` of `config.data`."""
    data: Interactions = lazy.resolve(f"{DATA[config.data.kind]}:load")(config.data)
    machine = device.prepare(device.resolve_device(config.device), "fp32", threads=config.threads, deterministic=True)
    opened = open_retriever(checkpoint_dir, machine.device)
    opened.check_ids(data)
    split, mask_seen = config.eval.split, config.data.mask_seen
    # the protocol speaks of both splits, as a training's does: else the two would not compare
    both = {name: questions(data, name, mask_seen=mask_seen) for name in ("val", "test")}
    asked = {split: both[split]}
    how = {"mask_seen": mask_seen, "ks": config.eval.ks, "batch_size": config.eval.batch_size}
    run.set_data(data.name, data.fingerprint, data.sizes)
    run.set_model(opened.name, opened.kind, opened.parameters, 0)
    run.set_protocol(**protocol(data, both, mask_seen=mask_seen))
    run.set_environment(machine.describe())
    judged = judge(opened.retriever, asked[split], **how, whole=True)
    simple = baselines(config.eval.baselines, data, asked, **how)[split]
    simple |= first_stage(run, opened.retriever, asked, **how)[split]
    record(run, split, judged, simple, asked[split], data)
