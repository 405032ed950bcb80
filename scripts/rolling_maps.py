"""Maps of probabilities that are fitted once against maps that are fitted again and again to the rows just before.

    python scripts/rolling_maps.py RUN... [--judge FROM TO] [--windows 500 1000 2000 4000] [--every 100]

Each run's ranker stays as it was trained. Once: on all rows between those it learnt from and those that are judged
(test, or with --judge these shares of the log, which must lie behind what it learnt from). Of a window: each --every
judged rows have a map of their own, fitted on so many rows before the first of them (fewer where the ranker had learnt
from those), so that no row's answer has a part in its own map. Answers count as known at once, as they do in features
of the past. Figures are means over the runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit

from recsysml import config as configs
from recsysml import lazy
from recsysml.data import KINDS as DATA
from recsysml.metrics import calibration, ranking
from recsysml.ranking.calibrating import fit_calibration
from recsysml.ranking.opening import open_ranker
from recsysml.ranking.scoring import logits

COLUMNS = ("NE", "AUC", "ECE", "z", "predicted / observed")


def mapped(kind: str, z: np.ndarray, y: np.ndarray, fresh: np.ndarray) -> np.ndarray:
    """fresh (m, T) logits by the map of each task that has the least log loss on logits z and labels y (n, T)."""
    with torch.no_grad():
        return fit_calibration(kind, z, y)(torch.from_numpy(fresh).float()).double().numpy()


def again(kind: str, z: np.ndarray, y: np.ndarray, begin: int, window: int, every: int) -> np.ndarray:
    """z, y (N, T) in order of time -> (N - begin, T): rows from `begin` on, mapped by what came before them."""
    found = []
    for at in range(begin, len(z), every):
        before = slice(max(0, at - window), at)
        found.append(mapped(kind, z[before], y[before], z[at : at + every]))
    return np.concatenate(found)


def judged(z: np.ndarray, y: np.ndarray) -> tuple[float, ...]:
    """The COLUMNS of one task: logits and labels (n,)."""
    p = expit(z)
    ece = calibration.expected_calibration_error(p, y)
    ratio = calibration.predicted_over_observed(p, y)[0]
    return ranking.normalised_entropy(z, y)[0], ranking.auc(z, y)[0], ece.value, ece.z, ratio


def of_run(path: Path, shares: list[float] | None, windows: list[int], every: int) -> tuple[list[str], dict[str, Any]]:
    """The tasks, and of each way (T, COLUMNS)."""
    made_with = configs.read_run(path)
    opened = open_ranker(path / "checkpoints" / "last")
    table = lazy.resolve(f"{DATA[made_with.data.kind]}:load_impressions")(made_with.data, opened.encoder)
    tasks, n = opened.model.tasks, len(table.labels)
    begin, stop = [round(share * n) for share in shares] if shares else table.bounds["test"]
    first = table.fitted[1]  # the ranker has learnt from all before
    z = logits(opened.model, table, (first, stop), batch_size=4096, calibrated=False)
    y = table.labels[first:stop, [list(table.shape.tasks).index(task) for task in tasks]].astype(np.float64)
    own = begin - first
    print(f"{path.name}: maps of {own:,} rows or of a window, judged on {stop - begin:,}")
    scored = {"none": z[own:], "Platt, once": mapped("platt", z[:own], y[:own], z[own:])}
    for window in windows:
        scored[f"Platt, of the last {window:,}"] = again("platt", z, y, own, window, every)
    found = {name: np.array([judged(q[:, t], y[own:, t]) for t in range(len(tasks))]) for name, q in scored.items()}
    return tasks, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--judge", nargs=2, type=float, metavar=("FROM", "TO"))
    parser.add_argument("--windows", nargs="+", type=int, default=[500, 1000, 2000, 4000])
    parser.add_argument("--every", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = [of_run(path, arguments.judge, arguments.windows, arguments.every) for path in arguments.runs]
    print(f"| task | map | {' | '.join(COLUMNS)} |\n|{' --- |' * (2 + len(COLUMNS))}")
    for place, task in enumerate(runs[0][0]):
        for name in runs[0][1]:
            values = np.mean([found[name][place] for _, found in runs], axis=0)
            print(f"| {task} | {name} | {' | '.join(f'{value:.4f}' for value in values)} |")


if __name__ == "__main__":
    main()
