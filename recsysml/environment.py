"""What a run ran on: packages, code, machine; and the hash that says whether two runs are the same run."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsysml import __version__

# The packages whose version can change a number. What only draws, prints or tracks is left out, so that an update of
# matplotlib does not make a sweep start again.
DECIDING_PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "tiktoken",
    "tokenizers",
    "datasets",
    "polars",
    "pyarrow",
    "faiss-cpu",
    "lm_eval",
    "transformers",
)

# Where a run lies, who watches it and how often it speaks do not change what it computes.
_LEFT_OUT = ("outputs", "tracker", "progress", "trainer.log_every", "sweep")


def package_versions() -> dict[str, str]:
    """Version of Python, of recsysml and of every installed package that decides numbers. Imports none of them."""
    versions = {"python": platform.python_version(), "recsysml": __version__}
    for name in DECIDING_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def config_hash(config: Mapping[str, Any], packages: Mapping[str, str], command: str = "train") -> str:
    """sha256 over the resolved config and the package versions: equal hashes mean that the work is the same.

    Left out are exactly `outputs`, `tracker`, `progress`, `trainer.log_every`, `sweep` and, for `train`, `checkpoint`
    (a training run starts from `model.init_from`, never from `checkpoint`). The order of the keys does not matter.
    """
    left_out = (*_LEFT_OUT, "checkpoint") if command == "train" else _LEFT_OUT
    kept = dict(config)
    for dotted in left_out:
        first, _, second = dotted.partition(".")
        if not second:
            kept.pop(first, None)
        elif isinstance(kept.get(first), Mapping):
            kept[first] = {key: value for key, value in kept[first].items() if key != second}
    text = json.dumps(
        {"config": strict(kept), "packages": dict(packages)}, sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def strict(value: Any) -> Any:
    """The value as strict JSON can hold it: as `plain`, and `inf` and `nan` become their names."""
    value = plain(value)
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [strict(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def plain(value: Any) -> Any:
    """The value in dicts, lists, text and numbers alone: tuples become lists, paths text, array scalars numbers."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):  # a subclass (numpy.float64 is a float) is stripped: YAML could not write it
            return value if type(value) is kind else kind(value)
    return plain(value.item()) if hasattr(value, "item") else str(value)


def environment() -> dict[str, Any]:
    """Python, machine, git state and packages, without importing torch. The engine adds device and threads."""
    packages = package_versions()
    return {
        "python": packages["python"],
        "torch": packages.get("torch"),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "git": git_state(Path(__file__).parent),
        "packages": packages,
    }


def git_state(folder: Path) -> dict[str, Any]:
    """`{"commit", "dirty"}` of the code in `folder`; both None where git does not hold it (an installed wheel)."""
    nothing: dict[str, Any] = {"commit": None, "dirty": None}
    # A hook or an outer git sets GIT_DIR and friends, which would answer for another repository.
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, env=clean, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        if not git("ls-files", "--", "."):  # inside a repository, but not part of it: a .venv beside the user's code
            return nothing
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return nothing


def usable_cores() -> int:
    """Cores that this process may use, which inside a container is fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's model name where the system tells it, else its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
