"""Reliability diagrams of a run as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recsysml.plots import new_figure, palette, save_figure, style


def reliability_plot(path: Path, title: str, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Path:
    """Draws bins of `metrics.calibration.reliability`, one line a curve, and writes a PNG; returns its path.

    Above: the observed share with its interval against the mean prediction, as far as there are rows. Below: how many
    rows a bin holds.
    """
    ends = [
        value
        for bins in curves.values()
        for each in bins
        for value in (each["predicted"], each["high"] if each["high"] is not None else each["observed"])
    ]
    reach = min(1.0, 1.05 * max(ends, default=1.0)) or 1.0
    with style():
        figure, axes = new_figure(5.2, 6, ratios=(3.6, 1))
        axes[0].plot([0, reach], [0, reach], color="#9ca3af", lw=1, ls="--", label="perfect")
        for colour, (name, bins) in zip(palette(len(curves)), curves.items(), strict=True):
            predicted, observed, count, low, high = (
                np.array([each[key] for each in bins], np.float64)
                for key in ("predicted", "observed", "count", "low", "high")
            )
            below, above = np.maximum(observed - low, 0), np.maximum(high - observed, 0)
            axes[0].errorbar(
                predicted, observed, yerr=[below, above], color=colour, lw=1.4, marker="o", ms=4, capsize=2, label=name
            )
            axes[1].plot(predicted, count, color=colour, lw=1, marker="o", ms=3)
        axes[0].set_xlim(0, reach)
        axes[0].set_ylim(0, reach)
        axes[0].set_ylabel("observed share, 95% interval")
        axes[0].set_title(title, loc="left", fontsize=10, color="#6b7280")
        axes[0].legend(loc="upper left")
        axes[1].margins(y=0.15)
        axes[1].set_ylim(bottom=0)
        axes[1].set_ylabel("rows in the bin")
        axes[1].set_xlabel("mean predicted probability")
        return save_figure(figure, path)
