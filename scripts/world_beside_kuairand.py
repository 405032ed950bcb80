"""Popularity skew, session lengths and rates of the simulated world beside KuaiRand's.

    RECSYSML_DATA=... python scripts/world_beside_kuairand.py

Reads $RECSYSML_DATA/multitask/kuairand-27k_kcore15.tsv.gz, an extract of KuaiRand-27K with the rows that were liked or
hated, and with users and videos of few rows left out. docs/world.md says what that does to the comparison.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from recsysml.data.tables import find_file
from recsysml.data.world_log import open_world
from recsysml.schemas.data import WorldConfig

# a longer pause begins another session
PAUSE = 1800.0


def skew(items: np.ndarray) -> list[str]:
    """Gini, and the shares of the most shown 1% and 10%, over the items that occur."""
    counts = np.sort(np.unique(items, return_counts=True)[1])
    shares, n = counts / counts.sum(), len(counts)
    gini = 1 + 1 / n - 2 * np.cumsum(shares).sum() / n
    return [f"{gini:.2f}", *(f"{shares[-max(1, n // part) :].sum():.0%}" for part in (100, 10))]


def lengths(users: np.ndarray, times: np.ndarray) -> list[str]:
    """Mean, median, 90th and 99th percentile of events in a session, sessions cut at pauses."""
    order = np.lexsort((times, users))
    users, times = users[order], times[order]
    begins = np.ones(len(users), dtype=bool)
    begins[1:] = (users[1:] != users[:-1]) | (np.diff(times) > PAUSE)
    events = np.bincount(np.cumsum(begins) - 1)
    return [f"{events.mean():.1f}", *(f"{np.percentile(events, part):.0f}" for part in (50, 90, 99))]


def thinned(users: np.ndarray, times: np.ndarray, share: float) -> list[str]:
    """Session lengths when only a share of the events is left, as in the extract."""
    kept = np.random.default_rng(0).random(len(users)) < share
    return lengths(users[kept], times[kept])


def main() -> None:
    path = find_file("kuairand", "multitask/kuairand-27k_kcore15.tsv.gz")
    log = pl.read_csv(path, separator="\t")
    users, videos, times = log["user_id"].to_numpy(), log["video_id"].to_numpy(), log["time_ms"].to_numpy() / 1000
    clicks = log["is_click"].to_numpy() == 1
    parts = [impressions for _, impressions in open_world(WorldConfig())]
    names = ("users", "items", "times", "click", "long_view", "like", "share", "skip")
    world = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    clicked = skew(world["items"][world["click"]]), skew(videos[clicks])
    sessions = lengths(world["users"], world["times"]), lengths(users, times)
    rows = [
        ("events", f"{len(world['items']):,}", f"{len(videos):,}"),
        ("shown: Gini, top 1%, top 10%", ", ".join(skew(world["items"])), ", ".join(skew(videos))),
        ("clicked: Gini, top 1%, top 10%", *map(", ".join, clicked)),
        ("session: mean, 50%, 90%, 99%", *map(", ".join, sessions)),
        ("the same with a fifth of the events", ", ".join(thinned(world["users"], world["times"], 0.2)), ""),
        ("click rate", f"{world['click'].mean():.3f}", f"{clicks.mean():.3f}"),
        ("long view rate", f"{world['long_view'].mean():.3f}", f"{log['long_view'].mean():.3f}"),
        ("share (forward) rate", f"{world['share'].mean():.3f}", f"{log['is_forward'].mean():.3f}"),
    ]
    print("| | world | KuaiRand extract |\n| --- | --- | --- |")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
