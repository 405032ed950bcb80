"""Every calibration on the same trained rankers: what each does to a test split, as means over runs and tasks.

    python scripts/cohort_maps.py RUN... [--maps NAME...] [--rows held_out|calibration] [--mcgrad PYTHON]

A map is fitted to a finished ranker, so a sweep over maps trains the same ranker again for each; here each is trained
once. --rows: all that are held out before test, as `train` does, or those alone that chose no weights. `within` is the
share of tasks and runs whose ECE lies within two deviations of a perfect model's. --mcgrad: an interpreter that has
MCGrad, which is fitted on the same rows with the same cohorts.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit, logit

from recsysml import config as configs
from recsysml import lazy
from recsysml.data import KINDS as DATA
from recsysml.data.impression_data import CALIBRATION
from recsysml.metrics import calibration, ranking
from recsysml.ranking.calibrating import fit_calibration, held_out_labels
from recsysml.ranking.opening import open_ranker
from recsysml.ranking.scoring import logits

MAPS = {
    "none": ("none", False),
    "temperature": ("temperature", False),
    "Platt": ("platt", False),
    "beta": ("beta", False),
    "isotonic": ("isotonic", False),
    "isotonic layer": ("isotonic_layer", False),
    "shifts": ("none", True),
    "Platt and shifts": ("platt", True),
    "isotonic and shifts": ("isotonic", True),
}
COLUMNS = ("NE", "AUC", "ECE", "z", "mce", "sigmas", "within")

MCGRAD = """
import sys, warnings
import numpy as np, pandas as pd
warnings.filterwarnings("ignore")
from mcgrad.methods import MCGrad
with np.load(sys.argv[1]) as f:
    rows = {name: f[name] for name in f}
names = [str(place) for place in range(rows["cohorts"].shape[1])]
held_out, test = (pd.DataFrame(rows[c].astype(str), columns=names) for c in ("cohorts", "test_cohorts"))
found = []
for task in range(rows["p"].shape[1]):
    held_out["p"], test["p"] = rows["p"][:, task], rows["test_p"][:, task]
    held_out["y"] = rows["y"][:, task].astype(int)
    model = MCGrad(random_state=1).fit(held_out, "p", "y", categorical_feature_column_names=names)
    found.append(model.predict(test, "p", categorical_feature_column_names=names))
np.save(sys.argv[2], np.stack(found, axis=1))
"""


def judged(z: np.ndarray, y: np.ndarray, cohorts: dict[str, np.ndarray]) -> tuple[float, ...]:
    """The COLUMNS of one task: logits and labels (n,)."""
    p = expit(z)
    ece = calibration.expected_calibration_error(p, y)
    worst = calibration.multicalibration_error(p, y, cohorts)
    order = ranking.normalised_entropy(z, y)[0], ranking.auc(z, y)[0]
    return *order, ece.value, ece.z, worst.value, worst.sigmas, ece.z <= 2


def by_mcgrad(python: str, **rows: np.ndarray) -> np.ndarray:
    """(n, T) logits."""
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder) / "rows.npz", Path(folder) / "answer.npy"
        np.savez(given, **rows)
        subprocess.run([python, "-c", MCGRAD, given, answer], check=True, stdout=subprocess.DEVNULL)
        return logit(np.clip(np.load(answer), 1e-6, 1 - 1e-6))


def of_run(path: Path, names: list[str], rows: str, python: str | None) -> dict[str, np.ndarray]:
    """Map -> the COLUMNS, each a mean over the ranker's tasks."""
    made_with = configs.read_run(path)
    opened = open_ranker(path / "checkpoints" / "best")
    table = lazy.resolve(f"{DATA[made_with.data.kind]}:load_impressions")(made_with.data, opened.encoder)
    held_out = table.held_out if rows == "held_out" else table.bounds[CALIBRATION]
    model, test = opened.model, table.bounds["test"]
    z, fresh = (logits(model, table, span, batch_size=4096, calibrated=False) for span in (held_out, test))
    y = held_out_labels(model, table, held_out)
    ids, fresh_ids = (table.sparse[slice(*span)][:, model.cohort_places] for span in (held_out, test))
    named = {name: fresh_ids[:, place] for place, name in enumerate(table.shape.cohorts)}
    truth = table.labels[slice(*test), [list(table.shape.tasks).index(task) for task in model.tasks]].astype(np.float64)
    scored = {}
    for name in names:
        kind, shifts = MAPS[name]
        more = (ids, model.cohort_sizes) if shifts else ()
        mapped = fit_calibration(kind, z, y, *more)
        with torch.no_grad():
            scored[name] = mapped(torch.from_numpy(fresh).float(), torch.from_numpy(fresh_ids)).double().numpy()
    if python:
        given = {"p": expit(z), "y": y, "cohorts": ids, "test_p": expit(fresh), "test_cohorts": fresh_ids}
        scored["MCGrad"] = by_mcgrad(python, **given)
    tasks = range(len(model.tasks))
    return {
        name: np.mean([judged(own[:, task], truth[:, task], named) for task in tasks], axis=0)
        for name, own in scored.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--maps", nargs="+", choices=list(MAPS), default=list(MAPS), metavar="NAME")
    parser.add_argument("--rows", choices=("held_out", "calibration"), default="held_out")
    parser.add_argument("--mcgrad", metavar="PYTHON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = [of_run(path, arguments.maps, arguments.rows, arguments.mcgrad) for path in arguments.runs]
    print(f"| map | {' | '.join(COLUMNS)} |\n|{' --- |' * (1 + len(COLUMNS))}")
    for name in found[0]:
        values = np.stack([run[name] for run in found])  # (R, C)
        spreads = [statistics.stdev(column) if len(found) > 1 else 0.0 for column in values.T.tolist()]
        cells = [f"{mean:.4f} ± {spread:.4f}" for mean, spread in zip(values.mean(axis=0), spreads, strict=True)]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
