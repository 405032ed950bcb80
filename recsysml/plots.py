"""Pictures of a run and of a sweep. matplotlib is imported when one is drawn, and never opens a window."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recsysml.files import write_atomic
from recsysml.rows import read_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREY, _GREEN = "#2f6fb3", "#d9622b", "#6b7280", "#3d8a5f"
_STYLE: dict[Any, Any] = {
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": "#374151",
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
}

# Replicates of one setting rather than a setting: their spread is shown, not an axis of their own.
SEEDS = ("seed", "data.seed")


def loss_plot(run_dir: Path) -> Path:
    """Draws metrics.jsonl of a run into plots/loss.png and returns its path.

    Above: training loss, raw and smoothed, and validation loss (nats a target), with bits per byte on the right if
    it was logged; where there is no validation loss, the first metric of validation on the right. Below: learning rate
    and throughput, whichever were logged.
    """
    rows = read_rows(run_dir / "metrics.jsonl")
    speeds = [name for row in rows for name in row if name.endswith("_per_second")]
    below = [name for name in ("lr", *speeds[:1]) if _series(rows, name)[0].size]
    with style():
        figure, axes = new_figure(8, 5.2 if below else 4, ratios=(3.2, 1) if below else (1,))
        _draw_losses(axes[0], rows)
        axes[0].set_title(run_dir.name, loc="left", fontsize=10, color=_GREY)
        if below:
            _draw_below(axes[1], rows, below)
        axes[-1].set_xlabel("step")
        return save_figure(figure, run_dir / "plots" / "loss.png")


def vector_plot(run_dir: Path, split: str, spectra: Mapping[str, np.ndarray], norms: Mapping[int, float]) -> Path:
    """Draws plots/vectors_<split>.png and returns its path: singular values, and the length of item vectors.

    spectra: name -> singular values as shares of their sum, falling. norms: popularity decile -> mean length.
    """
    with style():
        figure, (above, below) = new_figure(7, 5.6, ratios=(1.6, 1), sharex=False)
        for colour, (name, shares) in zip((_BLUE, _ORANGE), spectra.items(), strict=False):
            shown = shares[shares > 0]
            above.plot(np.arange(1, len(shown) + 1), shown, color=colour, lw=1.6, label=name)
        above.set_yscale("log")
        above.set_xlabel("rank")
        above.set_ylabel("singular value (share)")
        above.set_title(f"{run_dir.name}: vectors, {split}", loc="left", fontsize=10, color=_GREY)
        above.legend()
        below.bar([str(decile) for decile in norms], list(norms.values()), color=_GREEN, width=0.7)
        below.set_xlabel("popularity decile of the items (10: the most popular)")
        below.set_ylabel("mean length")
        return save_figure(figure, run_dir / "plots" / f"vectors_{split}.png")


def _draw_losses(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    steps, losses = _series(rows, "train/loss")
    if steps.size:
        crowded = steps.size > 30
        axes.plot(
            steps, losses, color=_BLUE, alpha=0.25 if crowded else 0.9, lw=0.9, label=None if crowded else "train"
        )
        if crowded:
            axes.plot(steps, _smooth(losses), color=_BLUE, lw=1.8, label="train (smoothed)")
    steps, losses = _series(rows, "val/loss")
    if steps.size:
        axes.plot(steps, losses, color=_ORANGE, lw=1.4, marker="o", ms=4, label="validation")
        best = int(np.argmin(losses))
        axes.annotate(
            f"best {losses[best]:.3f}",
            (steps[best], losses[best]),
            xytext=(0, 14),
            textcoords="offset points",
            ha="right" if steps[best] > steps.mean() else "left",
            color=_ORANGE,
        )
        _draw_bits_per_byte(axes, losses, rows)
    else:
        _draw_validation(axes, rows)
    axes.set_ylabel("loss (nats)")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right")
    else:
        axes.text(0.5, 0.5, "no loss was logged", transform=axes.transAxes, ha="center", color=_GREY)


def _draw_validation(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """The first metric of validation, on a scale of its own."""
    name = next((name for row in rows for name in row if name.startswith("val/")), None)
    if name is None:
        return
    steps, values = _series(rows, name)
    right = axes.twinx()
    right.plot(steps, values, color=_ORANGE, lw=1.4, marker="o", ms=4)
    right.set_ylabel(name, color=_ORANGE)
    right.spines["right"].set_visible(True)
    right.grid(False)


def _draw_bits_per_byte(axes: Axes, losses: np.ndarray, rows: Sequence[Mapping[str, Any]]) -> None:
    """A second scale on the right: bits per byte is the loss times a constant of the tokenizer."""
    bits = _series(rows, "val/bits_per_byte")[1]
    if bits.size == losses.size and (losses > 0).all():
        factor = float(np.median(bits / losses))
        if factor > 0:
            scales = (lambda y: np.asarray(y) * factor, lambda y: np.asarray(y) / factor)
            right = axes.secondary_yaxis("right", functions=scales)
            right.set_ylabel("bits per byte (validation)")
            right.spines["right"].set_visible(True)


def _draw_below(axes: Axes, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    labels = {name: name.replace("_per_second", "/s") for name in names} | {"lr": "learning rate"}
    sides = [axes, axes.twinx()] if len(names) == 2 else [axes]
    for side, name, colour in zip(sides, names, (_GREY, _GREEN), strict=False):
        steps, values = _series(rows, name)
        side.plot(steps, values, color=colour, lw=1.2)
        side.set_ylabel(labels[name], color=colour)
        side.set_ylim(0, 1.1 * float(values.max()) or 1)
        side.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if len(sides) == 2:
        sides[1].grid(False)
        sides[1].spines["right"].set_visible(True)


def varying(jobs: Sequence[Sequence[str]]) -> list[list[str]]:
    """For each job, a list of overrides, those that not every job has."""
    common = set.intersection(*map(set, jobs))
    return [[text for text in overrides if text not in common] for overrides in jobs]


@dataclass(frozen=True)
class _Panel:
    """The jobs of a sweep that are judged by the same metric."""

    title: str
    points: list[tuple[dict[str, str], float]]  # settings and values
    keys: list[str]  # that were swept
    shared: list[str]  # what all of a panel have is said above it, where there are others
    x_key: str | None
    sideways: bool  # what is too long to stand side by side stands one below the other
    height: float

    @classmethod
    def of(cls, name: str, better: str, points: list[tuple[dict[str, str], float]], *, alone: bool) -> _Panel:
        settings = [setting for setting, _ in points]
        keys = list(dict.fromkeys(key for setting in settings for key in setting))
        common = {} if alone else dict(set.intersection(*(set(setting.items()) for setting in settings)))
        keys = [key for key in keys if key not in common]
        x_key = x_axis(keys, settings)
        texts = list(dict.fromkeys(setting.get(x_key or "", "default") for setting in settings))
        crowded = max(map(len, texts), default=0) > 60 / max(1, len(texts))
        sideways = crowded and any(_as_number(text) is None for text in texts)
        height = max(3.0, 1.4 + 0.7 * len(texts)) if sideways else 4.2
        shared = [f"{key}={text}" for key, text in sorted(common.items())]
        return cls(f"{name} ({better} is better)", points, keys, shared, x_key, sideways, height)


def sweep_plot(content: Mapping[str, Any], changed: Sequence[Sequence[str]], path: Path) -> None:
    """Draws the headline metric of a sweep against what was swept; draws nothing if no job has one.

    content: what sweep.json holds. changed: for each job its overrides that not every job has, as `key=value`. The
    numeric key with the most values is the x axis; other keys make a line each; seeds (of the run, or of a simulated
    world) are points around the mean. Jobs of another headline metric, tokens beside items, have a panel of their own.
    """
    panels: dict[tuple[str, str], list[tuple[dict[str, str], float]]] = {}
    for row, words in zip(content["jobs"], changed, strict=True):
        name = next(iter(row["metrics"]), "")
        metric = row["metrics"].get(name)
        if row["status"] == "ok" and metric and metric["value"] is not None:
            setting = {key: text for key, _, text in (word.partition("=") for word in words)}
            panels.setdefault((name, metric["better"]), []).append((setting, metric["value"]))
    if not panels:
        return
    drawn = [_Panel.of(name, better, points, alone=len(panels) == 1) for (name, better), points in panels.items()]
    with style():
        heights = [panel.height for panel in drawn]
        figure, all_axes = new_figure(7, sum(heights), ratios=heights, sharex=False)
        for axes, panel in zip(all_axes, drawn, strict=True):
            lines = [key for key in panel.keys if key not in (panel.x_key, *SEEDS)]
            _draw_sweep(axes, panel.points, panel.x_key, lines, sideways=panel.sideways)
            names = [(panel.x_key or "").lstrip("+"), panel.title]
            axes.set_xlabel(names[panel.sideways])
            axes.set_ylabel(names[not panel.sideways])
            axes.set_title(" ".join([f"sweep {content['name']}", *panel.shared]), loc="left", fontsize=10, color=_GREY)
        save_figure(figure, path)


def x_axis(keys: Sequence[str], settings: Sequence[Mapping[str, str]]) -> str | None:
    """The swept key that a sweep is drawn over: the numeric one with the most values."""
    candidates = [key for key in keys if key not in SEEDS] or list(keys)

    def rank(key: str) -> tuple[bool, int]:
        values = [setting.get(key) for setting in settings]
        return all(_as_number(value) is not None for value in values), len(set(values))

    return max(candidates, key=rank, default=None)


def _draw_sweep(
    axes: Axes,
    points: Sequence[tuple[dict[str, str], float]],
    x_key: str | None,
    line_keys: Sequence[str],
    *,
    sideways: bool,
) -> None:
    texts = [setting.get(x_key or "", "default") for setting, _ in points]
    numbers = [_as_number(text) for text in texts]
    numeric = len(set(texts)) > 1 and x_key not in SEEDS and all(number is not None for number in numbers)
    # where a setting stands on the x axis: at its number, or in order of appearance
    order = list(dict.fromkeys(texts))
    places = np.array([number if numeric else order.index(text) for number, text in zip(numbers, texts, strict=True)])
    values = np.array([value for _, value in points])
    names = [" ".join(f"{key}={setting.get(key, 'default')}" for key in line_keys) for setting, _ in points]
    colours = palette(len(set(names)))
    for colour, name in zip(colours, dict.fromkeys(names), strict=True):
        chosen = np.array([own == name for own in names])
        xs = np.unique(places[chosen])
        means = [values[chosen & (places == x)].mean() for x in xs]
        whole, each = (xs, means), (places[chosen], values[chosen])
        turn = -1 if sideways else 1
        axes.plot(*whole[::turn], color=colour, lw=1.6 if numeric else 0, marker="o", ms=6, label=name or None)
        axes.plot(*each[::turn], ".", color=colour, alpha=0.45, ms=6)
    if numeric:
        ticks = np.unique(places)
        if ticks[0] > 0 and ticks[-1] / ticks[0] >= 8:
            axes.set_xscale("log")
        if len(ticks) <= 8:
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_xticks([], minor=True)
    elif sideways:
        labels = ["\n".join(textwrap.wrap(text.strip("\"'"), 42)) for text in order]
        axes.set_yticks(range(len(order)), labels, fontsize=8)
        axes.margins(y=0.15)
        axes.invert_yaxis()
    else:
        axes.set_xticks(range(len(order)), order)
        axes.margins(x=0.15)
    if line_keys:
        axes.legend(fontsize=9)


def palette(n: int) -> list[Any]:
    from matplotlib import colormaps

    fixed = [_BLUE, _ORANGE, _GREEN, "#8b5fbf", "#b08900", "#c2477f"]
    return fixed[:n] if n <= len(fixed) else list(colormaps["viridis"](np.linspace(0, 0.92, n)))


def style() -> AbstractContextManager[None]:
    import matplotlib as mpl

    return mpl.rc_context(_STYLE)


def new_figure(
    width: float, height: float, *, ratios: Sequence[float], sharex: bool = True
) -> tuple[Figure, list[Axes]]:
    """Figure and axes without pyplot, which would keep every figure alive and pick a backend with windows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(ratios), 1, sharex=sharex, squeeze=False, height_ratios=list(ratios))
    return figure, list(axes[:, 0])


def save_figure(figure: Figure, path: Path) -> Path:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_atomic(path, picture.getvalue())
    return path


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one logged name, both (n,)."""
    found = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
    table = np.array(found, np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over about 4% of the curve, narrower at its ends, so that it neither lags nor sags there. (n,)"""
    half = max(1, len(values) // 50)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(half, np.minimum(index, len(values) - 1 - index))
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)


def _as_number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
