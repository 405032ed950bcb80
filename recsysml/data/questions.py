"""Local questions in the shape the harness has them: ARC-Easy, PIQA and HellaSwag, whatever shape they come in.

Found below `$RECSYSML_DATA/<task>`; each split is converted once into JSON lines in the cache folder.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsysml.errors import DataError
from recsysml.files import cache_dir, data_dir, sha256, write_atomic, write_json

# a split, and the words that name it in a file's name
_SPLITS = {"train": ("train",), "validation": ("valid", "dev", "val"), "test": ("test",)}
_ENDINGS = (".jsonl", ".jsonl.gz")
# part of the cache's name: another conversion is another folder
_VERSION = 1

# JSON can spell characters in two halves, and then one of them alone
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")

Row = dict[str, Any]


@dataclass(frozen=True)
class Questions:
    """A task's questions in the cache folder."""

    files: dict[str, Path]  # split -> JSON lines
    sources: dict[str, str]  # original file's name -> sha256
    notes: list[str]  # in what they differ from the official ones


def find(task: str) -> Questions | None:
    """The questions of `task`, converted; None where no file of them is found. Raises DataError for a bad row."""
    root = data_dir()
    if task not in CONVERTERS or root is None or not (root / task).is_dir():
        return None
    originals = [
        path for path in sorted((root / task).rglob("*")) if path.name.endswith(_ENDINGS) and _split(path) is not None
    ]
    if not originals:
        return None
    extra = sorted((root / task).rglob("*label*"))
    sums = {path.relative_to(root / task).as_posix(): sha256(path) for path in [*originals, *extra] if path.is_file()}
    digest = hashlib.sha256(json.dumps([_VERSION, sums]).encode()).hexdigest()[:12]
    folder = cache_dir() / "questions" / f"{task}-{digest}"
    about = folder / "source.json"
    if not about.is_file():
        _convert(task, originals, folder)
    content = json.loads(about.read_text(encoding="utf-8"))
    files = {split: folder / f"{split}.jsonl" for split in content["splits"]}
    return Questions(files, sums, content["notes"])


def _convert(task: str, originals: list[Path], folder: Path) -> None:
    rows: dict[str, list[Row]] = {}
    notes: list[str] = []
    for path in originals:
        split = _split(path)
        assert split is not None
        if split in rows:
            raise DataError(f"{path}: {path.parent} has two files of {task}'s {split} questions; keep one")
        rows[split] = list(CONVERTERS[task](path, notes))
        if not rows[split]:
            raise DataError(f"{path} holds no questions")
    for split, converted in rows.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in converted)
        write_atomic(folder / f"{split}.jsonl", lines)
    # written last: where it lies, the splits are whole
    write_json(folder / "source.json", {"splits": sorted(rows), "notes": list(dict.fromkeys(notes))})


def _split(path: Path) -> str | None:
    words = set(re.split(r"[^a-z]+", path.name.lower()))
    return next((split for split, names in _SPLITS.items() if words & {*names, split}), None)


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """(line number, object) of a file of JSON lines, gzipped or not. Raises DataError naming the line."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{path} line {place} is not UTF-8 text") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} line {number} is not JSON: {error.msg}") from error
        except RecursionError as error:
            raise DataError(f"{path} line {number} is nested too deeply") from error
        if not isinstance(row, dict):
            raise DataError(f"{path} line {number} holds no JSON object")
        if _HALF_CHARACTER.search(line) and not _is_text(row):
            raise DataError(f"{path} line {number} holds half a character (a lone surrogate)")
        yield number, row


def _is_text(row: Row) -> bool:
    """Whether all of it can be written as UTF-8."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _arc(path: Path, notes: list[str]) -> Iterator[Row]:
    """ARC's own form, that of the hub, or {"query", "choices", "gold"} whose query may hold the prompt already."""
    for number, row in read_rows(path):
        with _bad_row(path, number, "ARC"):
            question = row.get("question")
            if isinstance(question, dict):
                choices = {key: [choice[key] for choice in question["choices"]] for key in ("text", "label")}
                converted = {
                    "id": row["id"],
                    "question": question["stem"],
                    "choices": choices,
                    "answerKey": row["answerKey"],
                }
            elif isinstance(question, str):
                converted = {
                    "id": row["id"],
                    "question": question,
                    "choices": row["choices"],
                    "answerKey": row["answerKey"],
                }
            else:
                stem = row["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
                labels = [chr(ord("A") + i) for i in range(len(row["choices"]))]
                choices = {"text": row["choices"], "label": labels}
                name, answer = f"{path.name}:{number}", dict(enumerate(labels))[row["gold"]]  # no index from the end
                converted = {"id": name, "question": stem, "choices": choices, "answerKey": answer}
            converted["choices"]["label"].index(converted["answerKey"])
            _texts(converted["question"], *converted["choices"]["text"])
            yield converted


def _piqa(path: Path, notes: list[str]) -> Iterator[Row]:
    """Rows with `label`, or without and one label a line in a file beside: valid.jsonl, valid-labels.lst."""
    rows = list(read_rows(path))
    labels: list[str] | None = None
    if rows and "label" not in rows[0][1]:
        stem = path.name.removesuffix(".gz").removesuffix(".jsonl")
        beside = [file for file in sorted(path.parent.glob(f"{stem}*label*")) if file.is_file()]
        if not beside:
            raise DataError(f"{path}: its rows have no label and there is no {stem}-labels.lst beside it")
        labels = beside[0].read_text(encoding="utf-8").split()
        if len(labels) != len(rows):
            raise DataError(f"{beside[0]} has {len(labels)} labels and {path.name} {len(rows)} questions")
    for place, (number, row) in enumerate(rows):
        with _bad_row(path, number, "PIQA"):
            label = int(row["label"] if labels is None else labels[place])
            if label not in (0, 1):
                raise ValueError(f"label {label}")
            _texts(*(row[key] for key in ("goal", "sol1", "sol2")))
            yield {key: row[key] for key in ("goal", "sol1", "sol2")} | {"label": label}


def _hellaswag(path: Path, notes: list[str]) -> Iterator[Row]:
    """Rows of the official form; `query` and `choices` are added as the harness makes them (its process_docs)."""
    for number, row in read_rows(path):
        with _bad_row(path, number, "HellaSwag"):
            if "source_id" not in row:
                notes.append(
                    "ctx_a and ctx_b were split by a rule, not taken from the official file: scores can differ slightly"
                )
            context = f"{row['ctx_a']} {row['ctx_b'].capitalize()}"
            if not 0 <= int(row["label"]) < len(row["endings"]):
                raise ValueError(f"label {row['label']}")
            yield {
                **{key: row[key] for key in ("ind", "activity_label", "ctx_a", "ctx_b", "ctx", "endings")},
                "label": str(row["label"]),
                "query": clean_hellaswag(f"{row['activity_label']}: {context}"),
                "choices": [clean_hellaswag(ending) for ending in row["endings"]],
            }


def clean_hellaswag(text: str) -> str:
    """What the harness does to every HellaSwag text: WikiHow's brackets go, double spaces once."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub("\\[.*?\\]", "", text).replace("  ", " ")


def _texts(*values: Any) -> None:
    """Raise ValueError for what is no text, or an empty one, which cannot be scored by its length."""
    for value in values:
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{value!r:.40} is no text")


@contextmanager
def _bad_row(path: Path, number: int, what: str) -> Iterator[None]:
    """Turns what a wrong row raises into a DataError that names its place."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(f"{path} line {number} is no {what} question: {type(error).__name__} {error}") from error


CONVERTERS: dict[str, Callable[[Path, list[str]], Iterator[Row]]] = {
    "arc_easy": _arc,
    "piqa": _piqa,
    "hellaswag": _hellaswag,
}
