"""Labels that pay an item for what its user does after it: discounted sums over the rest of the session.

    label_i = sum over k >= 1 of discount^k value_(i+k)

The item's own value is not in it: that has a head of its own. The sum runs over what was seen, and a user who leaves
adds nothing more, so that its mean is sum over k of discount^k P(still there at i + k) E[value], without a model of
leaving.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from recsysml.errors import DataError

if TYPE_CHECKING:
    import polars


def retention_labels(
    rows: polars.DataFrame,
    values: Sequence[str],
    *,
    session: str,
    order: Sequence[str],
    discount: float,
    counts: str | None = None,
    entered: str | None = None,
) -> Mapping[str, polars.Series]:
    """value -> (N,) Float64 labels, in the order of `rows`.

    values: columns of numbers, such as seconds, items (a one each), conversions. session, order: the columns that group
    rows and that put them in order. discount in [0, 1]. counts: a boolean column; rows where it is false pay nothing to
    those before them but keep their place (a segment). entered: a boolean column; rows where it is false get null
    (those whose immediate value is too small to have led anywhere).

    Raises DataError for a value that is missing or not finite.
    """
    import polars as pl

    if not 0 <= discount <= 1:
        raise ValueError(f"discount={discount}: it must lie between 0 and 1")
    for value in values:
        wrong = rows.select((~pl.col(value).cast(pl.Float64).is_finite()).fill_null(True).sum()).item()
        if wrong:
            raise DataError(f"{value} is missing or not finite in {wrong} rows: a sum over a session needs all of them")
    kept = pl.col(counts) if counts else pl.lit(True)
    paid = [pl.when(kept).then(pl.col(value).cast(pl.Float64)).otherwise(0.0).alias(value) for value in values]
    frame = rows.with_row_index("_row").with_columns(paid).sort([session, *order], maintain_order=True)
    labels = [_after(pl.col(value), discount).over(session).alias(value) for value in values]
    found = frame.select("_row", *labels).sort("_row")
    if entered:
        shown = pl.when(rows[entered])
        found = found.with_columns(shown.then(pl.col(value)).otherwise(None).alias(value) for value in values)
    return {value: found[value] for value in values}


def _after(value: polars.Expr, discount: float) -> polars.Expr:
    """The discounted sum of what follows, within one session, by one scan from its end.

    A weighted running mean times the sum of its weights: unlike a cumulative sum of value x discount^i it neither
    underflows nor cancels in a long session.
    """
    import polars as pl

    if discount == 0:
        return value * 0.0
    behind = value.reverse().shift(1, fill_value=0.0)  # of each row, from the end: the value just after it
    if discount == 1:
        return behind.cum_sum().reverse()
    mean = behind.ewm_mean(alpha=1 - discount, adjust=True)
    weights = (1 - pl.lit(discount).pow(pl.int_range(1, pl.len() + 1))) / (1 - discount)
    return (discount * mean * weights).reverse()
