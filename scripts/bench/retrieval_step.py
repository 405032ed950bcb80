"""What a training step of sasrec costs by its loss, on a catalogue that a full softmax feels.

    python scripts/bench/retrieval_step.py [--items 20000] [--rounds 10]

Forward, backward and AdamW on batches of the simulated world, one thread, interleaved, processor time. `encoder` is a
step without a loss over the catalogue: what no loss can save.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from retrieval import interleaved, use_threads
from torch import nn

from recsysml.data.sequence_batches import IGNORE, SequenceBatches
from recsysml.data.world import load
from recsysml.losses.hierarchical_softmax import huffman_tree
from recsysml.models import heads
from recsysml.models.histories import Histories
from recsysml.models.sasrec import SASRec
from recsysml.models.trimming import by_length
from recsysml.retrieval.co_occurrence import item_clusters
from recsysml.retrieval.questions import training
from recsysml.retrieval.row_loss import RowLoss
from recsysml.schemas.data import WorldConfig
from recsysml.schemas.retrievers import SASRecConfig
from recsysml.schemas.trainers import RetrievalTrainerConfig

LOSSES = ("full", "cluster", "hierarchical", "sampled")


def head_of(loss: str, events: Histories, n_items: int, width: int) -> nn.Module | None:
    if loss == "hierarchical":
        return heads.HierarchicalHead(width, huffman_tree(np.bincount(events.items, minlength=n_items)), 1.0)
    if loss == "cluster":
        return heads.ClusterHead(
            width, torch.from_numpy(item_clusters(events, n_items, round(math.sqrt(n_items)), 1)), 1.0
        )
    return None


def step_of(loss: str | None, events: Histories, n_items: int) -> Callable[[], None]:
    """A training step of a model of its own; without a loss the states are summed."""
    torch.manual_seed(1)
    settings = RetrievalTrainerConfig(loss=loss or "full")
    model = SASRec(SASRecConfig(), n_items)
    head = head_of(settings.loss, events, n_items, model.config.d_model)
    if head is not None:
        heads.attach(model, head)
    counts = torch.from_numpy(events.matrix(n_items).sum(axis=0))
    row_loss = RowLoss(settings, counts, torch.from_numpy(events.lengths), head=head)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    batches = SequenceBatches(
        events.offsets,
        events.items,
        events.users,
        n_items=n_items,
        length=model.context_length,
        batch_size=settings.batch_size,
        seed=1,
    )
    numbers = itertools.count()

    def step() -> None:
        inputs, targets, users = batches[next(numbers)]
        states = by_length(model, inputs, users, (targets != IGNORE).sum(dim=1).clamp(min=1))
        if loss is None:
            value = states.sum()
        else:
            value = row_loss(states, model.item_matrix() if row_loss.reads_items else None, targets, users)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(n_items: int = 20_000, rounds: int = 10) -> dict[str, Any]:
    """Median processor milliseconds of a step, with each loss and with none."""
    before = torch.get_num_threads()
    use_threads(1)
    try:
        events = training(load(WorldConfig(items=n_items, events=10 * n_items)))
        steps = {loss or "encoder": step_of(loss, events, n_items) for loss in (*LOSSES, None)}
        seconds = interleaved(steps, rounds)
    finally:
        use_threads(before)
    return {"items": n_items, **{name: 1000 * each for name, each in seconds.items()}}


def row(found: dict[str, Any]) -> tuple[str, str, str, str]:
    """For the table of all benchmarks."""
    others = ", ".join(f"{name} {found[name]:.0f} ms ({found['full'] / found[name]:.1f}x)" for name in LOSSES[1:])
    beside = f"full softmax {found['full']:.0f} ms; no loss at all {found['encoder']:.0f} ms"
    return (f"a step of sasrec by loss, {found['items']:,} items", "measured", others, beside)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    work, _, reached, beside = row(measure(arguments.items, arguments.rounds))
    print(f"{work}: {reached}; beside {beside}")


if __name__ == "__main__":
    main()
