"""What is known of users or items besides their index: numbers, categories, tags and content vectors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from recsysml.errors import DataError

if TYPE_CHECKING:
    import polars


@dataclass(frozen=True)
class Features:
    """One row an index. A kind that the data lacks has width 0, so that a model never asks whether it is there.

    Numbers are as the data has them: who standardises fits that on the rows it learns from.
    """

    dense: np.ndarray  # (N, F) float32, NaN where the data has no value
    categorical: np.ndarray  # (N, C) int64; 0 is unknown
    tag_offsets: np.ndarray  # (N + 1,) int64, where each row's tags begin
    tags: np.ndarray  # (M,) int64 indices into tag_names
    vectors: np.ndarray  # (N, E) float32 content vectors
    dense_names: list[str] = field(default_factory=list)  # F
    categorical_names: list[str] = field(default_factory=list)  # C
    categories: list[list[str]] = field(default_factory=list)  # C lists; categories[c][v - 1] is what value v > 0 means
    tag_names: list[str] = field(default_factory=list)

    @property
    def n_categories(self) -> list[int]:
        """Values of each categorical column, the unknown one included: the rows its embedding needs."""
        return [len(names) + 1 for names in self.categories]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known at all."""
        return not (self.dense.shape[1] or self.categorical.shape[1] or len(self.tag_names) or self.vectors.shape[1])

    def __len__(self) -> int:
        return len(self.dense)


def no_features(n: int) -> Features:
    """n rows of which nothing is known."""
    return Features(
        np.zeros((n, 0), np.float32),
        np.zeros((n, 0), np.int64),
        np.zeros(n + 1, np.int64),
        np.zeros(0, np.int64),
        np.zeros((n, 0), np.float32),
    )


def of_table(
    rows: polars.DataFrame, dense: list[str], categorical: list[str], tags: list[str], vectors: np.ndarray | None = None
) -> Features:
    """Features from columns of text, or of numbers, one row an index (N); null is unknown.

    A text in `dense` that is no number is NaN. A text in `tags` is cut at spaces, commas, semicolons and bars; a list,
    as Parquet may have it, is taken as it is. Raises DataError for a column that cannot be what is asked of it.
    """
    import polars as pl

    lists = [name for name in tags if isinstance(rows[name].dtype, pl.List)]
    for name in (*dense, *categorical, *(name for name in tags if name not in lists)):
        if rows[name].dtype.is_nested():
            raise DataError(f"column {name!r} holds {rows[name].dtype}, where each row should hold one value")
    for name in dense:
        if rows[name].count() and not rows[name].cast(pl.Float32, strict=False).count():
            found = rows[name].drop_nulls()[0]
            raise DataError(f"column {name!r} was to be numbers and has none, but {found!r}: is it a category?")
    numbers = rows.select(pl.col(dense).cast(pl.Float32, strict=False).fill_null(float("nan"))) if dense else None
    columns, categories = [], []
    for name in categorical:
        codes, names = encode(rows[name].cast(pl.String))
        columns.append(codes + 1)  # a null's code is -1
        categories.append(names)
    words = [
        pl.col(name).cast(pl.List(pl.String)).fill_null([])
        if name in lists
        else pl.col(name).cast(pl.String).fill_null("").str.replace_all(r"[|,;\s]+", " ").str.split(" ")
        for name in tags
    ]
    offsets, found, tag_names = np.zeros(len(rows) + 1, np.int64), np.zeros(0, np.int64), list[str]()
    if words:
        each = rows.select(pl.concat_list(words).alias("tag")).with_row_index().explode("tag")
        each = each.filter(pl.col("tag").str.len_chars() > 0).unique(maintain_order=True)
        found, tag_names = encode(each["tag"])
        np.cumsum(np.bincount(each["index"].to_numpy(), minlength=len(rows)), out=offsets[1:])
    empty = no_features(len(rows))
    return Features(
        numbers.to_numpy() if numbers is not None else empty.dense,
        np.stack(columns, axis=1) if columns else empty.categorical,
        offsets,
        found,
        empty.vectors if vectors is None else vectors,
        list(dense),
        list(categorical),
        categories,
        tag_names,
    )


def encode(texts: polars.Series) -> tuple[np.ndarray, list[str]]:
    """Texts (N) as int64 indices into their sorted distinct values, and those; null is -1."""
    import polars as pl

    names = texts.drop_nulls().unique().sort()
    if not len(names):
        return np.full(len(texts), -1, np.int64), []
    codes = texts.cast(pl.Enum(names)).to_physical().cast(pl.Int64).fill_null(-1)
    return codes.to_numpy(), names.to_list()
