"""n-gram overlap against brute force over sets of tuples of words."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from recsysml.data import ngrams
from recsysml.data.documents import Document
from recsysml.data.ngrams import BREAK, Overlap, gram_hashes, word_hashes, words
from recsysml.data.prepare import encode_block
from recsysml.data.token_data import TokenSplit, text_pieces
from recsysml.data.tokenizers import bytes_tokenizer, train_bpe


def brute(texts, documents, n):
    """For each text how many of its n-grams stand in a document, and how many it has."""

    def grams(text):
        found = re.findall(r"[^\W_]+", text.lower())
        return [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]

    there = {gram for document in documents for gram in grams(document)}
    return [sum(gram in there for gram in grams(text)) for text in texts], [len(grams(text)) for text in texts]


def sentences(rng, count, lengths):
    """Few words, so that short n-grams meet often; odd letters, cases and punctuation between."""
    pool = np.array(["to", "BE", "or", "not", "Été", "don't", "42", "naïve_x", "straße", "世界", "q", "Z9"])
    gaps = np.array([" ", ", ", "\n", " -- ", "…", "\t"])
    return [
        "".join(f"{pool[i]}{gaps[j]}" for i, j in zip(*rng.integers(0, [[len(pool)], [6]], (2, n)), strict=True))
        for n in rng.integers(*lengths, count).tolist()
    ]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_counts_equal_brute_force_whatever_the_pieces(seed, monkeypatch):
    monkeypatch.setattr(ngrams, "_PIECE", 64)  # n-grams then reach over many pieces
    rng = np.random.default_rng(seed)
    texts = [*sentences(rng, 40, (0, 25)), "", "to be"]
    documents = sentences(rng, 30, (1, 200))
    overlap = Overlap(texts, (2, 3, 4))
    joined = BREAK.join(documents)
    cuts = [0, *sorted(found.end() for found in re.finditer(" ", joined) if rng.random() < 0.05), len(joined)]
    total = overlap.scan(joined[a:b] for a, b in itertools.pairwise(cuts))
    assert total == sum(len(words(document)) for document in documents) + len(documents) - 1
    for n in (2, 3, 4):
        found, every = overlap.counts(n)
        expected, expected_every = brute(texts, documents, n)
        assert found.tolist() == expected
        assert every.tolist() == expected_every
        for index in range(len(texts)):
            example = overlap.example(n, index)
            assert (example is None) == (expected[index] == 0)
            assert example is None or brute([example], documents, n)[0] == [1]


def test_no_ngram_reaches_over_a_document_or_a_question():
    overlap = Overlap(["one two three four", "five six"], (2, 3))
    overlap.scan([f"one two{BREAK}three four five six seven"])
    assert overlap.counts(3)[0].tolist() == [0, 0]
    assert overlap.counts(2)[0].tolist() == [2, 1]
    overlap = Overlap(["a b", "c d"], (2,))
    overlap.scan(["b c \0 b \0 c"])
    assert overlap.counts(2)[0].tolist() == [0, 0]


def test_hashes_are_of_normalised_words_and_do_not_collide():
    assert word_hashes("Don't  STOP_now!").tolist() == word_hashes("don t stop now").tolist()
    assert word_hashes("E\u0301te\u0301").tolist() == word_hashes("été").tolist()  # composed or not
    assert len(word_hashes("...")) == 0
    numbers = word_hashes(" ".join(str(i) for i in range(100_000)))
    assert len(np.unique(numbers)) == len(numbers) == 100_000
    assert len(np.unique(word_hashes("a aa aaa aaaa ab ba aab aba baa abab"))) == 10
    pairs = gram_hashes(word_hashes("a b a b b a a"), 2)
    assert pairs[0] == pairs[2]
    assert pairs[0] != pairs[1]
    assert gram_hashes(numbers[:3], 4).shape == (0,)


def test_memory_does_not_grow_with_the_text():
    import tracemalloc

    overlap = Overlap(["never found in any of this " * 3], (13, 8))
    piece = "some words of a text that goes on " * 2000
    peaks = []
    for repeats in (5, 50):
        tracemalloc.start()
        overlap.scan(piece for _ in range(repeats))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize("at_once", [1, 7, 1000])
@pytest.mark.parametrize("name", ["bytes", "bpe"])
def test_the_text_of_a_split_comes_back(name, at_once):
    texts = ["to be or not\nto be: été 世界\n", "nospaces", "x " * 300]
    tokenizer = bytes_tokenizer() if name == "bytes" else train_bpe(texts, 300)
    block = encode_block(tokenizer, [Document(f"d{i}", text) for i, text in enumerate(texts)])
    split = TokenSplit(block.tokens, 0, block.unit_starts, block.unit_bytes, block.unit_ids)
    pieces = list(text_pieces(split, tokenizer, BREAK, at_once))
    assert "".join(pieces) == BREAK + BREAK.join(texts)
    assert all(piece[0] in " \n" for piece in pieces[1:] if piece)  # no piece begins within a word
