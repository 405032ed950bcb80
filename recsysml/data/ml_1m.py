"""MovieLens 1M: the ratings with their times, or the sequences published beside SASRec and gSASRec.

The published training lines stop two items before a user's end (three for some) and the file with the item between is
not read here, so the last item of a training line is val: results on sequences are not comparable with published ones.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from recsysml.data import tables
from recsysml.data.features import Features, encode, no_features, of_table
from recsysml.data.interaction_data import Interactions, divide
from recsysml.data.interactions import without_duplicates
from recsysml.data.sequences import places
from recsysml.errors import ConfigError, DataError
from recsysml.files import data_dir, sha256
from recsysml.schemas.data import Ml1mConfig

if TYPE_CHECKING:
    import polars

_RATINGS = "ratings.dat"
_TRAIN, _TEST = ("sas_train_input.txt", "sas_train_input.txt.gz"), "sas_test_output.txt"


class _Events(NamedTuple):
    user_ids: list[str]
    item_ids: list[str]
    users: np.ndarray  # (N,)
    items: np.ndarray  # (N,)
    times: np.ndarray  # (N,)


def check(config: Ml1mConfig) -> None:
    """Raises ConfigError or DataError, in one line, for missing files or a split that they do not allow."""
    config.validate()
    if not _ratings(config) and config.split == "time":
        raise ConfigError("data.split=time needs ratings.dat: the sequences have no times, use data.split=last_out")


def load(config: Ml1mConfig) -> Interactions:
    """The events, with titles, genres and release years, and users' age, gender and occupation where they are there."""
    check(config)
    folder = _folder(config)
    timed = _ratings(config)
    events = _of_ratings(folder) if timed else _of_sequences(folder)
    splits = divide(config, events.users, events.items, events.times)
    titles, item_features = _movies(folder, events.item_ids)
    used = [folder / name for name in ((_RATINGS,) if timed else (_train_file(folder).name, _TEST))]
    used += [path for name in ("movies.dat", "users.dat") if (path := folder / name).is_file()]
    key = json.dumps([[sha256(path) for path in used], config.split])
    return Interactions(
        config.name,
        hashlib.sha256(key.encode()).hexdigest(),
        events.user_ids,
        events.item_ids,
        splits,
        _people(folder, events.user_ids),
        item_features,
        titles,
        split=config.split,
        fit_range=config.fit_range,
        timed=timed,
    )


def prepare(config: Ml1mConfig) -> None:
    """Nothing to convert; its terms forbid passing the files on, so there is no address to fetch them from."""
    load(config)


def status(config: Ml1mConfig) -> str:
    """One line for `recsysml data list`. Raises what `check` raises."""
    check(config)
    return f"ready: {_RATINGS if _ratings(config) else 'sequences (no times)'}"


def _folder(config: Ml1mConfig) -> Path:
    given, shared = Path(config.path).expanduser(), data_dir()
    for folder in (given, *([shared / given] if shared else [])):
        if folder.is_dir():
            return folder
    raise DataError(f"{config.name}: the folder {config.path} is missing: set RECSYSML_DATA to the one that holds it")


def _ratings(config: Ml1mConfig) -> bool:
    """Whether the ratings are read. Raises DataError where what is asked for is not there."""
    folder = _folder(config)
    ratings, sequences = (folder / _RATINGS).is_file(), _train_file(folder).is_file() and (folder / _TEST).is_file()
    if not (sequences if config.source == "sequences" else ratings or (config.source == "auto" and sequences)):
        wanted = {"ratings": _RATINGS, "sequences": f"{_TRAIN[0]} and {_TEST}"}
        raise DataError(
            f"{config.name}: {folder} has no {wanted.get(config.source, f'{_RATINGS} (nor {_TRAIN[0]} and {_TEST})')}"
        )
    return config.source != "sequences" and ratings


def _train_file(folder: Path) -> Path:
    return next((folder / name for name in _TRAIN if (folder / name).is_file()), folder / _TRAIN[0])


def _of_ratings(folder: Path) -> _Events:
    path = folder / _RATINGS
    rows = tables.read_dat(path, ("UserID", "MovieID", "Rating", "Timestamp"))
    rows = without_duplicates(tables.as_events(rows.select("UserID", "MovieID", "Timestamp"), path), path)
    (users, user_ids), (items, item_ids) = encode(rows["user"]), encode(rows["item"])
    return _Events(user_ids, item_ids, users, items, rows["time"].to_numpy())


def _of_sequences(folder: Path) -> _Events:
    import polars as pl

    path = _train_file(folder)
    lines, last = tables.read_lines(path), tables.read_lines(folder / _TEST)
    if len(lines) != len(last):
        raise DataError(f"{path} has {len(lines)} rows and {_TEST} has {len(last)}: one of them is cut off")
    for file, words in ((path, lines), (folder / _TEST, last)):
        empty = (words.list.first() == "").fill_null(True)
        if empty.any():
            raise DataError(f"{file} row {int(empty.arg_max() or 0) + 1} has no items")
    whole = lines.list.concat(last)
    lengths = whole.list.len().to_numpy()
    owners = np.repeat(np.arange(len(whole)), lengths)
    numbers = pl.Series([str(i + 1) for i in range(len(whole))])
    users, user_ids = encode(_original(folder / "sas_to_original_users.txt", numbers))
    items, item_ids = encode(_original(folder / "sas_to_original_items.txt", whole.explode()))
    return _Events(user_ids, item_ids, users[owners], items, places(lengths).astype(np.float64))


def _original(path: Path, words: polars.Series) -> polars.Series:
    """Ids of the sequences as MovieLens has them, where the table is there."""
    if not path.is_file():
        return words
    pairs = tables.read_lines(path)
    return words.replace_strict(pairs.list.first(), pairs.list.last(), default=words)


def _movies(folder: Path, ids: list[str]) -> tuple[list[str] | None, Features]:
    import polars as pl

    if not (folder / "movies.dat").is_file():
        return None, no_features(len(ids))
    rows = tables.read_dat(folder / "movies.dat", ("id", "title", "genres"))
    rows = pl.DataFrame({"id": ids}).join(rows, on="id", how="left", maintain_order="left")
    rows = rows.with_columns(pl.col("title").str.extract(r"\((\d{4})\)\s*$").alias("release_year"))
    rows = rows.with_columns(pl.col("genres").str.replace_all(" ", "-"))
    return rows["title"].fill_null("").to_list(), of_table(rows, ["release_year"], [], ["genres"])


def _people(folder: Path, ids: list[str]) -> Features:
    import polars as pl

    if not (folder / "users.dat").is_file():
        return no_features(len(ids))
    rows = tables.read_dat(folder / "users.dat", ("id", "gender", "age", "occupation", "zip"))
    rows = pl.DataFrame({"id": ids}).join(rows, on="id", how="left", maintain_order="left")
    return of_table(rows, ["age"], ["gender", "occupation"], [])
