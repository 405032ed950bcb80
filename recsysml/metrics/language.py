"""Scores of language models and of the simple methods they must beat. Numpy only."""

from __future__ import annotations

import lzma
import math
import zlib

import numpy as np
from numpy.typing import ArrayLike


def ratio(numerators: ArrayLike, denominators: ArrayLike) -> tuple[float, float | None]:
    """sum(numerators) / sum(denominators) over scoring units, and its standard error.

    Both (U,), one entry a unit (nats and tokens of a document, say). The error is the ratio estimator's, which takes
    units of unequal size as they are (Cochran 1977, Sampling Techniques, eq. 6.9, without the finite-population
    factor); None for fewer than two units. Raises ValueError where the denominators sum to nothing.
    """
    y, x = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if x.sum() <= 0:
        raise ValueError("nothing to score: the units hold no tokens or no bytes")
    value = y.sum() / x.sum()
    n = len(y)
    if n < 2:
        return float(value), None
    variance = np.square(y - value * x).sum() / (n * (n - 1)) / x.mean() ** 2
    return float(value), float(math.sqrt(variance))


def sum_by_unit(values: np.ndarray, unit_starts: np.ndarray) -> np.ndarray:
    """(N,) values in order and (U,) rising offsets, the first 0 -> (U,) float64 sums of each unit's values.

    A unit may be empty, also the last one, whose offset is then N.
    """
    sums = np.zeros(len(unit_starts))
    filled = np.diff(unit_starts, append=len(values)) > 0  # reduceat gives an empty unit the value at its offset
    sums[filled] = np.add.reduceat(values, unit_starts[filled], dtype=np.float64)
    return sums


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """A total negative log-likelihood in nats as bits per byte of text: comparable across tokenizers."""
    return nats / (math.log(2) * n_bytes)


def unigram_nll(train: np.ndarray, tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """(N,) nats of each of `tokens` under the token frequencies of `train`, one added to each count (Laplace)."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    chunk = 1 << 24  # a memory-mapped corpus passes through memory piece by piece
    for start in range(0, len(train), chunk):
        counts += np.bincount(train[start : start + chunk], minlength=vocab_size)
    log_probability = np.log(counts + 1) - math.log(len(train) + vocab_size)
    return -log_probability[tokens]


def compressed_bits_per_byte(text: bytes) -> dict[str, float]:
    """Bits per byte of general compressors on `text`, each at its strongest setting."""
    if not text:
        raise ValueError("nothing to compress")
    return {
        "gzip": 8 * len(zlib.compress(text, 9)) / len(text),  # gzip's algorithm without its 18 bytes of header
        "lzma": 8 * len(lzma.compress(text, preset=9)) / len(text),
    }
