"""The answers of an index to several vectors of one user, merged into one list."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]  # queries (Q, C), k -> items and products (Q, k)


def merged_top_k(
    search: Search, queries: np.ndarray, items: np.ndarray, pool: Callable[[Tensor], Tensor], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k items of greatest pooled score for each row, best first, and the scores: (R, k) int64 and float32.

    queries (R, H, C), items (I, C); pool takes products (R, H, M) to scores (R, M) and rises with each of them. The
    lists of the H vectors are searched deeper until no item outside of them can have a place: it would have at most
    the pooled score of the lists' last products (the threshold algorithm, Fagin et al. 2003). With exact search the
    answer is exact. Places that no item is left for hold -1 and -inf.
    """
    rows, n_vectors, width = queries.shape
    found, scores = np.full((rows, k), -1, np.int64), np.full((rows, k), -np.inf, np.float32)
    waiting, depth = np.arange(rows), min(2 * k, len(items))
    while len(waiting):
        asked = queries[waiting]  # (r, H, C)
        ids, products = search(asked.reshape(-1, width), depth)
        candidates = np.sort(ids.reshape(len(waiting), -1), axis=1)  # (r, M): equals stand by their number
        own = torch.from_numpy(np.einsum("rhc,rmc->rhm", asked, items[candidates]))
        values = pool(own).numpy().astype(np.float32)  # (r, M)
        repeated = np.zeros_like(candidates, dtype=bool)
        repeated[:, 1:] = candidates[:, 1:] == candidates[:, :-1]
        values[repeated | (candidates < 0)] = -np.inf
        order = np.argsort(-values, axis=1, kind="stable")[:, :k]
        best, best_values = np.take_along_axis(candidates, order, axis=1), np.take_along_axis(values, order, axis=1)
        last = torch.from_numpy(products.reshape(len(waiting), n_vectors, depth)[:, :, -1:].copy())
        bound = pool(last).numpy()[:, 0]  # (r,)
        over = (best_values[:, -1] > bound) | (depth >= len(items))
        done = waiting[over]
        found[done, : order.shape[1]] = np.where(np.isneginf(best_values), -1, best)[over]
        scores[done, : order.shape[1]] = best_values[over]
        waiting, depth = waiting[~over], min(2 * depth, len(items))
    return found, scores
