"""How the record of a training begins and ends, whatever is trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from recsysml import plots
from recsysml.engine import checkpoint
from recsysml.engine.checkpoint import Checkpoint
from recsysml.engine.device import Machine
from recsysml.engine.loop import Fitted

logger = logging.getLogger("recsysml")


def begin(
    run: Any, data: Any, config: Any, model: nn.Module, protocol: Mapping[str, Any], machine: Machine,
    resume: Checkpoint | None,
) -> str:  # fmt: skip
    """Write what is learnt from (`data`: name, fingerprint, sizes, fit_range), by what (`config`: name, kind), how it
    will be judged and where; drop what a resumed run had logged beyond its checkpoint. Returns the parameters' number
    as it is said."""
    run.drop_metrics_after(resume.step if resume else -1)
    if resume:
        logger.info("going on from %s", resume.path)
    parameters = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    run.set_data(data.name, data.fingerprint, data.sizes)
    run.set_model(config.name, config.kind, parameters, trainable)
    run.set_protocol(**protocol)
    run.set_environment(machine.describe())
    run.save()
    if data.fit_range == "train_val":
        logger.warning("data.fit_range=train_val: val is learnt from, so it says nothing; the last weights are used")
    return f"{parameters:,}"


def put_chosen_back(model: nn.Module, folder: Path, fit_range: str) -> str:
    """The best weights by val, or where val is learnt from the last ones, put into `model`, in eval mode. Returns which
    checkpoint under `folder` they are."""
    chosen = "last" if fit_range == "train_val" else "best"
    checkpoint.put_weights(model, checkpoint.load_weights(folder / chosen)[0], folder / chosen)
    model.eval()
    return chosen


def finish(run: Any, fitted: Fitted, best_by: str, chosen: str) -> None:
    """Write speed, checkpoint and curves into the record, and say them."""
    throughput = dict(fitted.throughput)
    logger.info("best weights: step %s of %s by %s", fitted.best_step, fitted.steps, best_by)
    if throughput["value"] is not None:
        run.set_throughput(**throughput)
        memory = throughput["peak_memory_bytes"] / 2**30
        logger.info("%s %s, %.2f GiB at most", f"{throughput['value']:,.0f}", throughput["unit"], memory)
    run.artifact("checkpoint", f"checkpoints/{chosen}")
    run.artifact("plots", str(plots.loss_plot(run.path).relative_to(run.path)))
