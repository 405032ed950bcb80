"""Retrieval and judging with a model that answers from what it is shown, or does not."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from recsysml.errors import ConfigError, DataError
from recsysml.evals import rag

CITIES = ["Lima", "Oslo", "Rome", "Cairo", "Quito", "Delhi", "Paris", "Tokyo", "Sofia", "Accra"]
FACTS = [f"The harbour number {i} named after city {city} holds {i * 7} boats." for i, city in enumerate(CITIES)]
ROWS = [{"question": f"How many boats near {city}?", "answer": f"{i * 7} boats"} for i, city in enumerate(CITIES)]


class Reader:
    """Says the last two words of the first line it is shown. A question costs 1 nat a byte, less behind an answer."""

    def generate(self, asked, what=""):
        assert all(settings["until"] == rag.STOPS for _, settings in asked)
        return [" " + " ".join(prompt.split("\n")[0].rstrip(".").split()[-2:]) for prompt, _ in asked]

    def log_likelihoods(self, pairs, questions=None, what="scoring"):
        return [(-len(q.encode()) * (0.5 if "boats" in context else 1.0), False) for context, q in pairs]


def settings(**more):
    return SimpleNamespace(**{"top_k": 1, "chunk_words": 20, "max_new_tokens": 8, **more})


def test_bm25_finds_the_chunk_that_has_the_word():
    pieces = rag.chunks(FACTS, 20)
    assert pieces == FACTS
    found = rag.retrieve(pieces, [row["question"] for row in ROWS], 3)
    assert [row[0] for row in found] == list(range(10))
    assert all(len(set(row)) == 3 for row in found)


def test_chunks_do_not_cross_texts():
    assert rag.chunks(["a b c", "d"], 2) == ["a b", "c", "d"]


def test_an_answer_from_the_right_chunk_beats_random_chunks():
    found = rag.judge(Reader(), FACTS, ROWS, settings(), seed=1)
    for name in ("context_recall", "faithfulness", "exact_match", "f1"):
        assert np.mean(found[name][0]) == 1, name
    assert found["context_recall"][1] < 0.8  # "boats" is everywhere, the number is not
    assert found["f1"][1] < 0.8
    ratio = [(len(row["question"].encode()) + 1) / len(row["question"].encode()) for row in ROWS]
    assert found["answer_relevance"][0] == pytest.approx([0.5 * r for r in ratio])
    assert found["answers"][3] == "21 boats"


def test_an_answer_out_of_the_air_is_not_faithful():
    class Liar(Reader):
        def generate(self, asked, what=""):
            return ["nobody knows"] * len(asked)

    found = rag.judge(Liar(), FACTS, ROWS, settings(), seed=1)
    assert np.mean(found["faithfulness"][0]) == 0
    assert np.mean(found["context_recall"][0]) == 1
    assert np.mean(found["f1"][0]) == 0
    assert math.isclose(np.mean(found["answer_relevance"][0]), 0.0)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("words in a file")
    (tmp_path / "q.jsonl").write_text(json.dumps(ROWS[0]) + "\n" + json.dumps({"question": "x"}) + "\n")
    assert rag.read_documents(["text"]) == ["words in a file"]
    with pytest.raises(ConfigError, match=r"eval\.documents"):
        rag.read_documents([])
    with pytest.raises(DataError, match="gone is neither"):
        rag.read_documents(["gone"])
    with pytest.raises(ConfigError, match=r"eval\.questions"):
        rag.read_questions(None)
    with pytest.raises(DataError, match="line 2 has no question and answer"):
        rag.read_questions("q.jsonl")
