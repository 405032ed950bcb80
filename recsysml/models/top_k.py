"""The k best of many scores, by way of the few that can be among them: a pass of maxima instead of a selection.

A row's scores are cut into chunks. The k-th greatest of the chunks' maxima cannot exceed the k-th greatest score, so
only what reaches it is put in order: little more than k scores of each row.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 16  # scores that a maximum is taken of


def top_k(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(R, I) -> the k best columns of each row, best first, and their scores, (R, k) each; equals by column.

    Columns of score -inf are no candidates: their places hold -1. No score is NaN.
    """
    table = torch.from_numpy(np.ascontiguousarray(scores, np.float32))
    items, values = best_columns(table, min(k, table.shape[1]))
    items = items.where(values > -torch.inf, -1)
    missing = (0, k - items.shape[1])
    return F.pad(items, missing, value=-1).numpy(), F.pad(values, missing, value=-torch.inf).numpy()


def best_columns(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(R, I) -> the k <= I best columns and scores, (R, k) each, best first, equals by column."""
    n_rows, n_items = scores.shape
    whole = n_items // CHUNK * CHUNK
    if whole < 2 * CHUNK * k:  # too few chunks for their maxima to say much
        bound = scores.topk(k, dim=1).values[:, -1:]
        rows, items = (scores >= bound).nonzero(as_tuple=True)
        return in_order(rows, items, scores[rows, items], n_rows, k)
    maxima = scores[:, :whole].unflatten(1, (-1, CHUNK)).amax(dim=2)  # (R, I // CHUNK)
    bound = maxima.topk(k, dim=1).values[:, -1:]  # (R, 1)
    maxima = torch.cat([maxima, scores[:, whole:].amax(dim=1, keepdim=True)], dim=1) if whole < n_items else maxima
    rows, chunks = (maxima >= bound).nonzero(as_tuple=True)
    columns = chunks[:, None] * CHUNK + torch.arange(CHUNK, device=scores.device)  # (M, CHUNK)
    values = scores[rows[:, None], columns.clamp(max=n_items - 1)]
    kept = ((values >= bound[rows]) & (columns < n_items)).nonzero(as_tuple=True)
    return in_order(rows[kept[0]], columns[kept], values[kept], n_rows, k)


def in_order(rows: Tensor, items: Tensor, values: Tensor, n_rows: int, k: int) -> tuple[Tensor, Tensor]:
    """Triples (N,) fp32, at least k of each row, to the k best items and values of each row: (n_rows, k), best first.

    Equals stay in the order they come in.
    """
    # as whole numbers that rise with the floats (-0.0 is 0.0), so that one sort does for row and value
    bits = (values + 0.0).view(torch.int32).long()
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    order = ((rows << 33) - rising).argsort(stable=True)
    counts = torch.bincount(rows, minlength=n_rows)
    places = (counts.cumsum(0) - counts)[:, None] + torch.arange(k, device=rows.device)  # (R, k)
    chosen = order[places]
    return items[chosen], values[chosen]
