"""How many rows a map of probabilities needs: half of those held out, or all, on worlds whose truth is known.

    python scripts/map_rows.py RUN... [--maps NAME...] [--draws 20]

Half are those that chose no weights, all is what `train` fits the map that it keeps to. Every line has the mean over
runs of either, and of their difference, paired by run, with its 95% interval (Student's t over runs):

    labels       how far the mean label of the rows lies from their mean true probability
    by chance    how far it is to be expected to lie, were labels nothing but draws
    drift        how far what the ranker's mean probability lacks to the true one on test lies from what it lacks there
    perfect      of a ranker that gives the true probabilities, labels drawn anew --draws times on all rows: the share
                 of ECEs on test, after Platt's map, beyond two deviations of a perfect model's; and the largest of
                 all, in those deviations
    ECE, z, NE, within   of each map on the log's own labels: means over tasks; the share of ECEs within two deviations
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from scipy.special import expit, logit

from recsysml import config as configs
from recsysml.data.impression_data import CALIBRATION
from recsysml.data.world import load_impressions
from recsysml.data.world_log import open_world
from recsysml.data.world_truth import open_truth, p_true
from recsysml.metrics.calibration import expected_calibration_error
from recsysml.metrics.ranking import normalised_entropy
from recsysml.ranking.calibrating import fit_calibration
from recsysml.ranking.opening import open_ranker
from recsysml.ranking.scoring import logits
from recsysml.schemas.data import WorldConfig

MAPS = {"none": "none", "Platt": "platt", "beta": "beta", "isotonic": "isotonic", "isotonic layer": "isotonic_layer"}


class Rows(NamedTuple):
    """N rows from the first that is held out to the last of test; T binary tasks."""

    tasks: list[str]
    z: np.ndarray  # (N, T) the ranker's own logits
    y: np.ndarray  # (N, T) labels
    p: np.ndarray  # (N, T) true probabilities
    fits: tuple[slice, slice]  # half and all
    test: slice


def true_chances(config: WorldConfig, tasks: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(N, T) the true probability of every impression's labels, and (N,) its request, as the table of them has rows."""
    truth, parts, keys = open_truth(config), [], []
    for index, (requests, shown) in enumerate(open_world(config)):
        found, at = p_true(shown, truth.behind(index)), shown.requests
        parts.append(np.stack([found[task] for task in tasks], axis=1))
        keys.append((shown.positions, requests.ids[at], requests.times[at]))
    positions, ids, times = (np.concatenate(column) for column in zip(*keys, strict=True))
    order = np.lexsort((positions, ids, times))
    return np.concatenate(parts)[order], ids[order]


def of_run(path: Path) -> Rows:
    """A ranker's run on the world. Raises ValueError for other data."""
    made_with = configs.read_run(path)
    if not isinstance(made_with.data, WorldConfig):
        raise ValueError(f"{path}: the truth is known of data=world alone")
    opened = open_ranker(path / "checkpoints" / "best")
    table = load_impressions(made_with.data, opened.encoder)
    tasks = [task for task in opened.model.tasks if table.shape.tasks[task] == "binary"]
    p, ids = true_chances(made_with.data, tasks)
    assert np.array_equal(ids, table.requests), "rows stand in another order"
    start, stop = table.held_out[0], table.bounds["test"][1]
    z = logits(opened.model, table, (start, stop), batch_size=4096, calibrated=False)
    y = table.labels[start:stop, [list(table.shape.tasks).index(task) for task in tasks]].astype(np.float64)
    half, whole, test = (
        slice(span[0] - start, span[1] - start)
        for span in (table.bounds[CALIBRATION], table.held_out, table.bounds["test"])
    )
    return Rows(tasks, z[:, [opened.model.tasks.index(task) for task in tasks]], y, p[start:stop], (half, whole), test)


def judged(kind: str, z: np.ndarray, y: np.ndarray, fit: slice, test: slice) -> np.ndarray:
    """(T, 3) ECE, its z and NE on test after a map that is fitted to other rows."""
    mapped = fit_calibration(kind, z[fit], y[fit])
    with torch.no_grad():
        fresh = mapped(torch.from_numpy(z[test]).float()).double().numpy()
    found = []
    for own, labels in zip(fresh.T, y[test].T, strict=True):
        ece = expected_calibration_error(expit(own), labels)
        found.append((ece.value, ece.z, normalised_entropy(own, labels)[0]))
    return np.array(found)


def perfect(rows: Rows, draws: int, rng: np.random.Generator) -> np.ndarray:
    """(2, draws, T) the ECE's z of true probabilities after Platt's map, of half and of all of the same labels."""
    z, found = logit(rows.p), []
    for _ in range(draws):
        y = (rng.random(rows.p.shape) < rows.p).astype(np.float64)
        found.append([judged("platt", z, y, fit, rows.test)[:, 1] for fit in rows.fits])
    return np.stack(found, axis=1)


def gaps(rows: Rows) -> dict[str, np.ndarray]:
    """Name -> (2, T) of half and of all."""
    lack = rows.p - expit(rows.z)
    own = [(rows.y[fit], rows.p[fit], lack[fit]) for fit in rows.fits]
    return {
        "labels": np.array([np.abs((y - p).mean(axis=0)) for y, p, _ in own]),
        # the mean of a normal variable's size
        "by chance": np.array([np.sqrt(2 / np.pi * (p * (1 - p)).sum(axis=0)) / len(p) for _, p, _ in own]),
        "drift": np.array([np.abs(lack[rows.test].mean(axis=0) - there.mean(axis=0)) for *_, there in own]),
    }


def line(name: str, values: np.ndarray) -> str:
    """A row of the table: values (R, 2) of each run, half and all."""
    difference, spread = values[:, 1] - values[:, 0], values.std(axis=0, ddof=1)
    mean, reach = difference.mean(), stats.sem(difference) * stats.t.ppf(0.975, len(difference) - 1)
    both = " | ".join(f"{one:.4f} ± {own:.4f}" for one, own in zip(values.mean(axis=0), spread, strict=True))
    return f"| {name} | {both} | {mean:+.4f} [{mean - reach:+.4f}, {mean + reach:+.4f}] |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--maps", nargs="+", choices=list(MAPS), default=["Platt", "beta", "isotonic layer"])
    parser.add_argument("--draws", type=int, default=20)
    arguments = parser.parse_args()
    if len(arguments.runs) < 2:
        parser.error("give two runs or more: intervals are over runs")
    torch.set_num_threads(1)
    found = [of_run(path) for path in arguments.runs]
    print("| | half | all | all less half |\n| --- | --- | --- | --- |")
    measured = [gaps(rows) for rows in found]
    beyond = np.stack([perfect(rows, arguments.draws, np.random.default_rng(0)) for rows in found])  # (R, 2, D, T)
    for place, task in enumerate(found[0].tasks):
        for name in measured[0]:
            print(line(f"{task}: {name}", np.stack([run[name][:, place] for run in measured])))
        print(line(f"{task}: perfect, beyond", (beyond[..., place] > 2).mean(axis=2)))
        print(
            f"| {task}: perfect, largest z | {' | '.join(f'{z:.1f}' for z in beyond[..., place].max(axis=(0, 2)))} | |"
        )
    for name in arguments.maps:
        each = np.stack([[judged(MAPS[name], run.z, run.y, fit, run.test) for fit in run.fits] for run in found])
        for column, title in enumerate(("ECE", "z", "NE")):  # each (R, 2, T, 3)
            print(line(f"{name}: {title}", each[..., column].mean(axis=2)))
        print(line(f"{name}: within", (each[..., 1] <= 2).mean(axis=2)))


if __name__ == "__main__":
    main()
