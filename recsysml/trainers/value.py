"""Training of a value model: weights, on val, that give every task the importance it was named with; judged on test."""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Any

import numpy as np
import torch

from recsysml.engine import checkpoint, device
from recsysml.errors import JobError
from recsysml.evals import value as evals
from recsysml.models.value_expression import ValueExpression
from recsysml.models.value_model import ValueModel, solve
from recsysml.ranking.task_probabilities import open_probabilities
from recsysml.schemas.run import RunConfig

logger = logging.getLogger("recsysml")


def train(config: RunConfig, run: Any) -> None:
    """Find the weights on val, which no ranker has learnt from, write checkpoints/best, judge val and test.

    Probabilities are as the ranker serves them, by the map that is kept with it, although that was fitted to val too:
    weights belong to the probabilities that they will weigh, and what they are searched by, the shares of importance,
    reads no label. What val says of labels (NDCG) is of rows the map has seen: test is what is to be believed.

    `config` is resolved. With `model.weights` or `model.expression` there is nothing to find, only to judge. Under
    torchrun only the main process works: `run` is None in the others.
    """
    if run is None:
        return
    settings, how = config.model, config.trainer
    expression = settings.expression
    known = list(config.data.task_types())
    shares_asked = settings.asked(config.data)
    tasks = ValueExpression(expression, known).tasks if expression else list(shares_asked or settings.weights)
    top, note = settings.top_expression, ""
    if top:
        tasks = list(dict.fromkeys([*tasks, *ValueExpression(top, known, "model.top_expression").tasks]))
        places = "place goes" if settings.top_places == 1 else f"{settings.top_places} places go"
        note = f"The first {places} by {top}."
    machine = device.prepare(device.resolve_device(config.device), "fp32", threads=config.threads, deterministic=True)
    table, probabilities = open_probabilities(
        settings.init_from, config.data, tasks, batch_size=config.eval.batch_size, device=machine.device
    )
    run.drop_metrics_after(-1)
    run.set_data(table.name, table.fingerprint, table.sizes)
    run.set_model(settings.name, settings.kind, len(tasks), len(shares_asked))
    run.set_protocol(**evals.protocol(table, how.measure))
    run.set_environment(machine.describe())
    split_slates = {split: evals.labelled(table, probabilities, split, tasks) for split in ("val", "test")}
    for split, (slates, _) in split_slates.items():
        if not len(slates.requests):
            raise JobError(f"{table.name}: no request of {split} has two items or more: there is nothing to rank")

    target, weights = None, settings.weights
    if shares_asked:
        target = np.array([shares_asked[task] for task in tasks])
        started = time.perf_counter()
        found = solve(how.measure, split_slates["val"][0], target, how.tolerance, how.max_steps)
        seconds = time.perf_counter() - started
        weights = dict(zip(tasks, found.weights.tolist(), strict=True))
        said = ", ".join(f"{task} {share:.3f}" for task, share in zip(tasks, found.shares, strict=True))
        if found.reached:
            note = f"Asked and reached differ by {found.error:.4f} on val."
        else:
            note = f"The importance asked for cannot be had here: the nearest found is {said} (gap {found.error:.3f})."
            logger.warning("%s", note)
        logger.info(
            "%s: weights %s after %s rankings of %s slates in %.1f s; shares on val %s",
            settings.name, ", ".join(f"{task} {weight:.4g}" for task, weight in weights.items()), found.steps,
            f"{len(split_slates['val'][0].requests):,}", seconds, said,
        )  # fmt: skip
    model = ValueModel(tasks, weights, expression, top, settings.top_places)
    tensors = {"weights": torch.from_numpy(model.weights)}
    if target is not None:
        tensors["target"] = torch.from_numpy(target)
    described = {
        "name": settings.name, "kind": settings.kind, "tasks": tasks, "measure": how.measure,
        "expression": expression, "top_expression": top, "top_places": settings.top_places,
        "config": dataclasses.asdict(settings), "init_from": settings.init_from,
    }  # fmt: skip
    metadata = {"model": described, "data": {"name": table.name, "fingerprint": table.fingerprint}}
    checkpoint.save(run.path / "checkpoints", 0, tensors, {}, metadata, keep=1, is_best=True)
    run.artifact("checkpoint", "checkpoints/best")

    judged = {}
    for split, (slates, labels) in split_slates.items():
        judged[split] = evals.judge(model, slates, labels, how.measure, target)
        naive = None if target is None else evals.naive_error(how.measure, slates, target)
        evals.record(run, split, judged[split], model, getattr(config.data, "unwanted", ()), naive)
        logger.info("%s", evals.sentence(split, judged[split], model))
    evals.record_pages(run, "test", model, probabilities, table.encoder, config)
    run.log(0, {f"{split}/importance_l1": each.error[0] for split, each in judged.items() if each.error is not None})
    evals.section(run, judged, model, target, note)
