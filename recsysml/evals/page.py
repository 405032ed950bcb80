"""Pages made of all that could have been shown, and what they truly bring: of a ranker or a value model.

The simulated world knows what comes of pages that nobody saw, so nothing is estimated. Beside every kind of page stand
the log's own (`baseline`) and one in the order of each item's true reward (`by_truth`), near the best there is.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsysml import sections
from recsysml.data import world, world_truth
from recsysml.data.world_candidates import Candidates
from recsysml.engine import checkpoint, device
from recsysml.errors import ConfigError
from recsysml.metrics import page as metrics
from recsysml.models.value_model import ValueModel, from_checkpoint
from recsysml.ranking.pages import make_pages, worth
from recsysml.ranking.task_probabilities import open_probabilities
from recsysml.schemas import SCHEMAS
from recsysml.schemas.value_expression import ParsedExpression

logger = logging.getLogger("recsysml")

# metric -> which way is better
BETTER = {
    "value": "higher", "session": "higher", "regret": "lower", "miscalibration": "lower", "similarity": "lower",
    "coverage": "higher",
}  # fmt: skip
NOTE = (
    "value: expected reward of a page, leaving counted in; session: with the requests that may follow. regret: what the"
    " page loses of the best items' reward. miscalibration: KL of the page's tags from the user's taste, in nats."
    " similarity: mean cosine of the page's items. coverage: effective share of all items that is shown."
)


@dataclass(frozen=True)
class Truth:
    """What the world knows of the candidates."""

    opened: world_truth.Truth
    moment: Any
    rewards: np.ndarray  # (R, M) of each at the top; 0 of what is no candidate
    best: np.ndarray  # (R, length) columns, by reward
    weights: dict[str, float]


def truth_of(config: Any, candidates: Candidates, length: int) -> Truth:
    """config: of the world."""
    opened, weights = world_truth.open_truth(config), dict(config.reward_weights)
    moment = world_truth.moments_of(opened, candidates.requests)
    laws = opened.responses(moment, candidates.items)
    rewards = np.where(candidates.offered, world_truth.reward(laws, weights), 0.0)
    return Truth(opened, moment, rewards, candidates.slates(rewards, length), weights)


def judge(pages: np.ndarray, candidates: Candidates, truth: Truth) -> dict[str, np.ndarray]:
    """Of pages (R, length), columns of the candidates: metric -> (R,), but coverage, which is one number (1,)."""
    items = np.take_along_axis(candidates.items, pages, axis=1)
    brought = world_truth.outcome(truth.opened, truth.moment, items, truth.weights)
    discounts = 1 / np.log2(np.arange(2, pages.shape[1] + 2))
    shown = metrics.shares(pages, candidates.categories)
    return {
        "value": brought.value,
        "session": brought.session,
        "regret": metrics.slate_regret(truth.rewards, pages, discounts),
        "miscalibration": metrics.miscalibration(candidates.taste, shown),
        "similarity": metrics.intra_list_similarity(pages, candidates.vectors),
        "coverage": np.array([metrics.coverage(items, len(truth.opened.population.born))]),
    }


def evaluate_checkpoint(config: Any, checkpoint_dir: Path, run: Any) -> None:
    """`recsysml eval` with eval=page: pages by a checkpoint, on `config.eval.split` of the world."""
    how = config.eval
    described = checkpoint.load_weights(checkpoint_dir)[1].get("model", {})
    if described.get("kind") not in SCHEMAS["model"] or not {"shape", "measure"} & set(described):
        raise ConfigError(
            f"{checkpoint_dir} holds a model of kind {described.get('kind')!r}: no ranker, no value model"
        )
    model, init_from = _value_model(described, checkpoint_dir, config)
    machine = device.prepare(device.resolve_device(config.device), "fp32", threads=config.threads, deterministic=True)
    table, probabilities = open_probabilities(
        init_from, config.data, model.tasks, batch_size=how.batch_size, device=machine.device
    )
    candidates = world.load_candidates(
        config.data, table.encoder, split=how.split, limit=how.requests, length=how.length
    )
    run.set_data(table.name, table.fingerprint, table.sizes)
    run.set_model(described["name"], described["kind"], len(model.tasks), 0)
    run.set_protocol(split="time", candidates="all offered", length=how.length, requests=len(candidates.requests))
    run.set_environment(machine.describe())
    truth = truth_of(config.data, candidates, how.length)
    values = worth(model, probabilities, candidates)
    judged = {
        name: judge(make_pages(name, values, candidates, how, config.seed), candidates, truth) for name in how.pages
    }
    logged = judge(candidates.logged[:, : how.length], candidates, truth)
    record(run, how.split, judged, logged, judge(truth.best, candidates, truth), candidates.requests)


def record(
    run: Any,
    split: str,
    judged: dict[str, dict[str, np.ndarray]],
    logged: dict[str, np.ndarray],
    best: dict[str, np.ndarray],
    requests: np.ndarray,
) -> None:
    """Put every page's metrics into the run's record, a table and bars into its report, lines on the screen."""
    ids = [str(id_) for id_ in requests]
    for page, own in judged.items():
        for name, each in own.items():
            error = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else None
            full = f"{split}/page/{page}/{name}"
            run.metric(
                full, float(each.mean()), stderr=error, n=len(ids), better=BETTER[name],
                baseline=float(logged[name].mean()), baselines={"by_truth": float(best[name].mean())},
            )  # fmt: skip
            if len(each) > 1:
                run.add_examples(full, ids, each)
    everything = {**judged, "as logged": logged, "by truth": best}
    rows = [[page, *(float(own[name].mean()) for name in BETTER)] for page, own in everything.items()]
    bars = []
    for page, own in everything.items():
        mean, error = float(own["value"].mean()), 1.96 * float(own["value"].std(ddof=1) / np.sqrt(len(ids)))
        bars.append({"label": page, "value": mean, "low": mean - error, "high": mean + error})
    parts = [sections.table("Pages", ["page", *BETTER], rows), sections.bars("True reward of a page", "reward", bars)]
    run.section("pages", f"Pages: {split}", parts, NOTE)
    for row in rows:
        said = ", ".join(f"{name} {value:.4f}" for name, value in zip(BETTER, row[1:], strict=True))
        logger.info("%s/page/%s: %s", split, row[0], said)


def _value_model(described: dict[str, Any], folder: Path, config: Any) -> tuple[ValueModel, str | None]:
    """The model of worth, and the ranker whose probabilities it takes (None: a logistic regression a task)."""
    expression = config.eval.expression
    if described["kind"] == "value_model":
        if expression:
            raise ConfigError("eval.expression: the value model of the checkpoint has its own; leave it out.")
        return from_checkpoint(described, checkpoint.load_weights(folder)[0]["weights"]), described["init_from"]
    known = described["config"]["tasks"] or list(described["shape"]["tasks"])
    if expression:
        tasks = ParsedExpression(expression, known, "eval.expression").tasks
        return ValueModel(tasks, {}, expression), str(folder)
    paid = {task: weight for task, weight in config.data.reward_weights.items() if task in known}
    if not paid:
        raise ConfigError("the model predicts nothing that the data pays for; say what counts: eval.expression=...")
    return ValueModel(list(paid), paid), str(folder)
