"""Exact nearest items by inner product, by blocks: the products of all users and all items are never held."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recsysml.models.top_k import CHUNK, best_columns, in_order

# products of so many queries and items at once lie in a processor's cache
BLOCK_QUERIES, BLOCK_ITEMS = 512, 2048
# one item in so many tells how good the k-th best may be
SAMPLE = 16
# products held where items are too few for a sample
HELD = 1 << 24


def exact_top_k(queries: np.ndarray, items: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k items of largest product with each query, best first, and the products: (R, k) int64 and float32.

    queries (R, C), items (I, C), finite. Equal products stand in the order of their items. Places that no item is left
    for hold -1 and -inf.
    """
    left = torch.from_numpy(np.ascontiguousarray(queries, np.float32))
    right = torch.from_numpy(np.ascontiguousarray(items, np.float32))
    kept = min(k, len(right))
    expected = kept / SAMPLE
    # three standard deviations deeper than the sample's share of the k best: few rows have to be searched again
    deep = int(expected + 3 * math.sqrt(expected)) + 1
    sampled = len(right) // SAMPLE // CHUNK >= 2 * deep
    found = [
        _by_blocks(part, right, kept, deep) if sampled else _at_once(part, right, kept)
        for part in left.split(BLOCK_QUERIES)
    ] or [(torch.zeros(0, kept, dtype=torch.long), torch.zeros(0, kept))]
    missing = (0, k - kept)
    chosen, values = (torch.cat(each) for each in zip(*found, strict=True))
    return F.pad(chosen, missing, value=-1).numpy(), F.pad(values, missing, value=-torch.inf).numpy()


def _at_once(queries: Tensor, items: Tensor, k: int) -> tuple[Tensor, Tensor]:
    found = [best_columns(part @ items.T, k) for part in queries.split(max(1, HELD // max(1, len(items))))]
    chosen, values = zip(*found, strict=True)
    return torch.cat(chosen), torch.cat(values)


def _by_blocks(queries: Tensor, items: Tensor, k: int, deep: int) -> tuple[Tensor, Tensor]:
    """Every product that reaches a bound guessed from a sample is kept and put in order. Where that are fewer than k
    the guess was too high, and those rows are done by another way: the answer is exact whatever the sample says."""
    turned = queries.T.contiguous()  # (C, B): items are rows, so that maxima over them run along the queries
    n_queries = len(queries)
    held = torch.empty(BLOCK_ITEMS, n_queries)
    sample = items[::SAMPLE].contiguous()
    maxima = [
        _maxima(torch.mm(part, turned, out=held[: len(part)]))
        for part in sample[: len(sample) // CHUNK * CHUNK].split(BLOCK_ITEMS)
    ]
    bound = torch.cat(maxima).T.contiguous().topk(deep, dim=1).values[:, -1].contiguous()  # (B,)
    places = torch.arange(CHUNK) * n_queries
    found = []
    for start in range(0, len(items), BLOCK_ITEMS):
        part = items[start : start + BLOCK_ITEMS]
        block = held[: -(-len(part) // CHUNK) * CHUNK]
        block[len(part) :] = -torch.inf  # the last chunk may be short
        torch.mm(part, turned, out=block[: len(part)])  # (b, B)
        reach = (_maxima(block) >= bound).flatten().nonzero()[:, 0]
        chunk = reach // n_queries
        row = reach - chunk * n_queries
        flat = (chunk * (CHUNK * n_queries) + row)[:, None] + places  # (M, CHUNK), where in the block
        values = block.flatten().take(flat)
        kept = (values >= bound[row][:, None]).flatten().nonzero()[:, 0]
        found.append((flat.flatten()[kept] + start * n_queries, values.flatten()[kept]))
    flat, values = (torch.cat(each) for each in zip(*found, strict=True))
    numbers = flat // n_queries
    rows = flat - numbers * n_queries
    enough = torch.bincount(rows, minlength=n_queries) >= k  # (B,)
    chosen, best = torch.empty(n_queries, k, dtype=torch.long), torch.empty(n_queries, k)
    if not enough.all():
        chosen[~enough], best[~enough] = _at_once(queries[~enough], items, k)
        row_of = enough.cumsum(0) - 1
        kept = enough[rows]
        rows, numbers, values = row_of[rows[kept]], numbers[kept], values[kept]
    # items of one chunk come in the order of the chunk, chunks of one query in theirs
    chosen[enough], best[enough] = in_order(rows, numbers, values, int(enough.sum()), k)
    return chosen, best


def _maxima(block: Tensor) -> Tensor:
    """(n, B) -> (n / CHUNK, B)."""
    return block.unflatten(0, (-1, CHUNK)).amax(dim=1)
