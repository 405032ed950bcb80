"""Sequences a second of our batches against a shuffled DataLoader over TensorDataset, of as many and as long ones.

    python scripts/bench/batcher.py [--events 1000000] [--batch-size 1024] [--rounds 3]

Ours cuts windows of 50 items from users' events as it goes; the peer has them ready as tables. Medians over interleaved
rounds of processor time, one thread; the epoch's shuffle is counted on both sides.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from recsysml.data.interaction_data import InteractionSplit, by_user
from recsysml.data.sequence_batches import SequenceBatches

LENGTH = 50


def rate(batches: Iterable[Any], rows: int) -> float:
    started = time.process_time()  # what others do on the machine is not in it
    for batch in batches:
        batch[0][0, 0].item()  # touched, as a step would
    return rows / (time.process_time() - started)


def measure(events: int = 1_000_000, batch_size: int = 1024, rounds: int = 3) -> dict[str, float]:
    random = np.random.default_rng(1)
    n_users, n_items = events // 50, 20_000
    users, items = random.integers(n_users, size=events), random.integers(n_items, size=events)
    rows = by_user(InteractionSplit(users, items, np.arange(events, dtype=np.float64)), n_users)
    settings = {"n_items": n_items, "length": LENGTH}
    whole = SequenceBatches(rows.offsets, rows.items, np.arange(n_users), **settings, batch_size=n_users, seed=0)
    peer = TensorDataset(*whole[0])
    found: dict[str, list[float]] = {"ours": [], "dataloader": []}
    for turn in range(rounds):
        # a seed of its own each round, so that no permutation is ready
        ours = SequenceBatches(
            rows.offsets, rows.items, np.arange(n_users), **settings, batch_size=batch_size, seed=1 + turn
        )
        steps = ours.batches_per_epoch
        found["ours"].append(rate((ours[i] for i in range(steps)), steps * batch_size))
        found["dataloader"].append(rate(DataLoader(peer, batch_size=batch_size, shuffle=True), len(peer)))
    medians = {who: statistics.median(each) for who, each in found.items()}
    return medians | {"ratio": medians["ours"] / medians["dataloader"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(arguments.events, arguments.batch_size, arguments.rounds)
    print(
        f"sequences of {LENGTH}: {found['ours']:,.0f} a second, a shuffled DataLoader over TensorDataset"
        f" {found['dataloader']:,.0f}: {found['ratio']:.0f}x"
    )


if __name__ == "__main__":
    main()
