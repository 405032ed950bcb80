"""Splits and scoring units, by brute force and on generated documents."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsysml.data import documents as docs
from recsysml.data.documents import Document
from recsysml.errors import ConfigError, DataError


def many(n, size=50):
    return [Document(f"d{i}", f"{i} " * (size + i % 7)) for i in range(n)]


def test_a_split_takes_whole_documents_and_about_its_share():
    given_documents = many(400)
    splits = docs.split_documents(given_documents, 0.1, 0.05)
    assert list(splits) == ["train", "val", "test"]
    assert sorted(d for split in splits.values() for d in split) == sorted(given_documents)
    total = sum(len(d.text) for d in given_documents)
    for name, share in (("val", 0.1), ("test", 0.05)):
        assert share <= sum(len(d.text) for d in splits[name]) / total < share + 0.01
    # the order of the documents decides nothing but the order within a split
    again = docs.split_documents(given_documents[::-1], 0.1, 0.05)
    assert {name: set(split) for name, split in again.items()} == {name: set(split) for name, split in splits.items()}


def test_equal_texts_never_lie_in_two_splits():
    doubled = [Document(f"{copy}{d.id}", d.text) for copy in "ab" for d in many(30)]
    splits = docs.split_documents(doubled, 0.2, 0.2)
    texts = [{d.text for d in split} for split in splits.values()]
    assert sum(map(len, texts)) == 30


def test_few_large_documents_leave_the_largest_to_training():
    given_documents = [Document("big", "x" * 10_000), *many(2)]
    splits = docs.split_documents(given_documents, 0.05, 0.05)
    assert [d.id for d in splits["train"]] == ["big"]
    assert len(splits["val"]) == len(splits["test"]) == 1
    with pytest.raises(DataError, match="2 different documents cannot be split into train, val, test"):
        docs.split_documents(given_documents[:2], 0.05, 0.05)


@settings(deadline=None)
@given(st.text(min_size=30, max_size=200), st.sampled_from([(0.1, 0.0), (0.1, 0.2), (0.0, 0.3), (0.0, 0.0)]))
def test_one_document_is_cut_by_position_and_nothing_is_lost(text, fractions):
    splits = docs.split_documents([Document("a", text)], *fractions)
    assert "".join(d.text for split in splits.values() for d in split) == text
    assert len(splits) == 1 + sum(fraction > 0 for fraction in fractions)
    assert len(splits["train"][0].text) == int(len(text) * (1 - fractions[0] - fractions[1]))


def test_a_stream_is_split_at_the_asked_rate():
    names = [docs.split_of_hash(docs.digest(str(i)), 0.1, 0.05) for i in range(4000)]
    assert abs(names.count("val") / 4000 - 0.1) < 4 * (0.1 * 0.9 / 4000) ** 0.5
    assert abs(names.count("test") / 4000 - 0.05) < 4 * (0.05 * 0.95 / 4000) ** 0.5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([b"\n", b"\n  ", b"word ", b"x" * 3000, "é".encode() * 900]), max_size=40))
def test_units_are_at_most_8_kib_and_start_at_line_ends(parts):
    data = b"".join(parts)
    cuts = docs.unit_cuts(data)
    assert cuts[0] == 0
    for start, end in zip(cuts, [*cuts[1:], len(data)], strict=True):
        assert end - start <= docs.UNIT_BYTES
        if end < len(data):
            window = data[start : start + docs.UNIT_BYTES]
            ends = [i + 1 for i, byte in enumerate(window) if byte == 10]
            plain = [i for i in ends if data[start + i : start + i + 1].strip()]  # the next line is not indented
            assert end - start == (plain or ends or [docs.UNIT_BYTES])[-1]


def test_fractions_that_leave_nothing_are_refused():
    for val, test in ((0.0, 0.1), (0.5, 0.5), (1.2, 0.0), (0.1, -0.1)):
        with pytest.raises(ConfigError, match=r"data.val_fraction"):
            docs.check_fractions(val, test)
    docs.check_fractions(0.0, 0.0, needs_val=False)


def test_the_fingerprint_sees_text_name_and_split():
    one, two = Document("a", "x"), Document("b", "y")
    values = {
        docs.fingerprint(splits)
        for splits in (
            {"train": [one], "val": [two]},
            {"train": [two], "val": [one]},
            {"train": [one, two]},
            {"train": [Document("c", "x")], "val": [two]},
            {"train": [Document("a", "z")], "val": [two]},
        )
    }
    assert len(values) == 5
