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
SAMPLE = 12
# products held where items are too few for a sample
HELD = 1 << 24
# pairs multiplied again at once
PAIRS = 2048
# what the order of additions may do to a product, as a share of both lengths: more than it does, number by number
SLACK = 1e-5, 1e-7
# where rounding leaves so many times what is looked for in question, a block is multiplied in floats
MANY = 4
# whole numbers of 8 bits end here; no scale is smaller than TINY
LARGEST, TINY = 127, 1e-30
# products of 8-bit vectors that are taken are smaller
HIGHEST = 2_000_000_000


@dataclass(frozen=True)
class Rounded:
    """n blocks of items (b, C), or n queries as the columns of one (C, n): in whole numbers of 8 bits.

    (n,) each: what a one stands for, the length (the greatest of a block's), and that of what rounding took from it.
    """

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
        rounds = 1 < right.shape[1] < HIGHEST // LARGEST**2 and multiplies_bytes()
        rounded = _rounded_items(right) if rounds else None
        found = [_by_blocks(part, right, rounded, kept, deep) for part in left.split(BLOCK_QUERIES)]
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


def _by_blocks(queries: Tensor, items: Tensor, rounded: Rounded | None, k: int, deep: int) -> tuple[Tensor, Tensor]:
    """Every product that may reach a bound guessed from a sample is looked at. Where those that do are fewer than k the
    guess was too high, and these rows are done by another way: the answer is exact whatever the sample says."""
    n_queries = len(queries)
    held = torch.empty(BLOCK_ITEMS, n_queries)
    turned = queries.T.contiguous()  # (C, B): items are rows, so that maxima over them run along the queries
    guess = _guess(items, turned, deep, held)  # (B,)
    parts = items.split(BLOCK_ITEMS)
    if rounded is None:
        found = [_reaching(part, turned, guess, held) for part in parts]
    else:
        asked = _rounded_queries(queries)
        limit = MANY * deep * SAMPLE / len(items) * n_queries
        found = []
        for part, block, bound in zip(parts, rounded.numbers, _bounds(guess, asked, rounded, len(turned)), strict=True):
            reach = _reaching(block, asked.numbers[0], bound, held)
            if len(reach[0]) > limit * len(part):  # an outlier may be there: beside it all else is rounded to nothing
                reach = _reaching(part, turned, guess, held)
            found.append(reach)
    before = torch.arange(len(found)).repeat_interleave(torch.tensor([len(places) for places, _ in found]))
    flat, values = (torch.cat(each) for each in zip(*found, strict=True))
    flat += before * held.numel()
    numbers = flat // n_queries
    rows = flat - numbers * n_queries
    if rounded is not None:
        values = _pairs(queries, items, rows, numbers)
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


def _rounded_items(items: Tensor) -> Rounded:
    """A block has one scale, as all its products with a query are compared with one bound."""
    numbers, told = [], []
    for part in items.split(BLOCK_ITEMS):
        low, high = part.aminmax()
        scale = max(-low.item(), high.item(), TINY) / LARGEST
        exact = part * (1 / scale)
        whole = exact.round()
        told.append(
            (scale, scale * exact.norm(dim=1).amax().item(), scale * exact.sub_(whole).norm(dim=1).amax().item())
        )
        numbers.append(whole.to(torch.int8))
    return Rounded(tuple(numbers), *torch.tensor(told, dtype=torch.float64).unbind(1))


def _rounded_queries(queries: Tensor) -> Rounded:
    scale = queries.abs().amax(dim=1).clamp(min=TINY) / LARGEST
    exact = queries / scale[:, None]
    whole = exact.round()
    length, lost = (scale.double() * each.norm(dim=1) for each in (exact, exact - whole))
    return Rounded((whole.to(torch.int8).T.contiguous(),), scale.double(), length, lost)


def _guess(items: Tensor, asked: Tensor, deep: int, held: Tensor) -> Tensor:
    """(B,): what the sample lets one expect of the k-th best product."""
    sample = items[::SAMPLE].contiguous()
    parts = sample[: len(sample) // CHUNK * CHUNK].split(BLOCK_ITEMS)
    maxima = torch.cat([_maxima(_products(part, asked, held)) for part in parts])
    return maxima.T.contiguous().topk(deep, dim=1).values[:, -1]


def _bounds(guess: Tensor, asked: Rounded, blocks: Rounded, width: int) -> Tensor:
    """(n blocks, B) int32: where a true product is as good as the guess, that of the numbers is no less than this.

    q.x - q'.x' is (q - q').x' + q.(x - x'), and no product is greater than its factors' lengths (Cauchy, Schwarz).
    """
    length, lost = blocks.length[:, None], blocks.lost[:, None]
    off = asked.lost * (length + lost) + asked.length * (lost + max(SLACK[0], SLACK[1] * width) * length)
    return ((guess - off) / (asked.scale * blocks.scale[:, None])).ceil().clamp(-HIGHEST, HIGHEST).int()


def _reaching(items: Tensor, asked: Tensor, bound: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """(b, C), (C, B) -> (M,), (M,): the places in (b, B), flat, where a product reaches its query's bound, and it."""
    n_queries = asked.shape[1]
    block = _held_for(items, held)[: -(-len(items) // CHUNK) * CHUNK]
    block[len(items) :] = -torch.inf if items.is_floating_point() else -HIGHEST - 1  # the last chunk may be short
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
    multiply = torch.mm if items.is_floating_point() else torch._int_mm
    return multiply(items, asked, out=_held_for(items, held)[: len(items)])


def _held_for(items: Tensor, held: Tensor) -> Tensor:
    """The memory for products: as of float32, or of 8-bit numbers as of int32."""
    return held if items.is_floating_point() else held.view(torch.int32)


def _pairs(queries: Tensor, items: Tensor, rows: Tensor, numbers: Tensor) -> Tensor:
    """rows, numbers (M,) -> (M,): the product of each query with its item, in memory that is asked for once."""
    values = torch.empty(len(rows))
    left, right = torch.empty(2, PAIRS, queries.shape[1])
    for start in range(0, len(rows), PAIRS):
        some = slice(start, start + PAIRS)
        n = len(rows[some])
        torch.index_select(queries, 0, rows[some], out=left[:n])
        torch.index_select(items, 0, numbers[some], out=right[:n])
        torch.sum(left[:n].mul_(right[:n]), dim=1, out=values[some])
    return values


def _maxima(block: Tensor) -> Tensor:
    """(n, B) -> (n / CHUNK, B)."""
    return block.unflatten(0, (-1, CHUNK)).amax(dim=1)
