"""A trained retriever at work: recommendations for one history, and its vectors, index and names as files."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any, cast

import numpy as np

from recsysml.data.interaction_data import Interactions
from recsysml.errors import ConfigError
from recsysml.files import write_atomic, write_json
from recsysml.models.encoder import EncoderRetriever
from recsysml.models.histories import Histories
from recsysml.models.retriever import recommend
from recsysml.models.stages import StagedRetriever
from recsysml.retrieval import index as indexes
from recsysml.retrieval.merging import merged_top_k
from recsysml.retrieval.opening import Opened
from recsysml.schemas.checks import nearest

logger = logging.getLogger("recsysml")


def everything(data: Interactions, users: np.ndarray) -> Histories:
    """All that is known of `users` (R,) today: their events of every split."""
    parts = data.splits.values()
    return Histories.of_events(
        np.concatenate([part.users for part in parts]),
        np.concatenate([part.items for part in parts]),
        np.concatenate([part.times for part in parts]),
        users,
    )


def history_of_user(opened: Opened, data: Interactions, user: str) -> Histories:
    """One row: what the data knows of a user. Raises ConfigError for a user it does not have."""
    opened.check_ids(data)
    if user not in data.user_ids:
        near = nearest(user, data.user_ids)
        hint = f"Did you mean: {near}? " if near else ""
        raise ConfigError(f"--user {user}: {data.name} has no such user. {hint}For a new one give --history item,item.")
    return everything(data, np.array([data.user_ids.index(user)]))


def history_of_items(opened: Opened, names: list[str]) -> Histories:
    """One row: a user the model has never met, who turned to these items, oldest first; to none is a history too.

    Items the model does not know are left out with a warning. Raises ConfigError where it knows none of them.
    """
    known = {name: number for number, name in enumerate(opened.item_ids)}
    unknown = [name for name in dict.fromkeys(names) if name not in known]
    if unknown:
        near = nearest(unknown[0], opened.item_ids)
        hint = f" Did you mean: {near}?" if near else ""
        if not any(name in known for name in names):
            raise ConfigError(f"--history: there is no item {unknown[0]}.{hint}")
        logger.warning("--history: there is no item %s; left out.%s", ", ".join(unknown), hint)
    items = np.array([known[name] for name in names if name in known], np.int64)
    return Histories(np.array([-1]), np.array([0, len(items)]), items, np.arange(len(items), dtype=float))


def recommendations(
    opened: Opened,
    history: Histories,
    k: int,
    *,
    mask_seen: bool,
    folder: Path | None = None,
    keep: bool = True,
    data: Interactions | None = None,
) -> list[tuple[str, float]]:
    """The k best items for one row, with their scores, best first.

    folder: where the item vectors' index lies; a retriever without vectors, or no folder, is asked for all its scores.
    data: whose users an index that has to be built anew is set on; keep: whether it is written there.
    """
    retriever = opened.retriever
    if folder is None or not isinstance(retriever, EncoderRetriever):
        items, scores = (found[0] for found in recommend(retriever, history, k, mask_seen=mask_seen))
    else:
        query, vectors = retriever.user_vectors(history), retriever.item_vectors()  # (1, C) or (1, H, C), (I, C)
        seen = np.unique(history.items) if mask_seen else np.array([], np.int64)
        index = indexes.load(folder, vectors, lambda: usual_queries(retriever, opened, data), keep=keep)
        if isinstance(retriever, StagedRetriever):
            depth = min(retriever.n_candidates + len(seen), len(vectors))
            found = retriever.ranked(query, history, index.search(query, depth)[0])
        elif retriever.pool is None:
            found = index.search(query, k + len(seen))
        else:
            found = merged_top_k(index.search, query, vectors, retriever.pool, k + len(seen))
        fresh = ~np.isin(found[0][0], seen) & (found[0][0] >= 0)
        items, scores = found[0][0][fresh][:k], found[1][0][fresh][:k]
        if len(items) < min(k, len(opened.item_ids) - len(seen)):  # more than the searched part of the index holds
            items, scores = (found[0] for found in recommend(retriever, history, k, mask_seen=mask_seen))
    real = items >= 0
    return [(opened.item_ids[item], float(score)) for item, score in zip(items[real], scores[real], strict=True)]


def usual_queries(retriever: EncoderRetriever, opened: Opened, data: Interactions | None) -> np.ndarray:
    """(Q, C) vectors such as an index is asked for: of users the checkpoint knows, with all that is known of them
    today. The items' own where there are no data, or those of others."""
    items = retriever.item_vectors()
    if data is None or (data.item_ids, data.user_ids) != (opened.item_ids, opened.user_ids):
        return items
    users = np.unique(np.linspace(0, len(data.user_ids) - 1, indexes.MEASURED_QUERIES).astype(np.int64))
    return _in_parts(retriever, everything(data, users)).reshape(-1, items.shape[1])


def export(opened: Opened, folder: Path, histories: Histories | None, kind: str = "auto") -> dict[str, Any]:
    """Write item_vectors.npy, item_ids.json, index.faiss and index.json and, for the rows of `histories`,
    user_vectors.npy and user_ids.json; row i of a table is name i. Returns the index's description.

    The index's recall is measured on the users' vectors, else on the items' own. Raises ConfigError for a retriever
    without vectors, or a folder that holds other files already.
    """
    if not isinstance(opened.retriever, EncoderRetriever):
        raise ConfigError(
            f"{opened.name} has no vectors to export: two_tower, sasrec, multi_head and multi_stage have, unless"
            " they were trained with trainer.loss=hierarchical or cluster"
        )
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / indexes.INDEX).is_file()):
        raise ConfigError(f"{folder} is not an empty folder: choose another")
    items = opened.retriever.item_vectors()
    queries = items if histories is None else _in_parts(opened.retriever, histories)
    made = indexes.build(items, queries.reshape(-1, items.shape[1]), kind)
    tables = {"item": (items, opened.item_ids)}
    if histories is not None:
        tables["user"] = (queries, [opened.user_ids[user] for user in histories.users])
    for name, (vectors, ids) in tables.items():
        buffer = io.BytesIO()
        np.save(buffer, vectors.astype(np.float32), allow_pickle=False)
        write_atomic(folder / f"{name}_vectors.npy", buffer.getvalue())
        write_json(folder / f"{name}_ids.json", ids)
    made.save(folder)
    return made.description


def _in_parts(retriever: EncoderRetriever, histories: Histories, rows: int = 512) -> np.ndarray:
    """(R, C) or (R, H, C) user vectors, so many rows at a time."""
    parts = [retriever.user_vectors(histories.part(at, at + rows)) for at in range(0, len(histories), rows)]
    return cast(np.ndarray, np.concatenate(parts))
