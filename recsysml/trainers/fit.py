"""Models that are computed from counts in one go: fit, save, judge."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch

from recsysml import lazy
from recsysml.data import KINDS as DATA
from recsysml.data.interaction_data import Interactions, warn_of_split
from recsysml.engine import checkpoint, device
from recsysml.evals import retrieval as evals
from recsysml.retrieval.opening import build, metadata
from recsysml.retrieval.questions import questions, training
from recsysml.schemas.run import RunConfig

logger = logging.getLogger("recsysml")


def train(config: RunConfig, run: Any) -> None:
    """Fit the model on the training events, write checkpoints/best, judge it on val and test beside the baselines.

    `config` is resolved. Under torchrun only the main process works: `run` is None in the others.
    """
    if run is None:
        return
    data: Interactions = lazy.resolve(f"{DATA[config.data.kind]}:load")(config.data)
    warn_of_split(data)
    machine = device.prepare(device.resolve_device(config.device), "fp32", threads=config.threads, deterministic=True)
    model = build(config.model, len(data.item_ids), len(data.user_ids))
    mask_seen = config.data.mask_seen
    asked = {split: questions(data, split, mask_seen=mask_seen) for split in ("val", "test")}
    run.drop_metrics_after(-1)
    run.set_data(data.name, data.fingerprint, data.sizes)
    run.set_protocol(**evals.protocol(data, asked, mask_seen=mask_seen))
    run.set_environment(machine.describe())

    events = training(data)
    started = time.perf_counter()
    model.fit(events)
    seconds = time.perf_counter() - started
    tensors = {name: torch.from_numpy(array) for name, array in model.arrays().items()}
    parameters = sum(tensor.numel() for tensor in tensors.values())
    run.set_model(config.model.name, config.model.kind, parameters, parameters)
    described = metadata(config.model, config.model.name, data)
    checkpoint.save(run.path / "checkpoints", 0, tensors, {}, described, keep=1, is_best=True)
    run.artifact("checkpoint", "checkpoints/best")
    logger.info("%s: fitted on %s events of %s in %.1f s", config.model.name, len(events.items), data.name, seconds)

    how = {"mask_seen": mask_seen, "ks": config.eval.ks, "batch_size": config.eval.batch_size}
    simple = evals.baselines(config.eval.baselines, data, asked, **how)
    for split, part in asked.items():
        judged = evals.judge(model, part, **how, whole=True)
        run.log(0, judged.values(split))
        evals.record(run, split, judged, simple[split], part, data)
        logger.info("%s", evals.sentence(split, judged, simple[split]))
