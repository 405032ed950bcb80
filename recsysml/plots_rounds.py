"""What becomes of policies round by round, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from recsysml.plots import new_figure, palette, save_figure, style


def rounds_plot(
    path: Path,
    title: str,
    above: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    below: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> Path:
    """Draws curves, name -> (rounds, values): above by name, each of `below` on an axis of its own under them; writes a
    PNG and returns its path."""
    with style():
        figure, axes = new_figure(6.4, 3.2 + 1.2 * len(below), ratios=(2.4, *[1] * len(below)))
        for colour, (name, (rounds, values)) in zip(palette(len(above)), above.items(), strict=True):
            axes[0].plot(rounds, values, color=colour, lw=1.6, marker="o", ms=5, label=name)
        axes[0].legend(fontsize=9)
        axes[0].set_title(title, loc="left", fontsize=10, color="#6b7280")
        for one, colour, (name, (rounds, values)) in zip(axes[1:], palette(6)[2:], below.items(), strict=False):
            one.plot(rounds, values, color=colour, lw=1.6, marker="o", ms=5)
            one.set_ylabel(name)
            one.set_ylim(0, 1.1 * max(values, default=0) or 1)
        axes[-1].locator_params(axis="x", integer=True)
        axes[-1].set_xlabel("round")
        return save_figure(figure, path)
