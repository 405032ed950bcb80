"""Questions made from text: what is true, what is not, and that nothing gives the answer away."""

from __future__ import annotations

import numpy as np
import pytest

from recsysml.data import heldout
from recsysml.data.documents import Document
from recsysml.data.prepare import encode_block
from recsysml.data.token_data import TokenData, TokenSplit
from recsysml.data.tokenizers import bytes_tokenizer
from recsysml.errors import DataError


def words(seed, n):
    random = np.random.default_rng(seed)
    return " ".join("".join(random.choice(list("abcdefgh"), size=random.integers(1, 9))) for _ in range(n))


@pytest.mark.parametrize("seed", [1, 2])
def test_choices_are_alike_and_one_is_true(seed):
    texts = [words(i, 400) for i in range(5)]
    rows = heldout.make(texts, seed)
    assert len(rows) == heldout.QUESTIONS
    for row in rows:
        number, start = map(int, row["id"].split(":"))
        text = texts[number]
        assert row["choices"][row["label"]] == text[start : start + heldout.CHOICE_LENGTH]
        assert row["context"] == text[start - heldout.CONTEXT_LENGTH : start]
        assert row["context"][-1].isspace()
        assert {len(choice) for choice in row["choices"]} == {heldout.CHOICE_LENGTH}
        assert len(set(row["choices"])) == heldout.CHOICES
        assert not any(choice[0].isspace() for choice in row["choices"])
        asked = text[max(0, start - heldout.CONTEXT_LENGTH) : start + heldout.CHOICE_LENGTH]
        for choice in row["choices"][: row["label"]] + row["choices"][row["label"] + 1 :]:
            assert sum(choice in other for other in texts) == 1  # from one place, and not from this question's
            assert (
                choice[: heldout.CHOICE_LENGTH // 2] not in asked and choice[-heldout.CHOICE_LENGTH // 2 :] not in asked
            )
    counts = np.bincount([row["label"] for row in rows], minlength=heldout.CHOICES)
    assert (abs(counts - 125) < 5 * (500 * 0.25 * 0.75) ** 0.5).all()
    assert heldout.make(texts, seed) == rows
    assert heldout.make(texts, seed + 1) != rows


def data_of(texts):
    tokenizer = bytes_tokenizer()
    block = encode_block(tokenizer, [Document(str(i), text) for i, text in enumerate(texts)])
    n_bytes = sum(len(text.encode()) for text in texts)
    split = TokenSplit(block.tokens, n_bytes, block.unit_starts, block.unit_bytes, block.unit_ids)
    return TokenData("t", "print", tokenizer, {"val": split})


def test_they_are_made_once_from_the_text_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    texts = [words(1, 200) + " \u00e9t\u00e9", words(2, 200)]
    data = data_of(texts)
    assert heldout.documents(data, "val") == texts
    path = heldout.prepare(data)
    assert len(path.read_text().splitlines()) == len(heldout.make(texts, 1))
    path.write_text("kept\n")
    assert heldout.prepare(data).read_text() == "kept\n"
    assert heldout.prepare(data, seed=2) != path


def test_a_text_that_is_too_short(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError, match="too short"):
        heldout.prepare(data_of(["a b c"]))
    with pytest.raises(DataError, match="has no test text"):
        heldout.prepare(data_of(["a b c"]), split="test")
