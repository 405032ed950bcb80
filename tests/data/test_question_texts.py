"""Questions from files of any shape."""

from __future__ import annotations

import gzip
import json

import pytest

from recsysml.data.question_texts import files_of_task, find, of_documents, read_questions
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
        (b"[1]\n", "line 1 holds no JSON object"),
        (b"\n", "holds no questions"),
        (b'{"a": "b"}\n{"label": "x"}\n', "line 2: the question has no text"),
        (b'{"a": "b"}\n\xff\n', "line 2 is not UTF-8"),
        (b'{"a": "b\\ud800"}\n', "line 1 holds half a character"),
        (b'{"a": ' + b"[" * 100_000 + b"\n", "line 1 is nested too deeply"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, content, words):
    path = tmp_path / "q.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_questions(path)
    assert str(path) in str(caught.value)


def test_marks_and_line_ends_of_other_systems_are_read(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf"
        + '{"id": 1, "a": "\u00e9t\u00e9 \u2028x"}\r\n\r\n{"id": "1", "a": "\\ud83d\\ude00"}\r\n'.encode()
    )
    assert read_questions(path) == [("0", "\u00e9t\u00e9 \u2028x"), ("1", "\U0001f600")]  # 1 and "1" are one name


def test_several_files_are_one_list(tmp_path):
    paths = [write(tmp_path / f"{i}.jsonl", [{"a": f"x{i}"}, {"a": f"y{i}"}]) for i in range(2)]
    assert read_questions(*paths) == [("0", "x0"), ("1", "y0"), ("2", "x1"), ("3", "y1")]


OWN = "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {test: q.jsonl}}\ntest_split: test\n"


def test_the_files_of_a_task_by_its_name(tmp_path, monkeypatch):
    monkeypatch.delenv("RECSYSML_DATA", raising=False)
    path = write(tmp_path / "q.jsonl", [{"q": "a"}])
    (tmp_path / "mine.yaml").write_text(OWN)
    assert files_of_task("mine", str(tmp_path)) == [path]
    (tmp_path / "mine.yaml").write_text(OWN.replace("q.jsonl", "[q.jsonl, q.jsonl]"))
    assert files_of_task("mine", str(tmp_path)) == [path, path]
    for text in (
        OWN + "process_docs: !function own.f\n",  # made by code
        OWN.replace("json\n", "csv\n"),  # rows of a table
        "task: mine\ndataset_path: some/where\n",  # the hub's
    ):
        (tmp_path / "mine.yaml").write_text(text)
        assert files_of_task("mine", str(tmp_path), trust=True) == []
    assert files_of_task("winogrande") == files_of_task("heldout") == []
    with pytest.raises(DataError, match="set RECSYSML_DATA to the folder that holds piqa"):
        files_of_task("piqa")


def test_what_lm_eval_has_is_read_as_rows_are():
    rows = [{"id": "x", "q": "a", "choices": {"text": ["b", "c"], "label": ["A", "B"]}, "n": 3}, {"q": "d"}]
    assert of_documents(rows) == [("0", "a\nb\nc"), ("1", "d")]


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
