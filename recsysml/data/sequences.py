"""Users' items in time order without times, a line a user, as S3-Rec publishes Amazon Beauty."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recsysml.data import tables
from recsysml.data.features import encode, no_features, of_table
from recsysml.data.interaction_data import Interactions, divide
from recsysml.errors import ConfigError, DataError
from recsysml.files import sha256
from recsysml.schemas.data import SequencesConfig

if TYPE_CHECKING:
    import polars


def check(config: SequencesConfig) -> None:
    """Raises ConfigError or DataError, in one line, for a missing file or a wrong checksum."""
    config.validate()
    if not config.path:
        raise ConfigError("data.path is empty: give a text file with a line a user: the user, then the items")
    tables.verify(_files(config)["path"], config.sha256)


def load(config: SequencesConfig) -> Interactions:
    """The events; times are places within a user's line. Raises DataError naming a bad line."""
    check(config)
    files = _files(config)
    path = files["path"]
    lines = tables.read_lines(path)
    users, owners, items = of_lines(lines, path)
    names = _tables(files.get("names_path"))
    item_words, item_ids, codes = _named(items, names.get("id2item", {}))
    _, user_ids, user_codes = _named(users, names.get("id2user", {}))
    lengths = np.bincount(owners, minlength=len(users))
    splits = divide(config, user_codes[owners], codes, places(lengths).astype(np.float64))
    titles, features = None, no_features(len(item_ids))
    if "titles_path" in files:
        known = _titles(files["titles_path"])
        titles = [known.get(name, "") for name in item_ids]
    if "tags_path" in files:
        import polars as pl

        known_tags = tables.read_json(files["tags_path"])
        texts = [" ".join(map(str, known_tags.get(word, ()))) for word in item_words]
        features = of_table(pl.DataFrame({"attributes": texts}), [], [], ["attributes"])
    fingerprint = hashlib.sha256(json.dumps([[sha256(file) for file in files.values()], config.split]).encode())
    return Interactions(
        config.name,
        fingerprint.hexdigest(),
        user_ids,
        item_ids,
        splits,
        no_features(len(user_ids)),
        features,
        titles,
        split=config.split,
        fit_range=config.fit_range,
        timed=False,
    )


def prepare(config: SequencesConfig) -> None:
    """Nothing to convert."""
    load(config)


def status(config: SequencesConfig) -> str:
    """One line for `recsysml data list`. Raises what `check` raises."""
    check(config)
    path = _files(config)["path"]
    return f"ready: {path.name}, {path.stat().st_size / 1e6:.1f} MB"


def of_lines(lines: polars.Series, path: Path) -> tuple[polars.Series, np.ndarray, polars.Series]:
    """The first words (U,), and of every other word (N,) its line and itself. DataError: a short line, a user twice."""
    users = lines.list.first()
    bad = (lines.list.len() < 2) | (users == "").fill_null(True)
    if bad.any():
        raise DataError(f"{path} row {int(bad.arg_max() or 0) + 1} has no items")
    if lines.is_empty():
        raise DataError(f"{path} holds no events")
    if (twice := ~users.is_first_distinct()).any():
        where = int(twice.arg_max() or 0)
        raise DataError(f"{path} row {where + 1}: user {users[where]} has had a line before")
    items = lines.list.slice(1)
    return users, np.repeat(np.arange(len(lines)), items.list.len().to_numpy()), items.explode()


def places(lengths: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each of the runs of these lengths (U,), one run after the other."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) - np.repeat(starts, lengths)


def _files(config: SequencesConfig) -> dict[str, Path]:
    """The files of the config, by field. Raises DataError for a missing one."""
    fields = ("path", "names_path", "tags_path", "titles_path")
    return {field: tables.find_file(config.name, getattr(config, field)) for field in fields if getattr(config, field)}


def _tables(path: Path | None) -> dict[str, dict[str, str]]:
    found = tables.read_json(path) if path else {}
    if path and not (isinstance(found, dict) and {"id2user", "id2item"} <= found.keys()):
        raise DataError(f"{path} has no tables id2user and id2item (data.names_path)")
    return found


def _named(words: polars.Series, names: dict[str, Any]) -> tuple[list[str], list[str], np.ndarray]:
    """Distinct words, what they are called elsewhere, both in the order of the names, and each word's index (N,)."""
    codes, distinct = encode(words)
    called = [str(names.get(word, word)) for word in distinct]
    if len(set(called)) < len(called):
        raise DataError("data.names_path calls two ids by one name")
    order = np.array(sorted(range(len(called)), key=called.__getitem__))
    index = np.empty(len(order), np.int64)
    index[order] = np.arange(len(order))
    return [distinct[i] for i in order], [called[i] for i in order], index[codes]


def _titles(path: Path) -> dict[str, str]:
    words = tables.read_lines(path)
    return dict(zip(words.list.first(), words.list.slice(1).list.join(" "), strict=True))
