"""Exact nearest items by inner product, by blocks: the products of all users and all items are never held.

Where the processor multiplies whole numbers of 8 bits several times as fast as floats, vectors are rounded to such, and
whatever the rounded products leave in question is multiplied again in float32: the answer is exact all the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recsysml.models.top_k import CHUNK, best_columns, in_order

# products of so many queries and items at once lie in a processor's cache
BLOCK_QUERIES, BLOCK_ITEMS = 512, 2048
# one item in so many tells how good the k-th best may be
SAMPLE = 8
# products held where items are too few for a sample
HELD = 1 << 24
# pairs multiplied again at once
PAIRS = 2048
# what the order of additions may do to a product, as a share of both lengths: far more than it does
SLACK = 1e-5
# whole numbers of 8 bits end here; no scale is smaller than TINY
LARGEST, TINY = 127, 1e-30
# products of 8-bit vectors are smaller, up to 120,000 numbers long
HIGHEST = 2_000_000_000


@dataclass(frozen=True)
class Vectors:
    """Vectors as they are multiplied: n blocks of items (b, C), or n queries, one a column (C, n); in float32 or int8.
    (n,) each: what a one stands for, the length (the greatest of a block's), and that of what rounding took from it."""

    numbers: tuple[Tensor, ...]
    scale: Tensor
    length: Tensor
    lost: Tensor


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
    if len(left) and len(right) // SAMPLE // CHUNK >= 2 * deep:
        # torch 2.13 leaves the product of a single column undone
        blocks = _blocks(right, right.shape[1] > 1 and multiplies_bytes())
        found = [_by_blocks(part, right, blocks, kept, deep) for part in left.split(BLOCK_QUERIES)]
    else:
        found = [_at_once(left, right, kept)]
    missing = (0, k - kept)
    chosen, values = (torch.cat(each) for each in zip(*found, strict=True))
    return F.pad(chosen, missing, value=-1).numpy(), F.pad(values, missing, value=-torch.inf).numpy()


def multiplies_bytes() -> bool:
    """Whether this processor adds up products of whole numbers of 8 bits without loss (AVX-512 VNNI)."""
    return torch.cpu._is_vnni_supported()


def _at_once(queries: Tensor, items: Tensor, k: int) -> tuple[Tensor, Tensor]:
    found = [best_columns(part @ items.T, k) for part in queries.split(max(1, HELD // max(1, len(items))))]
    chosen, values = zip(*found, strict=True)
    return torch.cat(chosen), torch.cat(values)


def _by_blocks(queries: Tensor, items: Tensor, blocks: Vectors, k: int, deep: int) -> tuple[Tensor, Tensor]:
    """Every product that may reach a bound guessed from a sample is looked at. Where those that do are fewer than k the
    guess was too high, and these rows are done by another way: the answer is exact whatever the sample says."""
    n_queries = len(queries)
    rounds = blocks.numbers[0].dtype == torch.int8
    asked = _queries(queries, rounds)
    held = torch.empty(BLOCK_ITEMS, n_queries, dtype=torch.int32 if rounds else torch.float32)
    guess = _guess(asked, blocks, deep, held)  # (B,)
    bounds = _bounds(guess, asked, blocks, rounds)  # (n blocks, B)
    found = [
        (place + start * BLOCK_ITEMS * n_queries, product)
        for start, (block, bound) in enumerate(zip(blocks.numbers, bounds, strict=True))
        for place, product in [_reaching(block, asked.numbers[0], bound, held)]
    ]
    flat, values = (torch.cat(each) for each in zip(*found, strict=True))
    numbers = flat // n_queries
    rows = flat - numbers * n_queries
    if rounds:
        pairs = zip(rows.split(PAIRS), numbers.split(PAIRS), strict=True)
        values = torch.cat(
            [torch.linalg.vecdot(queries.index_select(0, row), items.index_select(0, number)) for row, number in pairs]
        )
    kept = (values >= guess[rows]).nonzero()[:, 0]
    rows, numbers, values = rows[kept], numbers[kept], values[kept]
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


def _blocks(items: Tensor, rounds: bool) -> Vectors:
    """A block has one scale, as all its products with a query are compared with one bound."""
    numbers, told = [], []
    for part in items.split(BLOCK_ITEMS):
        length, scale, lost = part.norm(dim=1).amax().item(), 1.0, 0.0
        if rounds:
            low, high = part.aminmax()
            scale = max(-low.item(), high.item(), TINY) / LARGEST
            whole = (part * (1 / scale)).round_()
            lost = torch.sub(part, whole, alpha=scale).norm(dim=1).amax().item()
            part = whole.to(torch.int8)
        numbers.append(part)
        told.append((scale, length, lost))
    return Vectors(tuple(numbers), *torch.tensor(told, dtype=torch.float64).unbind(1))


def _queries(queries: Tensor, rounds: bool) -> Vectors:
    """Items are rows and queries columns, so that maxima over items run along the queries."""
    length, scale, whole = queries.norm(dim=1), torch.ones(len(queries)), queries
    if rounds:
        scale = queries.abs().amax(dim=1).clamp(min=TINY) / LARGEST
        whole = (queries / scale[:, None]).round_()
    lost = (queries - whole * scale[:, None]).norm(dim=1)
    turned = (whole.to(torch.int8) if rounds else whole).T.contiguous()
    return Vectors((turned,), scale.double(), length.double(), lost.double())


def _guess(asked: Vectors, blocks: Vectors, deep: int, held: Tensor) -> Tensor:
    """(B,) float32: what the sample lets one expect of the k-th best product."""
    maxima = []
    for block, scale in zip(blocks.numbers, blocks.scale.tolist(), strict=True):
        sample = block[::SAMPLE].contiguous()
        whole = len(sample) // CHUNK * CHUNK
        maxima.append(scale * _maxima(_products(sample[:whole], asked.numbers[0], held)))
    return torch.cat(maxima).T.contiguous().topk(deep, dim=1).values[:, -1] * asked.scale.float()


def _bounds(guess: Tensor, asked: Vectors, blocks: Vectors, rounds: bool) -> Tensor:
    """(n blocks, B): where a true product is as good as the guess, that of the numbers is no less than this.

    q.x - q'.x' is (q - q').x' + q.(x - x'), and no product is greater than its factors' lengths (Cauchy, Schwarz).
    """
    length, lost = blocks.length[:, None], blocks.lost[:, None]
    off = asked.lost * (length + lost) + asked.length * (lost + SLACK * length)
    bounds = (guess - off) / (asked.scale * blocks.scale[:, None])
    return bounds.ceil().clamp(-HIGHEST, HIGHEST).int() if rounds else bounds.float()


def _reaching(items: Tensor, asked: Tensor, bound: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """(b, C), (C, B) -> (M,), (M,): the places in (b, B), flat, where a product reaches its query's bound, and it."""
    n_queries = asked.shape[1]
    block = held[: -(-len(items) // CHUNK) * CHUNK]
    block[len(items) :] = -HIGHEST - 1  # the last chunk may be short
    _products(items, asked, held)
    reach = (_maxima(block) >= bound).flatten().nonzero()[:, 0]
    chunk = reach // n_queries
    row = reach - chunk * n_queries
    flat = (chunk * (CHUNK * n_queries) + row)[:, None] + torch.arange(CHUNK) * n_queries  # (M, CHUNK)
    values = block.flatten().index_select(0, flat.flatten())
    kept = (values.view_as(flat) >= bound[row][:, None]).flatten().nonzero()[:, 0]
    return flat.flatten()[kept], values[kept]


def _products(items: Tensor, asked: Tensor, held: Tensor) -> Tensor:
    """(b, C), (C, B) -> (b, B), into the memory held for them; of whole numbers whole ones."""
    multiply = torch._int_mm if items.dtype == torch.int8 else torch.mm
    return multiply(items, asked, out=held[: len(items)])


def _maxima(block: Tensor) -> Tensor:
    """(n, B) -> (n / CHUNK, B)."""
    return block.unflatten(0, (-1, CHUNK)).amax(dim=1)
