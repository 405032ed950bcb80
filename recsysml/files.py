"""Files written whole or not at all, checksums, and where things lie. Standard library only."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import recsysml
from recsysml.errors import DataError


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write to a temporary neighbour, flush to disk, rename. A crash leaves the old file or the new one."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # of a full disk the system does not say where
            error.filename = str(path)
        raise


def write_json(path: Path, value: Any) -> None:
    """Strict JSON (no NaN), indented, written atomically."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def conf_dir() -> Path:
    """Our YAML files: inside the installed package, else `conf/` beside pyproject.toml.

    The package's own folder is asked, not the import system: an editable install leaves a stale copy of `conf/` in
    site-packages, which must not win over the one being edited.
    """
    package = Path(recsysml.__file__).resolve().parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def cache_dir() -> Path:
    """Downloads and conversions: `$XDG_CACHE_HOME/recsysml`, else `~/.cache/recsysml`."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without a home, as in some containers
        base = Path(tempfile.gettempdir()) / f"recsysml-{os.getuid()}"
    return Path(base) / "recsysml"


def make_cache_dir() -> None:
    """Raises DataError where the cache folder does not exist and cannot be made.

    One that is there may be read-only: what a run needs may lie in it already.
    """
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the cache folder {cache_dir()}: {error} (XDG_CACHE_HOME moves it)") from error


def data_dir() -> Path | None:
    """Where real data sets lie, only read: `$RECSYSML_DATA`, or None."""
    value = os.environ.get("RECSYSML_DATA")
    return Path(value).expanduser().resolve() if value else None


def outputs_dir() -> Path:
    """`$RECSYSML_OUTPUTS`, else `outputs/` under the working directory."""
    return Path(os.environ.get("RECSYSML_OUTPUTS") or "outputs")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
