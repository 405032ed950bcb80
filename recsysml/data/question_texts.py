"""Questions of a task from a local file, as texts to be looked for elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from recsysml.data import task_files
from recsysml.data.questions import read_rows
from recsysml.errors import DataError
from recsysml.files import data_dir

# what is about a question and no part of it
_ABOUT = ("id", "ind", "label", "gold", "answerkey", "source_id", "split", "split_type", "activity_label")


def find(task: str, name: str) -> Path:
    """The file of a task: in the working directory, else under $RECSYSML_DATA. Raises DataError."""
    shared = data_dir()
    for root in (Path(), *([shared] if shared else [])):
        path = root / Path(name).expanduser()
        if path.is_file():
            return path
    places = f"the working directory {'and ' + str(shared) if shared else '(RECSYSML_DATA is not set)'}"
    raise DataError(f"{task}: there is no file {name} in {places}")


def files_of_task(name: str, task_folder: str | None = None, *, trust: bool = False) -> list[Path]:
    """The local files of JSON lines whose rows are the questions that a task asks, in its order.

    Empty for what only lm_eval can make questions of: tasks of its catalogue, tables, rows that code prepares; and for
    `heldout`. Raises DataError for files that are not there.
    """
    file = task_files.index(task_folder, trust=trust, wanted=[name]).get(name)
    if file is None or (name == "heldout" and file.own):
        return []
    try:
        located = task_files.locate(name, file)
    except task_files.Missing as missing:
        task_files.check_hub_instead(name, file, missing)
        return []
    plain = file.content.get("dataset_path") == "json" and "process_docs" not in file.content
    return located.asked if located is not None and plain else []


def read_questions(*paths: Path) -> list[tuple[str, str]]:
    """(example id, text) of each line of .jsonl or .jsonl.gz files, whatever the task's fields are called.

    The text is every string of the row (the question, its context, all its answers), one a line, but for fields that
    are about the question (ids, labels, splits). The id is the row's `id` if every row has one of its own, else the
    number of the row, from 0. Raises DataError naming the file and the line.
    """
    rows, texts = [], []
    for path in paths:
        for number, row in read_rows(path):
            text = "\n".join(_strings(row))
            if not text:
                raise DataError(f"{path} line {number}: the question has no text")
            rows.append(row)
            texts.append(text)
    if not rows:
        raise DataError(f"{paths[0]} holds no questions")
    own = [str(row["id"]) for row in rows if isinstance(row.get("id"), str | int)]
    ids = own if len(set(own)) == len(rows) else [str(i) for i in range(len(rows))]
    return list(zip(ids, texts, strict=True))


def of_documents(documents: Iterable[Any]) -> list[tuple[str, str]]:
    """(number from 0, text) of each question as lm_eval has it; the text as `read_questions` takes it from a row."""
    return [(str(number), "\n".join(_strings(document))) for number, document in enumerate(documents)]


def _strings(value: Any, name: str = "") -> Iterator[str]:
    if name.lower() in _ABOUT:
        return
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(item, str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
