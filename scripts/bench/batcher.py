"""Rows a second of our batches against a shuffled DataLoader over TensorDataset, the same rows in the same run.

    python scripts/bench/batcher.py [--rows 200000] [--batch-size 1024] [--rounds 3]

Pairs are a user and an item; histories add the 50 items before, which the peer has ready as a table and ours cuts from
the events. Medians over interleaved rounds; the epoch's shuffle is counted on both sides.
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
from recsysml.data.row_batches import PairBatches, RowBatches

LENGTH = 50


def rate(batches: Iterable[Any], rows: int) -> float:
    started = time.perf_counter()
    for batch in batches:
        batch[0][0].item()  # touched, as a step would
    return rows / (time.perf_counter() - started)


def measure(rows: int = 200_000, batch_size: int = 1024, rounds: int = 3) -> dict[str, dict[str, float]]:
    random = np.random.default_rng(1)
    users, items = random.integers(rows // 50, size=rows), random.integers(20_000, size=rows)
    sequences = by_user(InteractionSplit(users, items, np.arange(rows, dtype=np.float64)), rows // 50)
    table = PairBatches(sequences, length=LENGTH, padding=20_000, batch_size=rows, seed=0)[0]
    peers = {"pairs": TensorDataset(table[0], table[1]), "histories": TensorDataset(*table)}
    found: dict[str, dict[str, list[float]]] = {name: {"ours": [], "dataloader": []} for name in peers}
    for turn in range(rounds):
        # a seed of its own each round, so that no permutation is ready
        pairs = RowBatches([users, items], batch_size, seed=turn)
        histories = PairBatches(sequences, length=LENGTH, padding=20_000, batch_size=batch_size, seed=100 + turn)
        for name, ours in (("pairs", pairs), ("histories", histories)):
            steps = ours.batches_per_epoch
            found[name]["ours"].append(rate((ours[i] for i in range(steps)), steps * batch_size))
            loader = DataLoader(peers[name], batch_size=batch_size, shuffle=True)
            found[name]["dataloader"].append(rate(loader, rows))
    medians = {name: {who: statistics.median(each) for who, each in part.items()} for name, part in found.items()}
    return {name: part | {"ratio": part["ours"] / part["dataloader"]} for name, part in medians.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, part in measure(arguments.rows, arguments.batch_size, arguments.rounds).items():
        print(
            f"{name}: {part['ours'] / 1e6:.1f} million rows/s, a shuffled DataLoader over TensorDataset"
            f" {part['dataloader'] / 1e6:.3f}: {part['ratio']:.0f}x"
        )


if __name__ == "__main__":
    main()
