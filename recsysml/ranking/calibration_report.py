"""The calibration of a task, before and after it was mended: metrics, a reliability diagram, a section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from recsysml import sections
from recsysml.data.impression_data import ImpressionTable
from recsysml.metrics import calibration as metrics
from recsysml.plots_calibration import reliability_plot

# bins of the diagram, and cohorts in the table
_BINS, _COHORTS = 15, 12


def record_calibrations(
    run: Any, split: str, scores: np.ndarray, raw: np.ndarray | None, table: ImpressionTable, tasks: Sequence[str]
) -> str:
    """`record_calibration` of every binary task, and before them one table of all. Returns it as lines for the screen.

    scores (n, T): the logits served, of the split's rows; raw: what they were before they were calibrated, if at all.
    """
    start, stop = table.bounds[split]
    cohorts = {name: table.cohort(name)[start:stop] for name in table.shape.cohorts}
    words = {name: ["other", *table.encoder.vocabularies.get(name, [])] for name in cohorts}
    said, rows = [], []
    for place, task in enumerate(tasks):
        if table.shape.tasks[task] != "binary":
            continue
        labels = table.labels[start:stop, list(table.shape.tasks).index(task)].astype(np.float64)
        curves = {} if raw is None else {"uncalibrated": expit(raw[:, place])}
        curves["served"] = expit(scores[:, place])
        found = record_calibration(run, split, task, curves, labels, cohorts, words)
        ece, before = found["ece"], found["ece_before"]
        said.append(
            f"{split}/{task}/ece {ece.value:.4f}"
            + (f" (uncalibrated {before.value:.4f})" if raw is not None else "")
            + f", of a perfect model {ece.perfect:.4f} ± {ece.perfect_spread:.4f}"
        )
        ratios = [float(p.mean() / labels.mean()) if labels.any() else None for p in curves.values()]
        rows.append([task, ratios[0], ratios[-1], before.value, ece.value, ece.perfect, ece.perfect_spread, ece.z])
    columns = [
        "task", "predicted / observed, raw", "served", "ECE, raw", "served", "of a perfect model", "its spread", "z",
    ]  # fmt: skip
    note = "Do the probabilities mean what they say? z within 2: as well as can be told from these rows."
    run.section(f"calibration_{split}", f"Calibration, {split}", [sections.table("All tasks", columns, rows)], note)
    return "\n".join(said)


def record_calibration(
    run: Any,
    split: str,
    task: str,
    curves: Mapping[str, np.ndarray],
    labels: np.ndarray,
    cohorts: Mapping[str, np.ndarray],
    words: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, metrics.CalibrationError]:
    """Put a task's calibration into the run's record, and its diagram and tables into the report.

    curves: name -> probabilities (n,) of the same rows, such as `raw` and `calibrated`; the last is what is served, and
    its numbers are the metrics, with the first one's as baseline. labels (n,) 0 or 1. cohorts: name -> (n,) ids from 0,
    called by `words` where these are given. Returns the expected calibration errors of the last, and of the first as
    `ece_before`.
    """
    served, first = list(curves)[-1], next(iter(curves))
    found = {name: _numbers(p, labels, cohorts) for name, p in curves.items()}
    for name, (value, error, more) in found[served].items():
        baseline = found[first][name][0] if first != served else None
        run.metric(
            f"{split}/{task}/{name}", value, stderr=error, n=len(labels), better="lower", baseline=baseline, **more
        )
    bins = {name: metrics.reliability(p, labels, _BINS) for name, p in curves.items()}
    plot = reliability_plot(run.path / "plots" / f"reliability_{split}_{task}.png", f"{task}, {split}", bins)
    run.artifact("plots", str(plot.relative_to(run.path)))
    drawn = [{"curve": name, **each} for name, own in bins.items() for each in own]
    numbers = list(found[served])
    parts = [
        sections.reliability("Observed against predicted, bins of equal rows, 95% intervals", drawn),
        sections.table(
            "In numbers",
            ["probabilities", *numbers],
            [[name, *(own[key][0] for key in numbers)] for name, own in found.items()],
        ),
    ]
    rows: list[list[Any]] = []
    for feature, ids in cohorts.items():
        gaps = metrics.cohort_gaps(curves[served], labels, ids)
        columns = (gaps.ids, gaps.n, gaps.predicted, gaps.observed, gaps.z)
        named = words[feature] if words else range(1 + int(ids.max(initial=0)))
        rows += [
            [f"{feature}={named[int(id_)]}", int(n), *map(float, more)] for id_, n, *more in zip(*columns, strict=True)
        ]
    rows.sort(key=lambda row: -abs(row[-1]))
    parts.append(
        sections.table(
            f"Cohorts furthest off, {served}", ["cohort", "rows", "predicted", "observed", "z"], rows[:_COHORTS]
        )
    )
    worst = found[served]["mce"][2]
    ece = found[served]["ece"][2]
    note = (
        f"ECE {found[served]['ece'][0]:.4f}; a perfect model on these rows would show {ece['perfect']:.4f} ±"
        f" {ece['perfect_spread']:.4f} (z {ece['z']:.1f}). Worst of {worst['segments']} segments: {worst['segment']}"
        f" (p {worst['p_value']:.2g})."
    )
    run.section(f"calibration_{split}_{task}", f"Calibration of {task}, {split}", parts, note)
    wide = {name: metrics.expected_calibration_error(curves[name], labels, _BINS) for name in (first, served)}
    return {"ece": wide[served], "ece_before": wide[first]}


def _numbers(
    p: np.ndarray, labels: np.ndarray, cohorts: Mapping[str, np.ndarray]
) -> dict[str, tuple[float, float | None, dict[str, Any]]]:
    """Metric -> (value, standard error, what else is to be known)."""
    wide = metrics.expected_calibration_error(p, labels, _BINS, "width")
    equal = metrics.expected_calibration_error(p, labels, _BINS, "mass")
    multi = metrics.multicalibration_error(p, labels, cohorts)
    ratio, ratio_error = metrics.predicted_over_observed(p, labels)
    # the spread of the error is about that of a perfect model's, which is what it is held against
    return {
        "ece": (wide.value, wide.perfect_spread, _held_against(wide)),
        "ece_mass": (equal.value, equal.perfect_spread, _held_against(equal)),
        "calibration_l2": (metrics.debiased_l2(p, labels, _BINS), None, {}),
        "brier": (*metrics.brier(p, labels), {}),
        "ratio_error": (abs(ratio - 1), ratio_error, {"predicted_over_observed": ratio}),
        "mce": (
            multi.value,
            None,
            {
                "sigmas": multi.sigmas,
                "p_value": multi.p_value,
                "segment": multi.segment,
                "segments": multi.n_segments,
            },
        ),
    }


def _held_against(error: metrics.CalibrationError) -> dict[str, float]:
    return {"perfect": error.perfect, "perfect_spread": error.perfect_spread, "z": error.z}
