"""Which texts share n-grams of words with a large text: linear in its length, in memory that does not grow with it.

Text is normalised to words: runs of letters and digits, lower case, everything else a space (so the words of
scripts without spaces are whole sentences: an overlap is then missed unless it is longer than n sentences). Words and
n-grams are compared by 64-bit hashes; a false match among 10^6 n-grams and 10^8 words has a chance of about 10^-5.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np

# stands between documents as a word of its own, so that no n-gram of a question reaches over it
BREAK = " \0 "

_WORD = re.compile(r"[^\W_]+")
# what no code point reaches: the last letters of Unicode lie below (code points above are read as spaces)
_CODES = 0x323B0
# Odd, so that they have inverses modulo 2**64. From the digits of the golden ratio and of pi.
_CHARACTER_BASE, _WORD_BASE = 0x9E3779B97F4A7C15, 0x243F6A8885A308D3
# characters hashed at once: the arrays then fit the processor's cache
_PIECE = 1 << 18


def words(text: str) -> list[str]:
    """The normalised words of a text: what the hashes stand for."""
    return [word.lower() for word in _WORD.findall(unicodedata.normalize("NFC", text))]


class Overlap:
    """n-grams of some texts, looked for in another text.

    A text of fewer than n words has no n-gram: it is neither touched nor clean at that size.
    """

    def __init__(self, texts: Sequence[str], sizes: Sequence[int]) -> None:
        """`texts`: the questions. `sizes`: every n to look for."""
        assert sizes
        self.texts = list(texts)
        self.sizes = tuple(sizes)
        joined = BREAK.join(text.replace("\0", " ") for text in texts)
        hashes = np.concatenate([_NO_WORDS, *(word_hashes(piece) for piece in _pieces(joined))])  # (w,)
        breaks = hashes == _break_hash()
        question = np.cumsum(breaks)  # (w,) which text a word is of
        self._grams = {n: _Grams(hashes, breaks, question, n, len(self.texts)) for n in self.sizes}
        self._tail = _NO_WORDS

    def scan(self, pieces: Iterable[str], advance: Callable[[int], None] = lambda characters: None) -> int:
        """Looks through a text given in pieces, each ending where a word does; returns how many words it has.

        Documents are told apart by `BREAK` between them. May be called again to go on with more text.
        """
        total = 0
        for whole in pieces:
            for piece in _pieces(whole):
                fresh = word_hashes(piece)
                hashes = np.concatenate([self._tail, fresh])
                for n, grams in self._grams.items():
                    grams.mark(gram_hashes(hashes, n))
                self._tail = hashes[len(hashes) - min(len(hashes), max(self.sizes) - 1) :]
                total += len(fresh)
            advance(len(whole))
        return total

    def counts(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """(found, all): how many n-grams of each text were found, of how many. Both (texts,) int64."""
        grams = self._grams[n]
        found = np.bincount(grams.question, grams.found[grams.position], minlength=len(self.texts))
        return found.astype(np.int64), np.bincount(grams.question, minlength=len(self.texts))

    def example(self, n: int, index: int) -> str | None:
        """The first n-gram of text `index` that was found, as words."""
        grams = self._grams[n]
        start, end = np.searchsorted(grams.question, [index, index + 1])
        hits = np.flatnonzero(grams.found[grams.position[start:end]])
        return " ".join(words(self.texts[index])[hits[0] : hits[0] + n]) if len(hits) else None


class _Grams:
    """The n-grams of one size: sorted hashes, a filter before them, and which text each is of, in order."""

    def __init__(self, hashes: np.ndarray, breaks: np.ndarray, question: np.ndarray, n: int, texts: int) -> None:
        grams = gram_hashes(hashes, n)
        first, last = slice(0, len(grams)), slice(n - 1, n - 1 + len(grams))
        whole = (question[first] == question[last]) & ~breaks[first]  # within one text
        self.question = question[first][whole]  # (g,)
        self.sorted, self.position = np.unique(grams[whole], return_inverse=True)  # (u,), (g,)
        self.found = np.zeros(len(self.sorted), bool)
        # A lookup in a table is a tenth of a search: it turns away all but about 1/16 of the other n-grams.
        bits = int(np.clip(np.ceil(np.log2(16 * max(1, len(self.sorted)))), 10, 27))
        self._shift = np.uint64(64 - bits)
        self._filter = np.zeros(1 << bits, bool)
        self._filter[self.sorted >> self._shift] = True

    def mark(self, grams: np.ndarray) -> None:
        likely = grams[self._filter[grams >> self._shift]]
        if len(self.sorted) and len(likely):
            place = np.minimum(np.searchsorted(self.sorted, likely), len(self.sorted) - 1)
            self.found[place[self.sorted[place] == likely]] = True


def word_hashes(text: str) -> np.ndarray:
    """(w,) uint64: a hash of each normalised word of a text of at most 2**18 characters or so, in order.

    A word's hash is a polynomial in its characters' random codes, modulo 2**64, from differences of a running sum.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    codes = np.frombuffer(text.encode("utf-32-le", "replace"), np.uint32)
    values = _character_values()[np.minimum(codes, _CODES)]  # (c,) 0 between words
    inside = np.concatenate([[False], values != 0, [False]])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    return _mixed(_windows(values, edges[::2], edges[1::2], _CHARACTER_BASE))


def gram_hashes(hashes: np.ndarray, n: int) -> np.ndarray:
    """(w,) word hashes -> (w - n + 1,) hashes of the n-grams that start at each word."""
    starts = np.arange(max(0, len(hashes) - n + 1))
    return _mixed(_windows(hashes, starts, starts + n, _WORD_BASE))


def _windows(values: np.ndarray, starts: np.ndarray, ends: np.ndarray, base: int) -> np.ndarray:
    """sum of values[i] * base**(i - start) for i from each start to its end, modulo 2**64."""
    power, inverse = _powers(base, 1 << len(values).bit_length())
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * power[: len(values)], out=sums[1:])
    return (sums[ends] - sums[starts]) * inverse[starts]


@cache
def _powers(base: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """base**i and base**-i modulo 2**64, both (length,)."""
    both = []
    for factor in (base, pow(base, -1, 1 << 64)):
        factors = np.full(length, factor, np.uint64)
        factors[0] = 1
        both.append(np.cumprod(factors, dtype=np.uint64))
    return both[0], both[1]


def _mixed(values: np.ndarray) -> np.ndarray:
    """splitmix64's finisher (Steele et al. 2014): every bit of the result depends on every bit of the value."""
    mixed = values.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


@cache
def _character_values() -> np.ndarray:
    """(codes + 1,) a random number for each letter and digit, the same for both cases; 0 for what parts words."""
    lower = [0] * (_CODES + 1)
    for code in range(_CODES):
        character = chr(code)
        if character.isalnum():
            lower[code] = ord(character.lower()[0])
    table = np.array(lower, np.uint64)
    values = np.where(table != 0, _mixed(table * np.uint64(_CHARACTER_BASE)) | np.uint64(1), np.uint64(0))
    values[0] = _mixed(np.array([1 << 40], np.uint64))[0]  # `BREAK` is a word
    return values


@cache
def _break_hash() -> np.uint64:
    return word_hashes(BREAK)[0]


def _pieces(text: str) -> Iterable[str]:
    """The text cut at spaces into pieces of about `_PIECE` characters."""
    start = 0
    while len(text) - start > _PIECE:
        end = max(text.rfind(space, start, start + _PIECE) for space in " \n")
        end = start + _PIECE if end <= start else end
        yield text[start:end]
        start = end
    yield text[start:]


_NO_WORDS = np.zeros(0, np.uint64)
