"""JSON lines that a crash cannot spoil: appended one at a time, flushed, and read back without a torn end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from recsysml.errors import JobError
from recsysml.files import write_atomic
from recsysml.runlog import logger


class Rows:
    """An append-only file of JSON objects, one a line. The file is made by the first row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def append(self, row: dict[str, Any]) -> None:
        """Writes and flushes one line, strict JSON. On a full disk the part of a line that fitted is taken back."""
        line = (json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n").encode()
        try:
            if self._file is None:
                self._file = self.path.open("ab", buffering=0)
            size = os.fstat(self._file.fileno()).st_size
            try:
                written = self._file.write(line)
                while written < len(line):  # a disk with room for a part takes that part, and refuses the next write
                    written += self._file.write(line[written:])
            except OSError:
                self._file.truncate(size)
                raise
        except OSError as error:
            raise JobError(f"{self.path} cannot be written: {error.strerror or error}") from error

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Keeps the wanted rows byte by byte and drops the others and damaged lines, by an atomic rewrite."""
        if not self.path.exists():
            return
        self.close()
        before = self.path.read_bytes()
        kept = []
        for number, line in enumerate(before.splitlines(keepends=True), start=1):
            row = _parse(line)
            if row is None:
                logger.warning("%s: line %d is damaged and was dropped", self.path, number)
            elif wanted(row):
                kept.append(line)
        after = b"".join(kept)
        if after != before:
            try:
                write_atomic(self.path, after)
            except OSError as error:
                raise JobError(f"{self.path} cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All whole rows of a file, none if it does not exist; torn and damaged lines are left out, and a warning counts
    them."""
    if not path.exists():
        return []
    parsed = [_parse(line) for line in path.read_bytes().splitlines(keepends=True)]
    rows = [row for row in parsed if row is not None]
    if damaged := len(parsed) - len(rows):
        first = parsed.index(None) + 1
        logger.warning("%s: %d of %d lines are damaged and left out, first line %d", path, damaged, len(parsed), first)
    return rows


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
