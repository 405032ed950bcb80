"""Questions of several shapes, to the one shape that the harness has them in."""

from __future__ import annotations

import gzip
import json

import pytest

from recsysml.data import questions
from recsysml.errors import DataError


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYSML_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def put(name, rows):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())

    return put


def rows_of(found, split):
    return [json.loads(line) for line in found.files[split].read_text().split("\n") if line]


def test_three_shapes_of_arc_are_one(place):
    stem, texts = "What is hot?", ["fire", "ice", "snow", "rain"]
    choices = [{"text": text, "label": label} for text, label in zip(texts, "ABCD", strict=True)]
    place(
        "arc_easy/ARC-Easy-Dev.jsonl", [{"id": "q", "question": {"stem": stem, "choices": choices}, "answerKey": "A"}]
    )
    hub = {"id": "q", "question": stem, "choices": {"text": texts, "label": ["1", "2", "3", "4"]}, "answerKey": "1"}
    place("arc_easy/train.jsonl", [hub])
    place("arc_easy/x_test.jsonl.gz", [{"query": f"Question: {stem}\nAnswer:", "choices": texts, "gold": 0}])
    found = questions.find("arc_easy")
    assert set(found.files) == {"train", "validation", "test"}
    for split in found.files:
        (row,) = rows_of(found, split)
        assert row["question"] == stem
        assert row["choices"]["text"] == texts
        assert row["choices"]["label"].index(row["answerKey"]) == 0
    assert found.notes == []


def test_piqa_takes_labels_from_a_second_file(place):
    row = {"goal": "sit", "sol1": "on a chair ", "sol2": "on a cat"}
    place("piqa/valid.jsonl", [row, row])
    with pytest.raises(DataError, match=r"no valid-labels.lst"):
        questions.find("piqa")
    place("piqa/valid-labels.lst", "0\n")
    with pytest.raises(DataError, match=r"1 labels and valid\.jsonl 2 questions"):
        questions.find("piqa")
    place("piqa/valid-labels.lst", "0\n1\n")
    found = questions.find("piqa")
    assert [row["label"] for row in rows_of(found, "validation")] == [0, 1]
    assert rows_of(found, "validation")[0]["sol1"] == "on a chair "
    place("piqa/valid-labels.lst", "1\n1\n")  # other labels are other questions
    assert [row["label"] for row in rows_of(questions.find("piqa"), "validation")] == [1, 1]


def test_a_split_of_ctx_that_was_made_is_said(place):
    row = {"ind": 1, "activity_label": "Cooking", "ctx_a": "A pan is hot.", "ctx_b": "a cook", "ctx": "", "label": "1"}
    row["endings"] = ["runs [step] away.", "Sings  a song."]
    place("hellaswag/val.jsonl", [row])
    found = questions.find("hellaswag")
    assert "split by a rule" in found.notes[0]
    (made,) = rows_of(found, "validation")
    assert made["query"] == "Cooking: A pan is hot. A cook"
    assert made["choices"] == ["runs away.", "Sings a song."]
    place("hellaswag/val.jsonl", [row | {"source_id": "x"}])
    assert questions.find("hellaswag").notes == []


@pytest.mark.parametrize("line", ["{", "[]", '{"goal": 1}', '{"goal": "a", "sol1": "b", "sol2": "c", "label": 2}'])
def test_a_bad_row_is_named(place, line):
    good = {"goal": "a", "sol1": "b", "sol2": "c", "label": 0}
    place("piqa/valid.jsonl", json.dumps(good) + "\n" + line + "\n")
    with pytest.raises(DataError, match="line 2"):
        questions.find("piqa")


@pytest.mark.parametrize(
    "change",
    [
        *({"gold": wrong} for wrong in (-1, 2, "0")),
        *({"choices": wrong} for wrong in ([], ["a", 7], ["a", " "])),
        *({"query": wrong} for wrong in ("Question: ", None)),
    ],
)
def test_an_answer_that_is_none_is_named(place, change):
    row = {"query": "Which?", "choices": ["a", "b"], "gold": 1}
    place("arc_easy/test.jsonl", [row, row | change])
    with pytest.raises(DataError, match=r"test.jsonl line 2 is no ARC question"):
        questions.find("arc_easy")


def test_a_file_without_questions_is_named(place):
    for text in ("", "\n \n", "\ufeff\r\n"):
        place("piqa/valid.jsonl", text)
        with pytest.raises(DataError, match=r"valid\.jsonl holds no questions"):
            questions.find("piqa")


def test_odd_rows_are_read_as_they_are(place):
    """A mark at the start, another system's line ends, one answer, thirty answers, ids that repeat."""
    one = {"id": "x", "question": "Why\u2028?", "choices": {"text": ["\u00fc"], "label": ["A"]}, "answerKey": "A"}
    letters = [f"L{i}" for i in range(30)]
    many = {"id": "x", "question": "Which?", "choices": {"text": letters, "label": letters}, "answerKey": "L29"}
    place("arc_easy/test.jsonl", "\ufeff" + "".join(json.dumps(row) + "\r\n" for row in (one, many)))
    place("arc_easy/dev.jsonl", [{"query": "Which?", "choices": letters, "gold": 29}])
    found = questions.find("arc_easy")
    assert rows_of(found, "test") == [one, many]
    (row,) = rows_of(found, "validation")
    assert row["choices"]["label"].index(row["answerKey"]) == 29


def test_nothing_is_found_where_nothing_lies(place, tmp_path, monkeypatch):
    assert questions.find("piqa") is None
    place("piqa/README.md", "nothing")
    assert questions.find("piqa") is None
    monkeypatch.delenv("RECSYSML_DATA")
    assert questions.find("piqa") is None
