"""A sweep as a table: one row for each combination of what was swept, means and standard deviations over the seeds.

    python scripts/sweep_table.py outputs/sweep/NAME [--metric val/loss] [--also test/recall@10,...]

Columns: parameters, the best value of the metric on the way, the step it was reached at, the value at the end, the
last training losses, the speed, and whatever of results.json is asked for beside them.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

COLUMNS = ("parameters", "best", "at step", "end", "train", "units/s")


def higher_is_better(run: Path, metric: str) -> bool:
    entry = json.loads((run / "results.json").read_text())["metrics"].get(metric)
    return entry is not None and entry["better"] == "higher"


def figures(run: Path, metric: str, also: list[str]) -> dict[str, float]:
    """One run's numbers, from its metrics.jsonl and results.json."""
    results = json.loads((run / "results.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    curve = [(row["step"], row[metric]) for row in rows if row.get(metric) is not None]
    if not curve:  # what is only known when the run is over
        curve = [(None, results["metrics"][metric]["value"])]
    best_step, best = (max if higher_is_better(run, metric) else min)(curve, key=lambda pair: pair[1])
    train = [row["train/loss"] for row in rows if row.get("train/loss") is not None][-20:]
    speed = (results.get("throughput") or {}).get("value")
    values = (
        results["model"]["parameters"], best, best_step, curve[-1][1], statistics.mean(train) if train else None, speed
    )  # fmt: skip
    found = {name: value for name, value in zip(COLUMNS, values, strict=True) if value is not None}
    return found | {name: results["metrics"][name]["value"] for name in also}


def grouped(folder: Path, metric: str, also: list[str]) -> dict[str, list[dict[str, float]]]:
    """What was swept, the seed aside -> the numbers of its finished runs."""
    jobs = [job for job in json.loads((folder / "sweep.json").read_text())["jobs"] if job["status"] == "ok"]
    common = set.intersection(*(set(job["overrides"]) for job in jobs))
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for job in jobs:
        words = [
            word for word in job["overrides"] if word not in common and not word.startswith(("seed=", "data.seed="))
        ]
        found[" ".join(words)].append(figures(folder / job["path"], metric, also))
    return found


def cell(values: list[float]) -> str:
    mean = statistics.mean(values)
    if mean >= 100:
        return f"{mean:,.0f}"
    return f"{mean:.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def table(groups: dict[str, list[dict[str, float]]], also: list[str], *, highest_first: bool) -> str:
    """Markdown, best mean first."""
    columns = [*COLUMNS, *also]
    lines = ["| | seeds | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 2) + "|"]

    def key(item: tuple[str, list[dict[str, Any]]]) -> float:
        return statistics.mean(run["best"] for run in item[1])

    for words, runs in sorted(groups.items(), key=key, reverse=highest_first):
        cells = [cell([run[name] for run in runs if name in run]) if name in runs[0] else "" for name in columns]
        lines.append(f"| {words} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--metric", default="val/loss")
    parser.add_argument("--also", default="", help="metrics of results.json, separated by commas")
    arguments = parser.parse_args()
    also = [name for name in arguments.also.split(",") if name]
    any_run = next(arguments.folder.glob("*/results.json")).parent
    highest_first = higher_is_better(any_run, arguments.metric)
    print(table(grouped(arguments.folder, arguments.metric, also), also, highest_first=highest_first))


if __name__ == "__main__":
    main()
