"""Reliability diagrams of a run as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recsysml.plots import new_figure, palette, save_figure, style

_BARS = 40


def reliability_plot(
    path: Path, title: str, curves: Mapping[str, tuple[np.ndarray, Sequence[Mapping[str, Any]]]]
) -> Path:
    """Draws one line a curve and writes a PNG; returns its path.

    curves: name -> probabilities (n,) and their bins by `metrics.calibration.reliability`. Above: the observed share
    with its interval against the mean prediction, as far as there are rows. Below: how the predictions are spread.
    """
    ends = [
        value
        for _, bins in curves.values()
        for each in bins
        for value in (each["predicted"], each["high"] if each["high"] is not None else each["observed"])
    ]
    reach = min(1.0, 1.05 * max(ends, default=1.0)) or 1.0
    with style():
        figure, axes = new_figure(5.2, 6, ratios=(3.6, 1))
        axes[0].plot([0, reach], [0, reach], color="#9ca3af", lw=1, ls="--", label="perfect")
        for colour, (name, (p, bins)) in zip(palette(len(curves)), curves.items(), strict=True):
            predicted, observed, low, high = (
                np.array([each[key] for each in bins], np.float64) for key in ("predicted", "observed", "low", "high")
            )
            below, above = np.maximum(observed - low, 0), np.maximum(high - observed, 0)
            axes[0].errorbar(
                predicted, observed, yerr=[below, above], color=colour, lw=1.4, marker="o", ms=4, capsize=2, label=name
            )
            rows, edges = np.histogram(np.clip(p, 0, reach), _BARS, (0, reach))  # what lies beyond is in the last bar
            axes[1].stairs(rows, edges, color=colour, lw=1.2)
            axes[1].stairs(rows, edges, color=colour, fill=True, alpha=0.15)
        axes[0].set_xlim(0, reach)
        axes[0].set_ylim(0, reach)
        axes[0].set_ylabel("observed share, 95% interval")
        axes[0].set_title(title, loc="left", fontsize=10, color="#6b7280")
        axes[0].legend(loc="upper left")
        axes[1].set_ylim(bottom=0)
        axes[1].set_ylabel("rows")
        axes[1].set_xlabel("predicted probability")
        return save_figure(figure, path)
