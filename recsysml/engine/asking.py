"""What a task of lm_eval asks; a question that it cannot ask is named by its file and line."""

from __future__ import annotations

import contextlib
import io
import itertools
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsysml.data.questions import read_rows
from recsysml.data.task_files import LOCAL
from recsysml.errors import DataError
from recsysml.runlog import logger


def build(name: str, task: Any, limit: int | None, files: Sequence[Path] = ()) -> None:
    """What the task asks. Raises DataError where it has fewer solved examples than `num_fewshot` wants, and for a
    question that does not have what the task's YAML asks it for. files: those whose rows are the questions."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a bar of its own for every task
            task.build_all_requests(limit=limit)
    except Exception as error:
        wanted = task.get_config("num_fewshot") or 0
        there = len(list(task.fewshot_docs()))
        if isinstance(error, ValueError) and wanted >= max(1, there):
            raise DataError(f"num_fewshot={wanted}: {name} has {there} examples, a question itself included") from error
        for number, document in task.doc_iterator(limit=limit):
            _check(name, task, number, document, files)
        raise


def check_first(error: BaseException, files: Mapping[str, Sequence[Path]]) -> None:
    """Raise DataError if `error` comes of a first question, which lm_eval tries when it has a task all but made.
    files: task -> those whose rows are its questions."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        task: Any = frame.f_locals.get("self")
        if hasattr(task, "features") and hasattr(task, "doc_to_target"):
            name = str(task.config.task)
            _check(name, task, 0, task.eval_docs[0], files.get(name, ()))


def check_answers(name: str, task: Any, limit: int | None, files: Sequence[Path] = ()) -> None:
    """lm_eval counts a question as wrong whose target is none of its choices, whatever the model answers. In files of
    one's own that is a DataError; what the hub has is as it is, and costs a warning."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return
    unfit = 0
    for number, document in task.doc_iterator(limit=limit):
        try:
            _check(name, task, number, document, files)
        except DataError:
            if task.DATASET_PATH in LOCAL:
                raise
            unfit += 1
    if unfit:
        logger.warning("%s: %d of its questions have no answer that can be right; they count as wrong", name, unfit)


def _check(name: str, task: Any, number: int, document: Any, files: Sequence[Path]) -> None:
    try:
        by_choice = task.OUTPUT_TYPE == "multiple_choice"
        choices = task.doc_to_choice(document) if by_choice else [""]
        text, target = task.doc_to_text(document), task.doc_to_target(document)
        fault = _fault(text if task.multiple_input else target, choices) if by_choice else ""
        if None in (text, target):
            fault = "its text or target is missing"
    except Exception as error:
        said = f"{type(error).__name__} {' '.join(str(error).split())}"
        raise DataError(f"tasks={name}: {_place(files, number)} cannot be asked: {said:.200}") from error
    if fault:
        raise DataError(f"tasks={name}: {_place(files, number)} cannot be asked: {fault}")


def _fault(target: Any, choices: Sequence[Any]) -> str:
    """What is wrong with a question of several choices, or nothing. target: one or several, by number or as a text."""
    if any(not isinstance(choice, str) or not choice for choice in choices):
        return "a choice is missing, empty or no text"
    for one in target if isinstance(target, list) else [target]:
        if one not in (range(len(choices)) if isinstance(one, int) else choices):
            return f"its target {one!r:.40} is none of its {len(choices)} choices"
    return ""


def _place(files: Sequence[Path], number: int) -> str:
    """Where question `number` (from 0) stands; the files may have changed since."""
    with contextlib.suppress(DataError):
        places = (f"{path} line {line}" for path in files for line, _ in read_rows(path))
        return next(itertools.islice(places, number, None), f"question {number + 1}")
    return f"question {number + 1}"
