"""KuaiRand-27K (Gao et al. 2022), an extract: who was shown which video when, and what came of it.

What a row's outcome tells is never its input: not its labels, nor how long the video played, how long its comments were
read, or whether it was liked or hated. Of earlier rows of the same user the outcome is known, as a served model would
know it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from recsysml.data import tables
from recsysml.data.impression_data import ImpressionTable, RawImpressions, bounds_by_time, encode, past
from recsysml.data.impression_encoder import ImpressionEncoder
from recsysml.errors import DataError
from recsysml.files import sha256
from recsysml.schemas.impressions import KuaiRandConfig

if TYPE_CHECKING:
    import polars

log = logging.getLogger("recsysml")

FORMAT = 2
# label -> its column
LABELS = {
    "click": "is_click",
    "long_view": "long_view",
    "like": "label",
    "comment": "is_comment",
    "forward": "is_forward",
    "follow": "is_follow",
    "profile_enter": "is_profile_enter",
}
# what is known when a video is shown
KNOWN = ("user_id", "video_id", "hourmin", "time_ms", "duration_ms")
# what only its outcome tells, besides the labels
OUTCOMES = (*LABELS.values(), "play_time_ms", "comment_stay_time")
_USER_NUMBERS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
_USER_IDS = (
    "user_active_degree", "is_lowactive_period", "is_live_streamer", "is_video_author", "follow_user_num_range",
    "fans_user_num_range", "friend_user_num_range", "register_days_range",
    *(f"onehot_feat{number}" for number in range(18)),
)  # fmt: skip
# responses that are remembered of earlier rows: as an event's kind, and as rates of the user and of the video
_REMEMBERED = ("click", "long_view", "like", "profile_enter")
# the log's hours are those of China
_ZONE_HOURS = 8
# how many rows a rate is held back to the mean of all by
_PRIOR = 10.0


def check(config: KuaiRandConfig) -> None:
    """Raises DataError, in one line, for a missing file or column. Reads headers only."""
    config.validate()
    path = tables.find(config.name, "data.path", config.path)
    tables.need(path, dict.fromkeys((*KNOWN, *LABELS.values()), "KuaiRand"))
    if config.users_path:
        users = tables.find(config.name, "data.users_path", config.users_path)
        tables.need(users, dict.fromkeys(("user_id", *_USER_NUMBERS, *_USER_IDS), "KuaiRand"))


def load_impressions(config: KuaiRandConfig, encoder: ImpressionEncoder | None = None) -> ImpressionTable:
    """The rows in order of time. Raises DataError naming a bad row."""
    return encode(read(config), encoder)


def read(config: KuaiRandConfig) -> RawImpressions:
    """The log joined with what is known of users. There are no requests in it: grouped metrics are by user."""
    check(config)
    path = tables.find(config.name, "data.path", config.path)
    rows = tables.read(path, (*KNOWN, *LABELS.values()))
    numbers = {name: _numbers(rows[name], path) for name in ("time_ms", "hourmin", "duration_ms", *LABELS.values())}
    order = np.argsort(numbers["time_ms"], kind="stable")
    rows = rows[order]
    numbers = {name: values[order] for name, values in numbers.items()}
    times = numbers["time_ms"] / 1000
    users, videos = (rows[name].rank("dense").to_numpy().astype(np.int64) for name in ("user_id", "video_id"))
    bounds = bounds_by_time(np.arange(len(rows)), config.val_fraction, config.test_fraction, config.name)
    # an outcome is known once it is in the log, or, as asked, only if it came while the model was trained
    known = np.ones(len(rows), dtype=bool)
    if config.history_until == "train":
        known = times < times[bounds["train"][1]]
    events = np.flatnonzero(known)
    place, starts, stops = past(users, times, users[events], times[events])
    of = events[place]  # rows of the past, user by user
    responses = {name: numbers[LABELS[name]] for name in _REMEMBERED}
    response = np.zeros(len(rows), np.int64)  # a bit a response
    for bit, values in enumerate(responses.values()):
        response += values.astype(np.int64) << bit
    of_user: dict[str, polars.Series] = {"user": rows["user_id"]}
    ids: dict[str, polars.Series] = {"video": rows["video_id"]}
    ids |= {"hour": _texts(numbers["hourmin"] // 100), "weekday": _texts((times / 3600 + _ZONE_HOURS) // 24 % 7)}
    dense = {"log_duration": np.log1p(numbers["duration_ms"] / 1000), "log_past": np.log1p(stops - starts)}
    for name, values in responses.items():
        for owner, key in (("user", users), ("video", videos)):
            dense[f"{owner}_{name}_rate"] = past_rates(key, times, key[events], times[events], values[events])
    if config.users_path:
        table = tables.find(config.name, "data.users_path", config.users_path)
        known_users = _by_row(tables.read(table, ("user_id", *_USER_NUMBERS, *_USER_IDS)), rows["user_id"])
        of_user |= {name: known_users[name] for name in _USER_IDS}
        dense |= {f"log_{name}": np.log1p(np.maximum(_numbers(known_users[name], table), 0)) for name in _USER_NUMBERS}
    files = [path, *([table] if config.users_path else [])]
    return RawImpressions(
        config.name,
        ["kuairand", FORMAT, [sha256(file) for file in files], config.history_until],
        bounds,
        {task: numbers[LABELS[task]] for task in config.tasks},
        config.task_types(),
        users,
        times,
        moments=times,
        dense=dense,
        sparse=of_user | ids,
        history={"past_video": rows["video_id"][of], "past_response": _texts(response[of])},
        history_starts=starts,
        history_stops=stops,
        user="user",
        of_user=len(of_user),
        target="video",
        cohorts=["user_active_degree", "hour"] if config.users_path else ["hour"],
        fit_range=config.fit_range,
        grouped_by="user",
    )


def past_rates(
    keys: np.ndarray, times: np.ndarray, event_keys: np.ndarray, event_times: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """(N,) of each row the mean of `values` (M,) over the events of its key before its time, held back to 1/2 of all.

    (sum + prior x m) / (count + prior), where m is the mean of all events before that time and 1/2 before any.
    """
    order, starts, stops = past(keys, times, event_keys, event_times)
    sums = np.concatenate([[0.0], np.cumsum(values[order])])
    by_time = np.argsort(event_times, kind="stable")
    before = np.searchsorted(event_times[by_time], times, side="left")
    overall = (np.concatenate([[0.0], np.cumsum(values[by_time])])[before] + 0.5) / (before + 1)
    return (sums[stops] - sums[starts] + _PRIOR * overall) / (stops - starts + _PRIOR)


def prepare(config: KuaiRandConfig) -> None:
    """Nothing to convert; the data set's own site is where it is fetched from."""
    check(config)


def status(config: KuaiRandConfig) -> str:
    """One line for `recsysml data list`. Raises what `check` raises."""
    check(config)
    path = tables.find(config.name, "data.path", config.path)
    return f"ready: {path.name}, {path.stat().st_size / 1e6:.1f} MB"


def _by_row(table: polars.DataFrame, users: polars.Series) -> polars.DataFrame:
    """The table's row of each of `users` (N,), null where it has none."""
    return users.to_frame("user_id").join(table, on="user_id", how="left", maintain_order="left")


def _numbers(values: polars.Series, path: object) -> np.ndarray:
    """(N,) float64, NaN where there is nothing. Raises DataError for a text that is no number."""
    import polars as pl

    found = values.cast(pl.Float64, strict=False)
    if (wrong := found.is_null() & values.is_not_null()).any():
        row = int(wrong.arg_max() or 0)
        raise DataError(f"{path} row {row + 1}: {values.name} is {values[row]!r}, no number")
    return found.fill_null(float("nan")).to_numpy()


def _texts(values: np.ndarray) -> polars.Series:
    import polars as pl

    return pl.Series(values.astype(np.int64)).cast(pl.String)
