"""What a policy gives of one thing for another, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recsysml.plots import new_figure, palette, save_figure, style


def trade_off_plot(
    path: Path, title: str, curves: Mapping[str, np.ndarray], x: str = "minutes a session", y: str = "revenue a session"
) -> Path:
    """Draws curves (D, 2) of x and y, one of a single point as a point, and writes a PNG; returns its path."""
    with style():
        figure, (axes,) = new_figure(6.4, 4.6, ratios=(1,))
        for colour, (name, points) in zip(palette(len(curves)), curves.items(), strict=True):
            single = len(points) == 1
            axes.plot(
                points[:, 0], points[:, 1], color=colour, lw=0 if single else 1.6, label=name,
                marker="D" if single else "." if len(points) < 30 else None, ms=7 if single else 6,
                zorder=3 if single else 2,
            )  # fmt: skip
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.set_title(title, loc="left", fontsize=10, color="#6b7280")
        axes.legend(fontsize=9)
        return save_figure(figure, path)
