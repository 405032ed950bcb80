"""What a task of lm_eval asks; a question that it cannot ask is named by its number."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from recsysml.errors import DataError


def build(name: str, task: Any, limit: int | None) -> None:
    """What the task asks. Raises DataError where it has fewer solved examples than `num_fewshot` wants, and for a
    question that does not have what the task's YAML asks it for."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a bar of its own for every task
            task.build_all_requests(limit=limit)
    except Exception as error:
        wanted = task.get_config("num_fewshot") or 0
        there = len(list(task.fewshot_docs()))
        if isinstance(error, ValueError) and wanted >= max(1, there):
            raise DataError(f"num_fewshot={wanted}: {name} has {there} examples, a question itself included") from error
        for number, document in task.doc_iterator(limit=limit):
            _ask_for_all(name, task, number, document)
        raise


def _ask_for_all(name: str, task: Any, number: int, document: Any) -> None:
    try:
        choices = task.doc_to_choice(document) if task.OUTPUT_TYPE == "multiple_choice" else [""]
        answers = (task.doc_to_text(document), task.doc_to_target(document), choices)
        missing = None in answers or None in choices
    except Exception as error:
        said = f"{type(error).__name__} {' '.join(str(error).split())}"
        raise DataError(f"tasks={name}: question {number + 1} cannot be asked: {said:.200}") from error
    if missing:
        raise DataError(f"tasks={name}: question {number + 1} cannot be asked: a text, target or choice is missing")
