"""`recsysml diff A B`: metric by metric better, worse, within noise or not comparable; then what else differs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recsysml.diff_sides import Side, open_side
from recsysml.environment import strict
from recsysml.errors import ConfigError
from recsysml.exits import drop_output
from recsysml.metrics.comparison import Difference, compare_pairs, holm, unpaired_z

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

BETTER, WORSE, NOISE, REFUSED = "better", "worse", "within noise", "cannot be compared"

# Where the data can be fetched from says nothing of what they are: their fingerprint does.
_ADDRESSES = "data.urls"

# Rows before test that a ranker's map of probabilities was fitted to: which of them is a ranker's own affair.
_MAPS = {"calibration", "all held out before it"}

# Per token, so two tokenizers give two units. Bits per byte do not have this problem.
_PER_TOKEN = ("loss", "perplexity")


@dataclass(frozen=True)
class MetricRow:
    """One metric of both sides. `effect` is B - A, its interval is at 1 - alpha; the verdict on B by `p_adjusted`."""

    name: str
    a: float | None
    b: float | None
    verdict: str
    reason: str | None = None
    better: str | None = None
    test: str | None = None
    n: int | None = None
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_adjusted: float | None = None


@dataclass(frozen=True)
class Changed:
    """One key that differs. A side that does not have it is None and stands in `only`."""

    key: str
    a: Any
    b: Any
    only: str | None = None


@dataclass(frozen=True)
class Comparison:
    """What `diff` found; B is judged against A."""

    a: str
    b: str
    alpha: float
    metrics: list[MetricRow]
    config: list[Changed]
    data: list[Changed]
    model: list[Changed]
    protocol: list[Changed]
    environment: list[Changed]
    notes: list[str]
    refused: str | None = None  # why no metric of these two can have a winner

    @property
    def regressions(self) -> list[str]:
        """Metrics in which B is worse beyond noise: what `--fail-on-regression` fails on (exit 3)."""
        return [row.name for row in self.metrics if row.verdict == WORSE]

    def to_json(self) -> dict[str, Any]:
        """Plain dicts for strict JSON."""
        return strict({"schema": "recsysml.diff/1", **asdict(self), "regressions": self.regressions})


def compare(a: Path, b: Path, alpha: float = 0.05) -> Comparison:
    """Compares two runs, each a run directory, a results.json, a sweep (its best job) or lm_eval's own results.

    A metric is tested on pairs where both runs have per-example scores of the same ids, else by the two standard
    errors. Its p is adjusted by Holm over all metrics tested here; the verdict is about the adjusted p at `alpha`.
    No winner is called across different protocols, data or, for losses per token, tokenizers.
    Raises ConfigError naming file and place if one is missing, damaged or no results file.
    """
    first, second = open_side(Path(a)), open_side(Path(b))
    refused = _refusal(first, second)
    names = [
        *first.results["metrics"],
        *(name for name in second.results["metrics"] if name not in first.results["metrics"]),
    ]
    rows = _adjust([_judge(name, first, second, refused, alpha) for name in names], alpha)
    parts = {
        part: _changes(first.results[part], second.results[part]) for part in ("config", "data", "model", "protocol")
    }
    parts["config"] = [change for change in parts["config"] if not change.key.startswith(_ADDRESSES)]
    environment = _changes(first.results["environment"], second.results["environment"])
    notes = _notes(first, second)
    return Comparison(
        first.name, second.name, alpha, rows, environment=environment, notes=notes, refused=refused, **parts
    )


def main(a: str, b: str, *, as_json: bool = False, fail_on_regression: bool = False) -> int:
    """The command: prints the comparison and returns the exit code, 3 if a regression was found and shall fail."""
    comparison = compare(Path(a), Path(b))
    code = 3 if fail_on_regression and comparison.regressions else 0
    try:
        if as_json:
            print(json.dumps(comparison.to_json(), indent=1, allow_nan=False, ensure_ascii=False), flush=True)
        else:
            render(comparison)
    except (BrokenPipeError, SystemExit):  # `| head` has read enough, of which rich makes an end of the program
        if not code:
            raise
        drop_output()
    return code


def _refusal(first: Side, second: Side) -> str | None:
    """Why no metric of these two can have a winner, or None."""
    a, b = first.results, second.results
    prints = a["data"].get("fingerprint"), b["data"].get("fingerprint")
    if prints[0] != prints[1] and first.ours and second.ours:
        names = f"{a['data'].get('name')} {_short(prints[0])}, {b['data'].get('name')} {_short(prints[1])}"
        return f"different data: {names}"
    different = [
        change
        for change in _changes(a["protocol"], b["protocol"])
        if change.key != "calibrated_on.test" or not {change.a, change.b} <= _MAPS
    ]
    if first.ours != second.ours:  # the two do not use the same words: only what both say can differ
        different = [change for change in different if change.only is None]
    if different:
        return "different protocol: " + ", ".join(f"{c.key} {_short(c.a)} against {_short(c.b)}" for c in different)
    return None


def _other_task(left: Mapping[str, Any], right: Mapping[str, Any], *, ours: bool) -> str | None:
    """Why two metrics of one name are not of the same task, or None. ours: both files are, and were checked whole."""
    for change in _changes(left.get("task") or {}, right.get("task") or {}):
        if change.a is not None and change.b is not None:
            return f"different task: {change.key} {_short(change.a)} against {_short(change.b)}"
    counts = left.get("n"), right.get("n")
    if not ours and None not in counts and counts[0] != counts[1]:
        return f"different examples: {counts[0]} against {counts[1]}"
    return None


def _judge(name: str, a: Side, b: Side, refused: str | None, alpha: float) -> MetricRow:
    """One metric, with the unadjusted p and without a verdict where a test was made."""
    left, right = a.results["metrics"].get(name), b.results["metrics"].get(name)
    values = left and left["value"], right and right["value"]
    row = MetricRow(name, values[0], values[1], REFUSED, better=(left or right)["better"])
    if left is None or right is None:
        return replace(row, reason=f"only {'A' if right is None else 'B'} has it")
    if refused:
        return replace(row, reason=refused)
    if left["better"] != right["better"]:
        return replace(row, reason="the runs disagree on which direction is better")
    if values[0] is None or values[1] is None:
        return replace(row, reason=f"no finite value in {'A' if values[0] is None else 'B'}")
    if name.rpartition("/")[2] in _PER_TOKEN and _tokenizer(a.results) != _tokenizer(b.results):
        return replace(row, reason="different tokenizers: compare bits per byte")
    other = _other_task(left, right, ours=a.ours and b.ours)
    if other is not None:
        return replace(row, reason=other)
    for label, entry in (("A", left), ("B", right)):
        if entry.get("unreliable"):
            return replace(row, reason=f"in {label} {entry['unreliable']}")
    pairs, obstacle = _pair(name, a, b)
    try:
        if pairs is not None:
            found, n = compare_pairs(*pairs, alpha=alpha), len(pairs[0])
        elif left["stderr"] is None or right["stderr"] is None:
            side = "both" if left["stderr"] == right["stderr"] else "A" if left["stderr"] is None else "B"
            return replace(row, reason=f"no standard error in {side}, and {obstacle}")
        else:
            found, n = unpaired_z(values[0], left["stderr"], values[1], right["stderr"], alpha), left["n"]
    except ValueError as error:
        return replace(row, reason=str(error))
    return _with_test(row, found, n, obstacle)


def _with_test(row: MetricRow, found: Difference, n: int | None, obstacle: str | None) -> MetricRow:
    tested = replace(row, verdict=NOISE, reason=obstacle, test=found.test, n=n)
    return replace(tested, effect=found.effect, low=found.low, high=found.high, p=found.p)


def _pair(name: str, a: Side, b: Side) -> tuple[tuple[np.ndarray, np.ndarray] | None, str | None]:
    """The values of both sides in one order of ids, or None and why there are no pairs."""
    lacking = [label for label, side in (("A", a), ("B", b)) if name not in side.examples]
    if lacking:
        return None, f"no per-example scores in {' and '.join(lacking)}"
    aligned = []
    for side in (a, b):
        ids, values = side.examples[name]
        order = np.argsort(ids, kind="stable")
        ids, values = ids[order], values[order]
        if (ids[1:] == ids[:-1]).any():
            raise ConfigError(f"{side.file.parent / 'examples.parquet'} is damaged at {name}: example ids repeat")
        mean, value = float(values.mean()), side.results["metrics"][name]["value"]
        # A test of means is about the metric only if the metric is the mean (an AUC, for one, is not).
        if not abs(mean - value) <= 1e-4 * max(abs(value), 1e-3):
            return None, "the metric is not the mean of its per-example scores"
        aligned.append((ids, values))
    if len(aligned[0][0]) != len(aligned[1][0]) or (aligned[0][0] != aligned[1][0]).any():
        return None, "the per-example scores are of different examples"
    return (aligned[0][1], aligned[1][1]), None


def _adjust(rows: list[MetricRow], alpha: float) -> list[MetricRow]:
    tested = [index for index, row in enumerate(rows) if row.p is not None]
    adjusted = holm(np.array([rows[index].p for index in tested]))
    for index, p in zip(tested, adjusted, strict=True):
        row = rows[index]
        up = (row.effect or 0) > 0
        won = BETTER if up == (row.better == "higher") else WORSE
        rows[index] = replace(row, p_adjusted=float(p), verdict=won if p <= alpha and row.effect else NOISE)
    return rows


def _tokenizer(results: dict[str, Any]) -> Any:
    """What splits the text into tokens: its fingerprint where the run recorded one, else the config's words for it."""
    data = results["config"].get("data")
    words = (data.get("tokenizer"), data.get("vocab_size")) if isinstance(data, dict) else None
    return results["data"].get("tokenizer") or words


def _notes(a: Side, b: Side) -> list[str]:
    notes: list[str] = []
    for label, side in (("A", a), ("B", b)):
        notes.extend(f"{label} {note}" for note in side.notes)
        run = side.results["run"]
        if run["status"] != "ok":
            notes.append(f"{label} is {run['status']}: its numbers are not those of a whole run")
        if side.results["data"].get("fingerprint") is None:
            notes.append(f"{label} does not say which data it used: that both used the same cannot be checked")
    if a.results.get("config_hash") == b.results.get("config_hash") is not None:
        notes.append("both runs have the same config and package versions: a difference is not the config's doing")
    return notes


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Changed]:
    left, right = dict(flatten(a)), dict(flatten(b))
    changed = []
    for key in [*left, *(key for key in right if key not in left)]:
        only = "A" if key not in right else "B" if key not in left else None
        if only or left[key] != right[key]:
            changed.append(Changed(key, left.get(key), right.get(key), only))
    return changed


def flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The leaves of nested tables as (dotted key, value)."""
    flat: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat.extend(flatten(value, f"{prefix}{key}."))
        else:
            flat.append((f"{prefix}{key}", value))
    return flat


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text[:12] if len(text) == 64 else text  # a sha256


def render(comparison: Comparison, console: Console | None = None) -> None:
    """The tables for a reader, on the console."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if console is None:
        console = Console()
        if not console.is_terminal:
            console.width = 200  # a file has no edge to fold at
    console.print(f"A  {escape(comparison.a)}\nB  {escape(comparison.b)}\n", highlight=False)
    if comparison.refused:
        values = f"; --json has the values of all {len(comparison.metrics)}"
        console.print(f"[yellow]no metric can be compared[/]: {escape(comparison.refused + values)}", highlight=False)
    elif comparison.metrics:
        console.print(_verdicts(comparison))
    else:
        console.print("neither run has a metric")
    for title in ("config", "data", "model", "protocol", "environment"):
        changes: list[Changed] = getattr(comparison, title)
        if not changes:
            continue
        below = Table(box=None, pad_edge=False, header_style="bold", title=f"\n{title}", title_justify="left")
        for heading in ("key", "A", "B"):
            below.add_column(heading, overflow="fold")
        for change in changes:
            cells = ("" if change.only == "B" else _short(change.a), "" if change.only == "A" else _short(change.b))
            below.add_row(escape(change.key), *map(escape, cells))
        console.print(below)
    for note in comparison.notes:
        console.print(f"\n[yellow]note[/]: {escape(note)}", highlight=False)


def _verdicts(comparison: Comparison) -> Table:
    """A line a metric."""
    from rich.markup import escape
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("metric", "A", "B", "B - A", "interval", "p (Holm)", "B is", ""):
        right = title in ("A", "B", "B - A", "interval", "p (Holm)")
        grid.add_column(title, justify="right" if right else "left", no_wrap=title != "", overflow="fold")
    colours = {BETTER: "green", WORSE: "red", NOISE: "dim", REFUSED: "yellow"}
    for row in comparison.metrics:
        interval = f"{row.low:+.3g} .. {row.high:+.3g}" if row.low is not None and row.high is not None else ""
        how = f"{row.test}, n={row.n}" + (f" ({row.reason})" if row.reason else "") if row.test else row.reason or ""
        effect = "" if row.effect is None else f"{row.effect:+.3g}"
        p = "" if row.p_adjusted is None else "<0.0001" if row.p_adjusted < 1e-4 else f"{row.p_adjusted:.4f}"
        verdict = f"[{colours[row.verdict]}]{row.verdict}[/]"
        grid.add_row(escape(row.name), _figure(row.a), _figure(row.b), effect, interval, p, verdict, escape(how))
    return grid


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"
