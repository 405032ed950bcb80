"""Answers a model gave to a task's requests, kept by what was asked and who was asked."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recsysml.files import cache_dir, write_atomic

# part of every name: another way of scoring is another answer
_VERSION = 1


def request_hash(requests: Sequence[Any]) -> str:
    """sha256 of everything a task asks, in order: equal questions, prompts and few-shot examples, equal hash."""
    digest = hashlib.sha256()
    for request in requests:
        digest.update(json.dumps(request, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def path_of(model: str, task: str, how: str) -> Path:
    """model and task: their hashes. how: precision and whatever else changes the numbers."""
    name = hashlib.sha256(json.dumps([_VERSION, model, task, how]).encode()).hexdigest()
    return cache_dir() / "scores" / f"{name[:32]}.json"


def read(path: Path, size: int) -> list[Any] | None:
    """The answers kept there, or None where there are none, or they are damaged or not `size` many."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, list) and len(content) == size else None


def write(path: Path, answers: Sequence[Any]) -> None:
    with contextlib.suppress(OSError):  # a cache folder that cannot be written costs time, not the answer
        write_atomic(path, json.dumps(list(answers)))
