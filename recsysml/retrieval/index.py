"""Nearest items by inner product: exact, or by a faiss index whose recall against exact was measured."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from recsysml.errors import ConfigError
from recsysml.files import sha256, write_atomic, write_json
from recsysml.retrieval.exact import exact_top_k

logger = logging.getLogger("recsysml")

KINDS = ("flat", "ivf", "hnsw", "ivf_pq")
INDEX, DESCRIPTION = "index.faiss", "index.json"
RECALL_AT = 100
WANTED_RECALL = 0.99  # the search is widened until it is reached, or everything is searched
SURE = 1.645  # standard errors by which it is passed, as 95 times in 100 it is then reached over all such queries
MEASURED_QUERIES = 1000


def chosen(kind: str, n_items: int) -> str:
    """auto as a kind: exact up to 20,000 items, where it takes no longer; quantised from a million on, for memory."""
    if kind != "auto":
        return kind
    return "flat" if n_items <= 20_000 else "ivf" if n_items <= 1_000_000 else "ivf_pq"


@dataclass(frozen=True)
class Index:
    """A faiss index of item vectors and what is known of it."""

    faiss: Any
    description: dict[str, Any]  # kind, items, width, vectors (sha256), recall@k against exact, how it is searched

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(R, C) -> items (R, k) int64, best first, -1 where none was found, and products (R, k) float32."""
        values, found = self.faiss.search(_rows(queries), min(k, self.faiss.ntotal))
        missing = ((0, 0), (0, k - found.shape[1]))
        found, values = np.pad(found, missing, constant_values=-1), np.pad(values, missing, constant_values=-np.inf)
        return found, np.where(found < 0, np.float32(-np.inf), values)

    def save(self, folder: Path) -> None:
        """Write index.faiss and then index.json, which holds its checksum: each whole or not at all."""
        write_atomic(folder / INDEX, faiss.serialize_index(self.faiss).tobytes())
        write_json(folder / DESCRIPTION, {**self.description, "sha256": sha256(folder / INDEX)})


def build(items: np.ndarray, queries: np.ndarray, kind: str = "auto") -> Index:
    """An index of items (I, C), searched as widely as it takes to find 99% of what exact search finds for `queries`,
    and wider by what chance may take of that.

    queries (R, C): such as it will be asked, user vectors; up to 1,000 of them are used. Raises ConfigError for an
    unknown kind.
    """
    items, kind = _rows(items), chosen(kind, len(items))
    if kind not in KINDS:
        raise ConfigError(f"index {kind}: it is one of auto, {', '.join(KINDS)}.")
    made = _empty(kind, *items.shape)
    if not made.is_trained:
        made.train(items)
    made.add(items)
    asked = queries[:: max(1, len(queries) // MEASURED_QUERIES)][:MEASURED_QUERIES]
    description: dict[str, Any] = {"kind": kind, "items": len(items), "width": items.shape[1], "vectors": _sum(items)}
    k = min(RECALL_AT, len(items))
    truth = exact_top_k(asked, items, k)[0]

    def recalls(**width: int) -> np.ndarray:
        for name, value in width.items():
            setattr(made.hnsw if kind == "hnsw" else made, name, value)
        return _overlaps(made.search(_rows(asked), k)[1], truth)

    def enough(**width: int) -> bool:
        found = recalls(**width)
        return bool(found.mean() - SURE * found.std() / math.sqrt(max(1, len(found) - 1)) >= WANTED_RECALL)

    width = _narrowest(enough, *_WIDTHS[kind](made)) if kind in _WIDTHS else {}
    description |= width
    reached = float(recalls(**width).mean())
    if reached < WANTED_RECALL:
        logger.warning(
            "the %s index of %s items finds %.1f%% of the %d best, and %.0f%% were wanted: %s",
            *(kind, f"{len(items):,}", 100 * reached, k, 100 * WANTED_RECALL),
            "ivf and hnsw find more, flat all" if kind == "ivf_pq" else "flat finds all",
        )
    return Index(made, {**description, f"recall@{RECALL_AT}": reached, "measured_on": len(asked)})


def load(folder: Path, items: np.ndarray, queries: Callable[[], np.ndarray], *, keep: bool = True) -> Index:
    """The index of a folder; built anew, with a warning, where it is missing, damaged or one of other vectors.

    queries: makes what `build` sets its search on, if it comes to that. keep: whether what was built takes the place of
    what was there, where the folder can be written to.
    """
    reason, kind = "", "auto"
    try:
        description = json.loads((folder / DESCRIPTION).read_bytes())
        kind = description["kind"] if description["kind"] in KINDS else "auto"
        if description["vectors"] != _sum(_rows(items)):
            reason = "it was made of other vectors"
        elif description["sha256"] != sha256(folder / INDEX):
            reason = "its checksum is wrong"
        else:
            content = np.frombuffer((folder / INDEX).read_bytes(), np.uint8)
            found = faiss.deserialize_index(content)
            if (found.ntotal, found.d) == items.shape:
                return Index(found, description)
            reason = f"it holds {found.ntotal:,} vectors of width {found.d}"
    except FileNotFoundError as error:
        reason = f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = f"it cannot be read ({type(error).__name__})"
    logger.warning("the index in %s is not used: %s; building it anew", folder, reason)
    made = build(items, queries(), kind)
    try:
        if keep:
            made.save(folder)
    except OSError as error:  # it serves all the same
        logger.info("the index built anew cannot be kept: %s", error)
    return made


def _empty(kind: str, n_items: int, width: int) -> Any:
    inner = faiss.METRIC_INNER_PRODUCT
    if kind == "flat":
        return faiss.IndexFlatIP(width)
    if kind == "hnsw":
        return faiss.IndexHNSWFlat(width, 32, inner)
    # about 4 sqrt(n) cells, and no fewer than the 39 vectors a cell that faiss wants to train on
    cells = max(1, min(int(4 * math.sqrt(n_items)), n_items // 39))
    quantizer = faiss.IndexFlatIP(width)
    if kind == "ivf":
        made: Any = faiss.IndexIVFFlat(quantizer, width, cells, inner)
    else:
        # codes of about 4 numbers a byte; few vectors cannot fill a code book of 256
        pieces = next(n for n in range(max(1, width // 4), 0, -1) if width % n == 0)
        bits = max(1, min(8, int(math.log2(max(2, n_items // 39)))))
        made = faiss.IndexIVFPQ(quantizer, width, cells, pieces, bits, inner)
    made.own_fields = True
    quantizer.this.disown()  # type: ignore[attr-defined]
    return made


# of each kind what says how widely it searches, and from where to where
_WIDTHS: dict[str, Callable[[Any], tuple[str, int, int]]] = {
    "hnsw": lambda made: ("efSearch", 64, 2048),
    "ivf": lambda made: ("nprobe", 1, made.nlist),
    "ivf_pq": lambda made: ("nprobe", 1, made.nlist),
}


def _narrowest(enough: Callable[..., bool], name: str, least: int, most: int) -> dict[str, int]:
    """The width that finds enough, to within a sixteenth; `most` where none does. Doubled, and then halved between the
    last that does not and the first that does."""
    low, high = least, least
    while not enough(**{name: high}):
        if high == most:
            return {name: most}
        low, high = high, min(2 * high, most)
    while high - low > max(1, high // 16):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(**{name: middle}) else (middle, high)
    return {name: high}


def _overlaps(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The share of each row of `truth` (R, k) that stands in the row of `found` (R, k): (R,)."""
    width = int(max(found.max(), truth.max())) + 1
    rows = np.arange(len(truth))[:, None] * width
    return np.isin(truth + rows, (found + rows)[found >= 0]).mean(axis=1)


def _rows(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _sum(items: np.ndarray) -> str:
    return hashlib.sha256(items.tobytes()).hexdigest()
