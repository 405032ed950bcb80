"""Questions from files of any shape."""

from __future__ import annotations

import gzip
import json

import pytest

from recsysml.data.question_texts import find, read_questions
from recsysml.errors import DataError
from recsysml.files import data_dir


def write(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_every_string_of_a_question_but_its_labels(tmp_path):
    arc = {
        "id": "Q7",
        "question": {"stem": "What falls?", "choices": [{"text": "rain", "label": "A"}]},
        "answerKey": "A",
    }
    assert read_questions(write(tmp_path / "arc.jsonl", [arc])) == [("Q7", "What falls?\nrain")]
    piqa = [{"goal": "open it", "sol1": "push", "sol2": "pull"}, {"goal": "shut it", "sol1": "a", "sol2": "b"}]
    assert read_questions(write(tmp_path / "p.jsonl.gz", piqa)) == [
        ("0", "open it\npush\npull"),
        ("1", "shut it\na\nb"),
    ]
    twice = [{"id": "x", "query": "a"}, {"id": "x", "query": "b"}]  # ids that repeat name nothing
    assert [name for name, _ in read_questions(write(tmp_path / "t.jsonl", twice))] == ["0", "1"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": "b"}\n{', "line 2 is not JSON"),
        (b"[1]\n", "line 1 is no JSON object"),
        (b"\n", "holds no questions"),
        (b'{"a": "b"}\n{"label": "x"}\n', "question 2 has no text"),
        (b"\xff\n", "cannot be read"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, content, words):
    path = tmp_path / "q.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_questions(path)
    assert str(path) in str(caught.value)


def test_files_lie_in_the_working_directory_or_the_data_folder(tmp_path, monkeypatch):
    write(tmp_path / "q.jsonl", [{"q": "a"}])
    monkeypatch.setenv("RECSYSML_DATA", str(tmp_path))
    assert find("t", "q.jsonl") == tmp_path / "q.jsonl"
    monkeypatch.delenv("RECSYSML_DATA")
    with pytest.raises(DataError, match=r"t: there is no file q\.jsonl .*RECSYSML_DATA is not set"):
        find("t", "q.jsonl")


@pytest.mark.skipif(not data_dir(), reason="RECSYSML_DATA is not set: the real questions were not read")
def test_the_real_files():
    for name, count, start in (
        ("arc_easy/arc_easy_test.query_choices_gold.jsonl", 2376, None),
        ("piqa/valid.jsonl", 1838, "How do I ready a guinea pig cage"),
        ("hellaswag/hellaswag_val.derived.jsonl.gz", 10_042, "A man is sitting on a roof."),
    ):
        path = data_dir() / name
        if not path.is_file():
            pytest.skip(f"{path} is missing")
        questions = read_questions(path)
        assert len(questions) == count
        assert start is None or questions[0][1].startswith(start)
