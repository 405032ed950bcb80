"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from recsysml.files import write_atomic


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_is_said_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "sweep.json"
    write_atomic(path, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_as_open_to_others_as_any_other(tmp_path: Path) -> None:
    """A temporary file is its owner's alone; what it becomes is not."""
    write_atomic(tmp_path / "deep" / "a", b"x")
    (tmp_path / "b").write_text("x")
    modes = [stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "deep" / "a", tmp_path / "b")]
    assert modes[0] == modes[1]
