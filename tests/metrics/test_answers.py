"""Words in common, by hand."""

from __future__ import annotations

import pytest

from recsysml.metrics import answers


def test_words_of_an_answer():
    assert answers.words("The cat's 3 hats, an OAK.") == ["cat", "s", "3", "hats", "oak"]
    assert answers.exact_match("The cat.", "cat") == 1
    assert answers.exact_match("cat sat", "sat cat") == 0


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [("x y", "x z", 0.5), ("x x", "x", 2 / 3), ("", "", 1.0), ("", "x", 0.0), ("y", "x", 0.0), ("x y z", "x y", 0.8)],
)
def test_f1(answer, reference, expected):
    assert answers.f1(answer, reference) == pytest.approx(expected)


def test_support():
    assert answers.support("red blue red", "The red house") == pytest.approx(2 / 3)
    assert answers.support("", "anything") == 0
