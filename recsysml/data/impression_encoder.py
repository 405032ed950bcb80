"""Vocabularies, hashing and normalisation: fitted on the rows that are learnt from, kept with the checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import polars

# standardised numbers beyond it are cut off: one wild value must not rule a batch
LARGEST = 10.0


class ImpressionEncoder:
    """Columns of text as ids and columns of numbers with mean 0 and spread 1; never NaN, whatever it is given.

    Id 0 is a value that is missing or was never met. A hashed column has no vocabulary: only what is missing is 0.
    """

    def __init__(self, min_count: int = 1) -> None:
        self.min_count = min_count
        self.scales: dict[str, tuple[float, float]] = {}  # name -> mean, spread
        self.vocabularies: dict[str, list[str]] = {}
        self.buckets: dict[str, int] = {}
        self.n_positions = 0

    def fit_dense(self, name: str, values: np.ndarray) -> None:
        """values (n,) float64; NaN is left out."""
        known = values[np.isfinite(values)]
        mean, spread = (float(known.mean()), float(known.std())) if len(known) else (0.0, 1.0)
        self.scales[name] = (mean, spread if spread > 1e-12 else 1.0)

    def fit_ids(self, name: str, parts: Sequence[polars.Series], buckets: int | None = None) -> None:
        """Texts; values met fewer than `min_count` times share id 0."""
        import polars as pl

        if buckets is not None:
            self.buckets[name] = buckets
            return
        counts = pl.concat([part.cast(pl.String).rename("value") for part in parts]).drop_nulls().value_counts()
        kept = counts.filter(pl.col("count") >= self.min_count)["value"]
        self.vocabularies[name] = kept.sort().to_list()

    def places(self, positions: np.ndarray, learnt: slice) -> int:
        """Places of a slate that training has met; a deeper one counts as the deepest of these. positions (N,)."""
        if not self.n_positions:
            self.n_positions = int(positions[learnt].max(initial=0)) + 1
        return self.n_positions

    def size(self, name: str) -> int:
        """Ids of a column, 0 included."""
        return 1 + (self.buckets[name] if name in self.buckets else len(self.vocabularies[name]))

    def numbers(self, name: str, values: np.ndarray) -> np.ndarray:
        """(n,) -> (n,) float32; what is missing is the mean, which is 0."""
        mean, spread = self.scales[name]
        scaled = np.clip((values - mean) / spread, -LARGEST, LARGEST)
        return np.nan_to_num(scaled, nan=0.0).astype(np.float32)

    def original(self, name: str, values: np.ndarray) -> np.ndarray:
        """Standardised numbers (n,) in the units they came in."""
        mean, spread = self.scales[name]
        return values * spread + mean

    def ids(self, name: str, values: polars.Series) -> np.ndarray:
        """Texts (n,) -> (n,) int64."""
        import polars as pl

        texts = values.cast(pl.String)
        if name not in self.buckets:
            words = self.vocabularies[name]
            if not words:
                return np.zeros(len(texts), np.int64)
            numbers = pl.Series(range(1, len(words) + 1), dtype=pl.Int64)
            found = texts.replace_strict(pl.Series(words, dtype=pl.String), numbers, default=0, return_dtype=pl.Int64)
            return found.fill_null(0).to_numpy()
        distinct = texts.unique().drop_nulls()
        if not len(distinct):
            return np.zeros(len(texts), np.int64)
        codes = [1 + _hash(text) % self.buckets[name] for text in distinct.to_list()]
        found = texts.replace_strict(distinct, pl.Series(codes, dtype=pl.Int64), default=0, return_dtype=pl.Int64)
        return found.fill_null(0).to_numpy()

    def to_json(self) -> dict[str, Any]:
        """Everything that was fitted."""
        return {
            "min_count": self.min_count,
            "scales": {name: list(scale) for name, scale in self.scales.items()},
            "vocabularies": self.vocabularies,
            "buckets": self.buckets,
            "positions": self.n_positions,
        }

    @staticmethod
    def from_json(content: dict[str, Any]) -> ImpressionEncoder:
        encoder = ImpressionEncoder(content["min_count"])
        encoder.scales = {name: (mean, spread) for name, (mean, spread) in content["scales"].items()}
        encoder.vocabularies = content["vocabularies"]
        encoder.buckets = content["buckets"]
        encoder.n_positions = content["positions"]
        return encoder


def _hash(text: str) -> int:
    """The same in every process and on every machine, as Python's own is not."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
