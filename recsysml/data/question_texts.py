"""Questions of a task from a local file, as texts to be looked for elsewhere."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def read_questions(path: Path) -> list[tuple[str, str]]:
    """(example id, text) of each line of a .jsonl or .jsonl.gz, whatever the task's fields are called.

    The text is every string of the row (the question, its context, all its answers), one a line, but for fields that
    are about the question (ids, labels, splits). The id is the row's `id` if every row has one of its own, else the
    number of the row, from 0. Raises DataError naming the file and the line.
    """
    rows = list(_rows(path))
    if not rows:
        raise DataError(f"{path} holds no questions")
    own = [row["id"] for row in rows if isinstance(row.get("id"), str | int)]
    ids = own if len(set(own)) == len(rows) else list(range(len(rows)))
    texts = ["\n".join(_strings(row)) for row in rows]
    if "" in texts:
        raise DataError(f"{path}: question {texts.index('') + 1} has no text")
    return [(str(name), text) for name, text in zip(ids, texts, strict=True)]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise DataError(f"{path} line {number} is no JSON object")
                yield row
    except json.JSONDecodeError as error:
        raise DataError(f"{path} line {number} is not JSON: {error.msg}") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


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
