"""Calibration of a finished ranker: its logits on rows it did not learn from, against what happened there.

The ranker takes no part: only its logits come in, so that nothing of it can move. A map that is fitted on the rows the
ranker learnt from learns how well it remembers them, and does harm. (`calibration_losses.held_out_loss` fits one while
the ranker is trained.)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recsysml.data.impression_data import CALIBRATION, ImpressionTable
from recsysml.nn.calibration import Calibration, IsotonicLayer, IsotonicTable, Platt
from recsysml.ranking.opening import Opened
from recsysml.ranking.scoring import logits as logits_of

logger = logging.getLogger("recsysml")

# split -> which rows the map that judges it is fitted to, as the protocol says it (`diff` reads these words)
CALIBRATED_ON = {"val": CALIBRATION, "test": "all held out before it"}
# rows of the rarer answer below which a task's map would be that of a few rows
MIN_OF_EACH = 10
# of Platt's map: less of it would leave ties in float32
_LEAST_SLOPE = 0.01
# standard deviations of a cohort's shift before anything is seen of it, in logits, among which each task's is chosen
_PRIORS = (0.03, 0.1, 0.3, 1.0)


def fit_calibration(
    kind: str,
    logits: np.ndarray | Tensor,
    labels: np.ndarray | Tensor,
    cohorts: np.ndarray | Tensor | None = None,
    cohort_sizes: Sequence[int] = (),
    names: Sequence[str] | None = None,
) -> Calibration:
    """The calibration of a kind (`nn.calibration.SHAPES`) with the least log loss on held-out rows, in eval mode.

    logits, labels (N, K); a label that is NaN does not count, and a task without enough of both answers is left as it
    is, with a warning that calls it by its name.
    cohorts (N, C) ids below cohort_sizes (C,). The cohorts' shifts and the isotonic layer's slopes are those of the
    highest posterior under normal priors, that of shifts chosen on every other row; all else is maximum likelihood.
    """
    z = torch.as_tensor(logits).detach().to(torch.float64)  # (N, K)
    y = torch.as_tensor(labels).detach().to(torch.float64)
    if z.shape != y.shape or z.ndim != 2:
        raise ValueError(f"logits {tuple(z.shape)} and labels {tuple(y.shape)} must both be (N, K)")
    if not torch.isfinite(z).all():
        raise ValueError("a logit is not finite: nothing can be fitted to it")
    ids = None
    if cohort_sizes:
        if cohorts is None:
            raise ValueError(f"cohort_sizes={list(cohort_sizes)} need cohorts (N, {len(cohort_sizes)})")
        ids = torch.as_tensor(cohorts).to(torch.int64)
    counted = ~torch.isnan(y)
    counted &= torch.from_numpy(enough(y.numpy(), names))

    if kind == "isotonic":
        calibration = _isotonic(z, y, counted, cohort_sizes)
    else:
        calibration = Calibration(kind, z.shape[1], cohort_sizes)
    calibration.double()
    if isinstance(calibration.shape, IsotonicLayer):
        calibration.shape.cover(torch.quantile(z[:100_000], 0.001, dim=0), torch.quantile(z[:100_000], 0.999, dim=0))
    prior = None
    if ids is not None:
        alone = fit_calibration(kind, z, torch.where(counted, y, torch.nan)) if kind != "none" else None
        shaped = z if alone is None else alone(z.float()).double()
        prior = _chosen_prior(shaped, y, counted, ids, cohort_sizes)
    _least_log_loss(calibration, z, y, counted, ids, prior)
    if isinstance(calibration.shape, Platt):
        _keep_order(calibration.shape, z, names)
    return calibration.float().eval().requires_grad_(False)


def enough(labels: np.ndarray, names: Sequence[str] | None = None) -> np.ndarray:
    """labels (N, K), NaN where none is -> (K,) which tasks have enough of both answers for a map; warns of the others.

    A task of real labels, all NaN here, is no such task and nothing is said of it.
    """
    found = np.minimum((labels == 0).sum(axis=0), (labels == 1).sum(axis=0)) >= MIN_OF_EACH
    short = np.flatnonzero(~found & ~np.isnan(labels).all(axis=0))
    if len(short):
        logger.warning(
            "calibration leaves %s as they are: one answer has fewer than %s rows that are held out",
            *(", ".join(names[int(task)] if names else f"task {task}" for task in short), MIN_OF_EACH),
        )
    return found


def calibrate(
    model: Any, table: ImpressionTable, rows: tuple[int, int], *, batch_size: int, device: torch.device | str
) -> bool:
    """Fit the model's calibration to rows from and to, which it did not learn from; whether there was any to fit."""
    if model.calibration is None or model.config.calibration_fit == "in_model":
        return False
    if rows[0] == rows[1]:
        logger.warning("%s has no rows to calibrate on: probabilities stay as they are", table.name)
        return False
    z = logits_of(model, table, rows, batch_size=batch_size, device=device, calibrated=False)  # (n, T)
    kind, sizes = model.config.calibration, model.cohort_sizes if model.config.calibrate_cohorts else []
    cohorts = table.sparse[rows[0] : rows[1], model.cohort_places] if sizes else None
    fitted = fit_calibration(kind, z, held_out_labels(model, table, rows), cohorts, sizes, model.tasks)
    model.calibration.load_state_dict(fitted.state_dict())
    return True


def rows_of_map(split: str, table: ImpressionTable) -> tuple[int, int]:
    """Rows from and to that the map by which a split is judged is fitted to, none of them the split's own: of val the
    later half beside it, of test all that is held out before it. The latter is kept with the checkpoint."""
    return table.bounds[CALIBRATION] if split == "val" else table.held_out


def calibrated_on(config: Any) -> dict[str, str]:
    """Split -> rows of the maps that judge it, for the protocol: one that is trained along sees the later half of val
    alone. config: of the ranker."""
    return dict(CALIBRATED_ON) if config.calibration_fit == "post_hoc" else dict.fromkeys(CALIBRATED_ON, CALIBRATION)


def map_to_judge(
    opened: Opened, split: str, table: ImpressionTable, *, batch_size: int, device: torch.device | str
) -> dict[str, str]:
    """Gives an opened ranker the map that a split of its own data is judged by in training, where its own has seen the
    split. Returns, for the protocol, which rows the maps that judge val and test are fitted to."""
    model = opened.model
    if opened.fingerprint != table.fingerprint:
        if split == "val" and model.calibration is not None:
            logger.warning(
                "the checkpoint learnt from other data, or from these cut otherwise: rows of val may be among those"
                " that its calibration was fitted to"
            )
        return dict.fromkeys(CALIBRATED_ON, "what the checkpoint has seen")
    rows = rows_of_map(split, table)
    if rows != table.held_out and model.calibration is not None and model.config.calibration_fit == "post_hoc":
        begin = Calibration(**model.calibration.settings).state_dict()
        model.calibration.load_state_dict(begin)  # what stays where there is nothing to fit to
        calibrate(model, table, rows, batch_size=batch_size, device=device)
        logger.info("val is judged by a map of the rows after it, as in training: the checkpoint's own has seen val")
    return calibrated_on(model.config)


def held_out_labels(model: Any, table: ImpressionTable, rows: tuple[int, int]) -> np.ndarray:
    """(n, T) float64 of the model's tasks on rows from and to; NaN of real ones, which have no probability."""
    columns = [list(table.shape.tasks).index(task) for task in model.tasks]
    labels = table.labels[slice(*rows), columns].astype(np.float64)
    labels[:, ~np.array(model.binary)] = np.nan
    return labels


def _chosen_prior(z: Tensor, y: Tensor, counted: Tensor, cohorts: Tensor, sizes: Sequence[int]) -> Tensor:
    """(K,) of each task the deviation whose shifts, fitted on every other row, have the least log loss on the rest."""
    losses = torch.zeros(len(_PRIORS), z.shape[1], dtype=z.dtype)
    for first in (0, 1):
        own, rest = slice(first, None, 2), slice(1 - first, None, 2)
        target, weight = torch.where(counted, y, 0.0)[rest], counted[rest]
        for place, deviation in enumerate(_PRIORS):
            shifts = Calibration("none", z.shape[1], sizes).double()
            prior = torch.full_like(losses[0], deviation)
            _least_log_loss(shifts, z[own], y[own], counted[own], cohorts[own], prior)
            with torch.no_grad():
                logits = shifts(z[rest], cohorts[rest])
            each = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
            losses[place] += (each * weight).sum(dim=0)
    return torch.tensor(_PRIORS, dtype=z.dtype)[losses.argmin(dim=0)]


def _least_log_loss(
    calibration: Calibration, z: Tensor, y: Tensor, counted: Tensor, cohorts: Tensor | None, prior: Tensor | None = None
) -> None:
    """Moves what can be moved. The tasks share nothing, so one search over all finds each one's own optimum.

    prior (K,): deviations of the cohorts' shifts, where there are any.
    """
    parameters = list(calibration.parameters())
    if not parameters:
        return
    target = torch.where(counted, y, 0.0)
    weight = counted / counted.sum(dim=0).clamp(min=1)  # (N, K): each task's mean
    rows = counted.sum(dim=0).clamp(min=1)
    # pieces that hold few rows keep near the identity: a prior of deviation 1 on what softplus makes slopes of
    begin = calibration.shape.slopes.detach().clone() if isinstance(calibration.shape, IsotonicLayer) else 0.0
    search = torch.optim.LBFGS(
        parameters, max_iter=300, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        search.zero_grad()
        each = nn.functional.binary_cross_entropy_with_logits(calibration(z, cohorts), target, reduction="none")
        value = (each * weight).sum()
        if calibration.cohort is not None:
            assert prior is not None
            value = value + (0.5 * (calibration.cohort.shifts / prior) ** 2 / rows).sum()
        if isinstance(calibration.shape, IsotonicLayer):
            value = value + (0.5 * (calibration.shape.slopes - begin) ** 2 / rows).sum()
        value.backward()
        return value

    search.step(loss)


@torch.no_grad()
def _keep_order(shape: Platt, z: Tensor, names: Sequence[str] | None) -> None:
    """Gives slopes that have fallen to nothing the least one there is, and the bias what that moves.

    Where held-out rows say that the order is upside down, the likeliest slope is 0: all rows alike, but for rounding.
    """
    slope = nn.functional.softplus(shape.slope)
    flat = slope < _LEAST_SLOPE
    if flat.any():
        shape.bias.sub_(torch.where(flat, (_LEAST_SLOPE - slope) * z.mean(dim=0), 0.0))
        shape.slope[flat] = math.log(math.expm1(_LEAST_SLOPE))
        tasks = [names[int(task)] if names else f"task {task}" for task in flat.nonzero()[:, 0]]
        logger.warning(
            "calibration: on the rows that are held out the order of %s is no better than chance: nearly all"
            " probabilities become the mean", ", ".join(tasks),
        )  # fmt: skip


def _isotonic(z: Tensor, y: Tensor, counted: Tensor, cohort_sizes: Sequence[int]) -> Calibration:
    """The isotonic regression of each task; its probabilities keep half a row away from 0 and 1."""
    knots = []
    for task in range(z.shape[1]):
        own = counted[:, task]
        if own.any():
            knots.append(isotonic_knots(z[own, task].numpy(), y[own, task].numpy()))
        else:  # as it is, as far as a table can say it
            at = np.linspace(float(z[:, task].min()) - 1e-6, float(z[:, task].max()) + 1e-6, 200)
            knots.append((at, 1 / (1 + np.exp(-at))))
    calibration = Calibration("isotonic", z.shape[1], cohort_sizes).double()
    assert isinstance(calibration.shape, IsotonicTable)
    size = calibration.shape.at.shape[1]
    for task, (at, p) in enumerate(knots):
        at, p = _sized(at, p, size, z[:, task].numpy())
        nearest = 0.5 / max(2, int(counted[:, task].sum()))
        for buffer, values in ((calibration.shape.at, at), (calibration.shape.probability, p)):
            padded = np.pad(values, (0, size - len(values)), mode="edge")
            buffer[task] = torch.from_numpy(padded)
        if counted[:, task].any():
            calibration.shape.probability[task].clamp_(nearest, 1 - nearest)
    return calibration


def _sized(at: np.ndarray, p: np.ndarray, size: int, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `size` knots: evenly among those there are, the first and the last kept, or more where rows z (n,) are,
    on the lines between, so that a flat stretch of many rows has many."""
    if len(at) >= size:
        kept = np.unique(np.linspace(0, len(at) - 1, size).round().astype(np.int64))
        return at[kept], p[kept]
    inside = z[(z > at[0]) & (z < at[-1])]
    more = np.union1d(at, np.quantile(inside, np.linspace(0, 1, size - len(at))) if len(inside) else at)
    return more, np.interp(more, at, p)


def isotonic_knots(z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """z, y (n,) -> the knots of the isotonic regression of y on z: where they lie, rising, and the fit there.

    Equal z share one value. Knots that a straight line between their neighbours gives anyway are left out.
    """
    from scipy.optimize import isotonic_regression

    at, which = np.unique(z, return_inverse=True)
    counts = np.bincount(which)
    fit = isotonic_regression(np.bincount(which, weights=y) / counts, weights=counts).x
    # both ends of each flat stretch say all
    end = np.concatenate([fit[1:] != fit[:-1], [True]])
    begin = np.concatenate([[True], end[:-1]])
    kept = begin | end
    return at[kept], np.asarray(fit[kept])
