"""Altair charts as Vega-Lite: what is drawn, never how it is put on the page.

Axes and texts are drawn in `currentColor`, so that the page's light and dark styles hold for them too. Every chart
filters by the parameter `shown`, the labels of the runs that the reader has chosen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from recsysml.report.curves import CurveChart

# of middle lightness: they are read on white and on near-black
PALETTE = (
    "#4a8fdc", "#e4803a", "#36a877", "#b673d6", "#cf9b16", "#de5c86", "#26a6b8", "#98906a", "#8189e8", "#c8705c",
)  # fmt: skip
_INK = "currentColor"
_CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": _INK, "titleColor": _INK, "gridColor": _INK, "domainColor": _INK, "tickColor": _INK,
        "gridOpacity": 0.13, "domainOpacity": 0.4, "tickOpacity": 0.4, "titleFontWeight": "normal",
        "labelFontSize": 11, "titleFontSize": 12, "labelLimit": 220, "titleLimit": 420,
        "labelFlush": False, "labelSeparation": 4,
    },
    "legend": {"labelColor": _INK, "titleColor": _INK, "labelFontSize": 11, "labelLimit": 260, "orient": "bottom"},
    "header": {"labelColor": _INK, "titleColor": _INK},
}  # fmt: skip
# each number with its own letter: 500, 1k, 1.5k; a format would give all of them the same
_SHORT = alt.Axis(labelExpr="format(datum.value, '~s')", grid=False, tickCount=6)
_SHOWN = "indexof(shown, datum.run) >= 0"


def curves(chart: CurveChart, labels: Sequence[str], *, zero: bool = False) -> dict[str, Any]:
    """Lines over the parameter `x_axis`: step, tokens or seconds. Validation is dotted with its points."""
    base = _base().transform_calculate(x="datum[x_axis]").transform_filter("isValid(datum.x)")
    encoding: dict[str, Any] = {
        "x": alt.X("x:Q", title=None, axis=_SHORT, scale=alt.Scale(nice=False)),
        "y": alt.Y("value:Q", title=None, scale=alt.Scale(zero=zero)),
        "color": _by_run(labels),
        "detail": alt.Detail("part:N"),
        "tooltip": _tooltip("run:N", "part:N", "step:Q", "tokens:Q", "seconds:Q", "value:Q"),
    }
    several = len(chart.parts) > 1
    line = base.mark_line(strokeWidth=1.6, clip=True).encode(**encoding)
    if several:
        thin = alt.condition("datum.part == 'train'", alt.value(0.45), alt.value(1.0))
        line = line.encode(opacity=thin)
    layers = [line]
    if several:
        dots = base.transform_filter("datum.part != 'train'").mark_point(size=26, filled=True, opacity=1)
        layers.append(dots.encode(**encoding))
    picture = alt.layer(*layers).properties(width="container", height=230)
    return _finish(picture, labels, {"rows": chart.points}, [alt.param(name="x_axis", value="step")])


def tasks(rows: Sequence[Mapping[str, Any]], labels: Sequence[str], title: str) -> dict[str, Any]:
    """Bars of one metric, task by task, with 95% intervals and a line at chance.

    rows: run, task, value, low, high, baseline.
    """
    base = _base()
    order = merged([[row["task"] for row in rows if row["run"] == label] for label in labels])
    x, offset = alt.X("task:N", title=None, axis=alt.Axis(labelAngle=0), sort=order), _offset(labels)
    tips = _tooltip("run:N", "task:N", "value:Q", "low:Q", "high:Q", "baseline:Q")
    bar = base.mark_bar(cornerRadiusEnd=2).encode(
        x=x, xOffset=offset, y=alt.Y("value:Q", title=title, stack=False), color=_by_run(labels), tooltip=tips
    )
    whisker = base.mark_rule(color=_INK, strokeWidth=1.4).encode(
        x=x, xOffset=offset, y=alt.Y("low:Q", title=title), y2="high:Q", tooltip=tips
    )
    chance = base.transform_filter("isValid(datum.baseline)").mark_tick(
        color=_INK, thickness=2, strokeDash=[3, 2], opacity=0.9
    )
    chance = chance.encode(x=x, xOffset=offset, y=alt.Y("baseline:Q", title=title))
    picture = alt.layer(bar, whisker, chance).properties(width="container", height=260)
    return _finish(picture, labels, {"rows": rows})


def metric(
    rows: Sequence[Mapping[str, Any]], baselines: Sequence[Mapping[str, Any]], labels: Sequence[str], better: str
) -> dict[str, Any]:
    """One metric: a point with its 95% interval for each run, and rules at what simple methods get.

    rows: run, value, low, high. baselines: run, name, value.
    """
    base = _base()
    y = alt.Y("run:N", title=None, sort=list(labels), axis=alt.Axis(grid=False, labelLimit=190))
    scale = alt.Scale(zero=False, padding=12)
    tips = _tooltip("run:N", "value:Q", "low:Q", "high:Q")
    x = alt.X("value:Q", title=f"{better} is better", scale=scale, axis=alt.Axis(tickCount=5))
    dot = base.mark_point(filled=True, size=70, opacity=1).encode(x=x, y=y, color=_by_run(labels), tooltip=tips)
    whisker = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", y=y, color=_by_run(labels), tooltip=tips)
    layers: list[Any] = [whisker, dot]
    if baselines:
        rule = _base("baselines").mark_tick(color=_INK, thickness=1.6, opacity=0.75, size=16)
        layers.insert(0, rule.encode(x="value:Q", y=y, tooltip=_tooltip("name:N", "value:Q")))
    height = 34 + 26 * len({row["run"] for row in rows})
    picture = alt.layer(*layers).properties(width="container", height=height)
    return _finish(picture, labels, {"rows": rows, "baselines": baselines})


def section_curves(part: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """The curves of a section. part: as recsysml.sections has it, its points with a `run` each."""
    x_scale = alt.Scale(type="log") if part["log_x"] else alt.Scale(zero=False, nice=False)
    y_scale = alt.Scale(type="log") if part["log_y"] else alt.Scale(zero=False)
    base = _base()
    for axis in [axis for axis in ("x", "y") if part[f"log_{axis}"]]:
        base = base.transform_filter(f"datum.{axis} > 0")  # a logarithmic axis has no place for the rest
    line = base.mark_line(point=alt.OverlayMarkDef(size=24)).encode(
        x=alt.X("x:Q", title=part["x"], scale=x_scale, axis=alt.Axis(tickCount=5)),
        y=alt.Y("y:Q", title=part["y"], scale=y_scale),
        tooltip=_tooltip("run:N", "curve:N", "x:Q", "y:Q"),
        **_run_and_curve(part["points"], labels),
    )
    return _finish(line.properties(width="container", height=240), labels, {"rows": part["points"]})


def section_bars(part: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """The bars of a section."""
    rows = [{**row, "task": row["label"]} for row in part["bars"]]
    return tasks(rows, labels, part["value"])


def section_reliability(part: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """Observed against predicted share, the diagonal, and points as large as their bins."""
    base = _base()
    top = max([1e-9, *(max(row["predicted"], row["observed"], row.get("high") or 0) for row in part["bins"])])
    ends = alt.Scale(domain=[0, end := _round_up(top)], nice=False)
    diagonal = alt.Chart(alt.Data(values=[{"p": 0}, {"p": end}])).mark_line(
        color=_INK, strokeDash=[4, 3], opacity=0.5, strokeWidth=1.2
    )
    ticks = alt.Axis(tickCount=5)
    x = alt.X("predicted:Q", title="predicted", scale=ends, axis=ticks)
    y = alt.Y("observed:Q", title="observed", scale=ends, axis=ticks)
    tips = _tooltip("run:N", "curve:N", "predicted:Q", "observed:Q", "count:Q")
    looks = _run_and_curve(part["bins"], labels)
    line = base.mark_line(strokeWidth=1.5, clip=True).encode(x=x, y=y, tooltip=tips, **looks)
    size = alt.Size("count:Q", legend=None, scale=alt.Scale(range=[0, 90], domainMin=0))
    dot = base.mark_point(filled=True, clip=True).encode(x=x, y=y, size=size, tooltip=tips, color=looks["color"])
    spread = base.transform_filter("isValid(datum.low) && isValid(datum.high)").mark_rule(clip=True)
    whisker = spread.encode(x=x, y=alt.Y("low:Q", title="observed"), y2="high:Q", color=looks["color"])
    layers = alt.layer(diagonal.encode(x="p:Q", y="p:Q"), whisker, line, dot)
    return _finish(layers.properties(width="container", height=320), labels, {"rows": part["bins"]})


def merged(orders: Sequence[Sequence[str]]) -> list[str]:
    """One order of all labels: numbers by size; else what only a later list has stands before what it has in common
    with those before."""
    whole: list[str] = []
    for order in [list(dict.fromkeys(order)) for order in orders]:
        for index, label in enumerate(order):
            if label not in whole:
                later = next((other for other in order[index + 1 :] if other in whole), None)
                whole.insert(len(whole) if later is None else whole.index(later), label)
    return sorted(whole, key=int) if all(label.isdecimal() for label in whole) else whole


def _round_up(top: float) -> float:
    """The next even number of ten steps, at most 1: shares that are small (clicks) fill the picture too."""
    power = 10.0 ** math.floor(math.log10(top))
    steps = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)
    return min(1.0, next(step * power for step in steps if top <= step * power * (1 + 1e-9)))


def _base(name: str = "rows") -> alt.Chart:
    """A chart of data that `_finish` puts in by name: Altair would check every number of it against its schema."""
    return alt.Chart(alt.NamedData(name=name)).transform_filter(_SHOWN)


def _by_run(labels: Sequence[str]) -> alt.Color:
    colours = [PALETTE[index % len(PALETTE)] for index in range(len(labels))]
    return alt.Color("run:N", scale=alt.Scale(domain=list(labels), range=colours), legend=None)


def _run_and_curve(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> dict[str, Any]:
    """Colours tell the runs apart and dashes a run's curves; of a single run, colours tell the curves apart."""
    curves = list(dict.fromkeys(row["curve"] for row in rows))
    if len({row["run"] for row in rows}) > 1 or len(curves) < 2:
        looks: dict[str, Any] = {"color": _by_run(labels)}
        if len(curves) > 1:
            legend = alt.Legend(symbolType="stroke", symbolStrokeColor=_INK, symbolFillColor="transparent", title=None)
            looks["strokeDash"] = alt.StrokeDash("curve:N", sort=curves, legend=legend)
        return looks
    colours = [PALETTE[index % len(PALETTE)] for index in range(len(curves))]
    return {"color": alt.Color("curve:N", title=None, scale=alt.Scale(domain=curves, range=colours))}


def _offset(labels: Sequence[str]) -> alt.XOffset:
    return alt.XOffset("run:N", sort=list(labels))


def _tooltip(*names: str) -> list[alt.Tooltip]:
    return [alt.Tooltip(name, format=".5~g") if name.endswith(":Q") else alt.Tooltip(name) for name in names]


def _finish(
    picture: Any,
    labels: Sequence[str],
    data: Mapping[str, Sequence[Mapping[str, Any]]],
    more: Sequence[Any] = (),
) -> dict[str, Any]:
    """The chart as a Vega-Lite specification, with its data and the parameters that the page sets."""
    spec = picture.add_params(alt.param(name="shown", value=list(labels)), *more).to_dict()
    spec["datasets"] = {**spec.get("datasets", {}), **{name: list(rows) for name, rows in data.items()}}
    spec["config"] = _CONFIG
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    spec["padding"] = {"left": 5, "top": 5, "bottom": 5, "right": 18}  # the last number of an axis hangs over its end
    return spec
