"""What a policy gives of one thing for another, as a picture: of one run, and of a sweep."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recsysml.plots import SEEDS, new_figure, palette, save_figure, style, x_axis


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


def sweep_trade_off_plot(
    content: Mapping[str, Any], changed: Sequence[Sequence[str]], pair: tuple[str, str], path: Path
) -> None:
    """Draws two metrics of a sweep against each other, a point a setting; draws nothing where no job has both.

    content: what sweep.json holds. changed: for each job its overrides that not every job has.
    """
    curves = sweep_curves(content, changed, pair)
    if curves:
        trade_off_plot(path, f"sweep {content['name']}", curves, *pair)


def sweep_curves(
    content: Mapping[str, Any], changed: Sequence[Sequence[str]], pair: tuple[str, str]
) -> dict[str, np.ndarray]:
    """Name -> (D, 2) of the two metrics, means over seeds. Jobs that differ only in what has the most values, a number,
    make a curve, in its order."""
    found: list[tuple[dict[str, str], list[float]]] = []
    for row, words in zip(content["jobs"], changed, strict=True):
        both = [(row["metrics"].get(name) or {}).get("value") for name in pair]
        if row["status"] == "ok" and None not in both:
            found.append(({key: text for key, _, text in (word.partition("=") for word in words)}, both))
    settings = [setting for setting, _ in found]
    along = x_axis(list(dict.fromkeys(key for setting in settings for key in setting)), settings)
    places: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for setting, both in found:
        name = " ".join(f"{key}={text}" for key, text in setting.items() if key not in (along, *SEEDS))
        places[name][setting.get(along or "", "")].append(both)

    def order(text: str) -> tuple[float, str]:
        try:
            return float(text), text
        except ValueError:
            return np.inf, text

    return {
        name or f"by {along}": np.array([np.mean(at[text], axis=0) for text in sorted(at, key=order)])
        for name, at in places.items()
    }
