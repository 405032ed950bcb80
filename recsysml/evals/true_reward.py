"""What an order by a ranker's probabilities is truly worth: its slates held against the laws of the simulated world.

Each test request's items are put into the order of a fixed value model, scored as when serving, and the expected
reward of that slate follows from the world's laws, leaving included. No luck of a log is in it, only of which requests
there are, so that runs are compared request by request.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from recsysml import sections
from recsysml.data.impression_data import ImpressionTable
from recsysml.data.world import load_impressions
from recsysml.data.world_laws import Moment, responses
from recsysml.data.world_log import open_world
from recsysml.data.world_sessions import SLATE
from recsysml.data.world_truth import Truth, open_truth, reward
from recsysml.engine import device
from recsysml.errors import ConfigError
from recsysml.models.value_model import ValueModel
from recsysml.ranking.calibrating import map_to_judge
from recsysml.ranking.opening import arranged, open_ranker
from recsysml.ranking.scoring import logits
from recsysml.schemas.data import WorldConfig

logger = logging.getLogger("recsysml")


@dataclass(frozen=True)
class Shown:
    """R requests of a split, of which `real` (R, SLATE) places were seen."""

    requests: np.ndarray  # (R,) their ids
    items: np.ndarray  # (R, SLATE) top first
    real: np.ndarray
    moment: Moment
    truth: Truth

    def value(self, scores: np.ndarray, weights: dict[str, float]) -> np.ndarray:
        """(R,) true expected reward of the items in the order of scores (R, SLATE), as far as they were seen."""
        order = np.argsort(-np.where(self.real, scores, -np.inf), axis=1, kind="stable")
        items = np.take_along_axis(self.items, order, axis=1)  # what was seen stays in front
        laws = responses(self.truth.population, self.truth.latent, self.moment, items, np.arange(SLATE))
        stays = np.cumprod(1 - laws.leave, axis=1)
        there = np.concatenate([np.ones((len(stays), 1)), stays[:, :-1]], axis=1)
        return np.asarray((self.real * there * reward(laws, weights)).sum(axis=1))

    def true_scores(self, weights: dict[str, float]) -> np.ndarray:
        """(R, SLATE) true expected reward of each item, were it at the top."""
        return reward(self.truth.responses(self.moment, self.items), weights)


def check(config: Any) -> None:
    """Raises ConfigError where no truth is known of the data."""
    if not isinstance(config.data, WorldConfig):
        raise ConfigError(f"eval=true_reward: only of data=world the truth is known, not of data={config.data.name}.")


def shown(config: WorldConfig, table: ImpressionTable, rows: tuple[int, int]) -> Shown:
    """The requests of rows from and to of the world's table, in its order."""
    own = table.requests[rows[0] : rows[1]]
    wanted, counts = np.unique(own, return_counts=True)
    world, truth = open_world(config), open_truth(config)
    ids, items, seen, moments = [], [], [], []
    for index in range(len(world)):
        requests, _ = world.slice(index)
        taken = np.flatnonzero(np.isin(requests.ids, wanted))
        if len(taken):
            ids.append(requests.ids[taken])
            items.append(np.take_along_axis(requests.candidates[taken], requests.slate[taken], axis=1))
            seen.append(requests.shown[taken])
            moments.append(_part(truth.behind(index).moment, taken))
    order = np.argsort(np.concatenate(ids))  # as `wanted` is
    real = np.arange(SLATE) < np.concatenate(seen)[order, None]
    assert np.array_equal(real.sum(axis=1), counts), "the table is not of this world"
    moment = Moment(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in moments])[order]
            for field in dataclasses.fields(Moment)
        }
    )
    return Shown(wanted, np.concatenate(items)[order], real, moment, truth)


def record(
    run: Any,
    split: str,
    config: Any,
    model: Any,
    table: ImpressionTable,
    machine: Any,
) -> None:
    """Put the true reward of a split's slates into the run's record, beside that of the logged order and of the order
    by the truth. config: a RunConfig with a TrueRewardEvalConfig; model: a ranker in eval mode."""
    rows, weights = table.bounds[split], dict(config.eval.reward)
    value_model = ValueModel(model.tasks, weights, config.eval.value)
    if unknown := [task for task in weights if task not in model.tasks and not config.eval.value]:
        raise ConfigError(f"eval.reward: the model does not predict {unknown[0]}; add it to model.tasks.")
    how = {"batch_size": config.eval.batch_size, "device": machine.device, "placed": False}
    requests = shown(config.data, table, rows)

    def value(scores: np.ndarray) -> np.ndarray:
        by_row = value_model.values(expit(scores))
        # rows of a request are side by side in order of place; requests stand in the order of `Shown`
        placed = np.zeros(requests.real.shape)
        order = np.argsort(table.requests[rows[0] : rows[1]], kind="stable")
        placed[requests.real] = by_row[order]
        return requests.value(placed, weights)

    served = value(logits(model, table, rows, **how))
    logged = requests.value(-np.arange(SLATE) * np.ones(requests.real.shape), weights)
    others = {"by_truth": requests.value(requests.true_scores(weights), weights)}
    if model.calibration is not None:
        others["uncalibrated"] = value(logits(model, table, rows, **how, calibrated=False))
    n = len(served)
    run.metric(
        f"{split}/true_reward", float(served.mean()), stderr=float(served.std(ddof=1) / np.sqrt(n)), n=n,
        better="higher", baseline=float(logged.mean()),
        baselines={name: float(each.mean()) for name, each in others.items()},
    )  # fmt: skip
    run.add_examples(f"{split}/true_reward", [str(id_) for id_ in requests.requests], served)
    _section(run, split, logged, {"served": served, **others})
    said = ", ".join(f"{name} {each.mean():.4f}" for name, each in {"as logged": logged, **others}.items())
    logger.info("%s/true_reward %.4f a request (%s)", split, served.mean(), said)


def _section(run: Any, split: str, logged: np.ndarray, orders: dict[str, np.ndarray]) -> None:
    """What each order brings beyond the logged one, request by request, as bars; and what the calibration adds."""
    gains = {name: each - logged for name, each in orders.items()}
    bars = [
        {"label": name, "value": gain.mean(), "low": gain.mean() - 1.96 * error, "high": gain.mean() + 1.96 * error}
        for name, gain in gains.items()
        for error in [gain.std(ddof=1) / np.sqrt(len(gain))]
    ]
    note = f"The logged order brings {logged.mean():.4f} a request. Intervals of 95%, paired by request."
    if "uncalibrated" in gains:
        own = gains["served"] - gains["uncalibrated"]
        note += f" The calibration adds {own.mean():.4f} ± {own.std(ddof=1) / np.sqrt(len(own)):.4f} (standard error)."
    parts = [sections.bars("Beyond the order as logged", "expected reward a request", bars)]
    run.section(f"true_reward_{split}", f"True reward, {split}", parts, note)


def evaluate_checkpoint(config: Any, checkpoint_dir: Path, run: Any) -> None:
    """`recsysml eval CHECKPOINT eval=true_reward` of a ranker."""
    check(config)
    machine = device.prepare(device.resolve_device(config.device), "fp32", threads=config.threads, deterministic=True)
    opened = open_ranker(checkpoint_dir, machine.device)
    table = arranged(load_impressions(config.data, opened.encoder), opened)
    run.set_data(table.name, table.fingerprint, table.sizes)
    run.set_model(opened.name, opened.kind, opened.parameters, 0)
    split = config.eval.split
    maps = map_to_judge(opened, split, table, batch_size=config.eval.batch_size, device=machine.device)
    how = {"slates": "as far as seen", "positions": "as when serving", "calibrated_on": maps}
    run.set_protocol(split="time", fit_range=table.fit_range, **how)
    run.set_environment(machine.describe())
    record(run, split, config, opened.model, table, machine)


def _part(moment: Moment, rows: np.ndarray) -> Moment:
    return Moment(**{field.name: getattr(moment, field.name)[rows] for field in dataclasses.fields(Moment)})
