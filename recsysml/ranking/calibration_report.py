"""The calibration of a task, before and after it was mended: metrics, a reliability diagram, a section."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from recsysml import sections
from recsysml.data.impression_data import ImpressionTable
from recsysml.metrics import calibration as metrics
from recsysml.plots_calibration import reliability_plot

# bins of the errors, rows of the rarer answer that a bin of a diagram has at least, and cohorts in the table
_BINS, _RARER, _COHORTS = 15, 10, 20

# metric -> (value, standard error, what else is to be known)
Numbers = dict[str, tuple[float, float | None, dict[str, Any]]]


@dataclass(frozen=True)
class TaskCalibration:
    """Of one task. Curves by name, what is served last."""

    numbers: dict[str, Numbers]
    bins: dict[str, list[dict[str, float]]]
    cohorts: list[list[Any]]  # name, rows, predicted, observed, z of those with enough rows, by what is served

    @property
    def first(self) -> Numbers:
        """Before it was mended, if it was."""
        return next(iter(self.numbers.values()))

    @property
    def served(self) -> Numbers:
        return list(self.numbers.values())[-1]


def record_calibrations(
    run: Any, split: str, scores: np.ndarray, raw: np.ndarray | None, table: ImpressionTable, tasks: Sequence[str]
) -> str:
    """`record_calibration` of every binary task, and one section of all. Returns it as lines for the screen.

    scores (n, T): the logits served, of the split's rows; raw: what they were before they were calibrated, if at all.
    """
    start, stop = table.bounds[split]
    cohorts = {name: table.cohort(name)[start:stop] for name in table.shape.cohorts}
    # a hashed column has buckets, and no words
    vocabularies = {name: table.encoder.vocabularies.get(name) for name in cohorts}
    words = {name: ["other", *known] for name, known in vocabularies.items() if known is not None}
    said, found = [], {}
    for place, task in enumerate(tasks):
        if table.shape.tasks[task] != "binary":
            continue
        labels = table.labels[start:stop, list(table.shape.tasks).index(task)].astype(np.float64)
        curves = {} if raw is None else {"uncalibrated": expit(raw[:, place])}
        curves["served"] = expit(scores[:, place])
        found[task] = record_calibration(run, split, task, curves, labels, cohorts, words)
        (before, *_), (ece, _, floor) = found[task].first["ece"], found[task].served["ece"]
        said.append(
            f"{split}/{task}/ece {ece:.4f}"
            + (f" (uncalibrated {before:.4f})" if raw is not None else "")
            + f", of a perfect model {floor['perfect']:.4f} ± {floor['perfect_spread']:.4f}"
        )
    if found:
        of_tasks = [one.served["ece"] for one in found.values()]
        others = {"perfect": float(np.mean([own["perfect"] for *_, own in of_tasks]))}
        if raw is not None:
            others["uncalibrated"] = float(np.mean([one.first["ece"][0] for one in found.values()]))
        # of a mean of what tasks have each for itself
        spread = math.sqrt(sum(own["perfect_spread"] ** 2 for *_, own in of_tasks)) / len(of_tasks)
        mean = float(np.mean([value for value, *_ in of_tasks]))
        run.metric(f"{split}/ece", mean, stderr=spread, n=stop - start, better="lower", baselines=others)
        write_section(run, split, found)
    return "\n".join(said)


def record_calibration(
    run: Any,
    split: str,
    task: str,
    curves: Mapping[str, np.ndarray],
    labels: np.ndarray,
    cohorts: Mapping[str, np.ndarray],
    words: Mapping[str, Sequence[str]] | None = None,
) -> TaskCalibration:
    """Put a task's calibration into the run's record, and its diagram among the plots.

    curves: name -> probabilities (n,) of the same rows, such as `raw` and `calibrated`; the last is what is served, and
    its numbers are the metrics, beside the first one's. labels (n,) 0 or 1. cohorts: name -> (n,) ids from 0, called by
    `words` where these are given.
    """

    def called(feature: str, id_: int) -> str:
        return f"{feature}={words[feature][id_] if words and feature in words else id_}"

    served, first = list(curves)[-1], next(iter(curves))
    numbers = {name: _numbers(p, labels, cohorts, called) for name, p in curves.items()}
    for name, (value, error, more) in numbers[served].items():
        others = {first: numbers[first][name][0]} if first != served else {}
        run.metric(
            f"{split}/{task}/{name}", value, stderr=error, n=len(labels), better="lower", baselines=others, **more
        )
    rarer = int(min(labels.sum(), len(labels) - labels.sum()))
    n_bins = int(np.clip(rarer // _RARER, 3, _BINS))  # bins of a few events each would show chance alone
    bins = {name: metrics.reliability(p, labels, n_bins) for name, p in curves.items()}
    drawn = {f"{name}, ECE {numbers[name]['ece'][0]:.4f}": (curves[name], own) for name, own in bins.items()}
    plot = reliability_plot(run.path / "plots" / f"reliability_{split}_{task}.png", f"{task}, {split}", drawn)
    run.artifact("plots", str(plot.relative_to(run.path)))
    rows: list[list[Any]] = []
    for feature, ids in cohorts.items():
        gaps = metrics.cohort_gaps(curves[served], labels, ids)
        columns = (gaps.ids, gaps.n, gaps.predicted, gaps.observed, gaps.z)
        rows += [[called(feature, int(id_)), int(n), *map(float, more)] for id_, n, *more in zip(*columns, strict=True)]
    return TaskCalibration(numbers, bins, rows)


def write_section(run: Any, split: str, found: Mapping[str, TaskCalibration]) -> None:
    """All tasks of a split side by side: their diagrams, their numbers, and the cohorts that are furthest off."""
    parts = [
        sections.reliability(task, [{"curve": name, **each} for name, own in one.bins.items() for each in own])
        for task, one in found.items()
    ]
    rows: list[list[Any]] = []
    for task, one in found.items():
        ece, worst = one.served["ece"], one.served["mce"][2]
        ratios = [own["ratio_error"][2]["predicted_over_observed"] for own in (one.first, one.served)]
        rows.append(
            [task, *ratios, one.first["ece"][0], ece[0], *(ece[2][key] for key in ("perfect", "perfect_spread", "z")),
             worst["segment"], worst["p_value"]]
        )  # fmt: skip
    columns = ["task", "predicted / observed, raw", "served", "ECE, raw", "served", "of a perfect model", "its spread",
               "z", "worst segment", "its p"]  # fmt: skip
    parts.append(sections.table("All tasks", columns, rows))
    keys = list(next(iter(found.values())).served)
    every = [
        [task, name, *(own[key][0] for key in keys)] for task, one in found.items() for name, own in one.numbers.items()
    ]
    parts.append(sections.table("In numbers", ["task", "probabilities", *keys], every))
    off = [[task, *row] for task, one in found.items() for row in one.cohorts]
    off.sort(key=lambda row: -abs(row[-1]))
    title = f"Cohorts furthest off, as served: {min(len(off), _COHORTS)} of {len(off)}"
    parts.append(sections.table(title, ["task", "cohort", "rows", "predicted", "observed", "z"], off[:_COHORTS]))
    note = (
        "Do the probabilities mean what they say? Diagrams: observed share against mean prediction, bins of equal rows,"
        " 95% intervals (Wilson). z within 2: as well as can be told from these rows. A worst segment's p above 0.05 is"
        " what chance gives."
    )
    run.section(f"calibration_{split}", f"Calibration, {split}", parts, note)


def _numbers(p: np.ndarray, labels: np.ndarray, cohorts: Mapping[str, np.ndarray], called: Any) -> Numbers:
    wide = metrics.expected_calibration_error(p, labels, _BINS, "width")
    equal = metrics.expected_calibration_error(p, labels, _BINS, "mass")
    multi = metrics.multicalibration_error(p, labels, cohorts)
    ratio, ratio_error = metrics.predicted_over_observed(p, labels)
    feature, is_one, id_ = multi.segment.rpartition("=")
    segment = called(feature, int(id_)) if is_one else multi.segment
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
                "segment": segment,
                "segments": multi.n_segments,
            },
        ),
    }


def _held_against(error: metrics.CalibrationError) -> dict[str, float]:
    return {"perfect": error.perfect, "perfect_spread": error.perfect_spread, "z": error.z}
