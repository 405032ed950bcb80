"""`recsysml doctor`: what works on this machine, and how to mend what does not. Asks nothing of the network."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recsysml.environment import cpu_name, usable_cores
from recsysml.files import cache_dir, data_dir, outputs_dir
from recsysml.tracking import has_key, resolve_mode

if TYPE_CHECKING:
    from rich.console import Console

OK, WARN, FAIL = "ok", "warn", "fail"

# Less free space than this holds a nano run but not the checkpoints of a 124M one (1.5 GB each with their state).
_ROOM_GIB = 5.0


@dataclass(frozen=True)
class Check:
    """One thing looked at. status: ok, warn (something is slower or missing) or fail (a plain run will not work)."""

    name: str
    status: str
    found: str
    mend: str = ""


def main() -> int:
    """The command: prints what was found. Returns 1 if a plain run would fail, else 0."""
    checks = collect()
    render(checks)
    return 1 if any(check.status == FAIL for check in checks) else 0


def collect() -> list[Check]:
    """All checks, in the order in which they are shown. A check that breaks is itself a finding."""
    checks: list[Callable[[], Check]] = [
        _python,
        _torch,
        _device,
        _cores,
        _bf16,
        _compiler,
        lambda: _folder("outputs", outputs_dir(), "set RECSYSML_OUTPUTS to a folder you can write to"),
        lambda: _folder("cache", cache_dir(), "set XDG_CACHE_HOME to a folder you can write to"),
        _disk,
        _data,
        _tiktoken,
        _tracker,
        lambda: _optional(
            "hydra_plugins.hydra_joblib_launcher", "parallel sweeps", "pip install hydra-joblib-launcher"
        ),
        lambda: _optional("transformers", "Hugging Face models", "pip install transformers"),
        lambda: _optional("implicit", "models bpr and als", "pip install 'recsysml[implicit]'"),
    ]
    found = []
    for check in checks:
        try:
            found.append(check())
        except Exception as error:
            name = check.__name__.strip("_<>")
            found.append(Check(name, FAIL, f"{type(error).__name__}: {error}".partition("\n")[0]))
    return found


def render(checks: list[Check], console: Console | None = None) -> None:
    """One line a check; below it, how to mend what is not ok."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    signs = {OK: "[green]ok[/]", WARN: "[yellow]warn[/]", FAIL: "[bold red]FAIL[/]"}
    grid = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        mend = f"\n[dim]-> {escape(check.mend)}[/]" if check.mend else ""
        grid.add_row(signs[check.status], escape(check.name), escape(check.found) + mend)
    (console or Console()).print(grid)


def _python() -> Check:
    return Check("python", OK, f"{platform.python_version()} ({sys.executable})")


def _torch() -> Check:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "ROCm" if torch.version.hip else "CPU"
    found = f"{torch.__version__}, {build} build"
    if build == "CPU" and (shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists()):
        return Check("torch", WARN, found, "there is an NVIDIA GPU: install torch from PyTorch's CUDA package index")
    return Check("torch", OK, found)


def _device() -> Check:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Check("device", OK, f"{', '.join(names)}; {memory:.0f} GiB")
    if torch.version.cuda:
        return Check("device", WARN, "no GPU is seen by this CUDA build; the CPU is used", "check it with nvidia-smi")
    name = "Apple GPU" if torch.backends.mps.is_available() else f"CPU: {cpu_name()}"
    return Check("device", OK, name)


def _cores() -> Check:
    import torch

    cores, threads = usable_cores(), torch.get_num_threads()
    found = f"torch threads: {threads}, usable cores: {cores} ({os.cpu_count()} in the machine)"
    if threads > cores:
        return Check("threads", WARN, found, f"more threads than cores slow each other down: threads={cores}")
    return Check("threads", OK, found)


def _bf16() -> Check:
    from recsysml.engine.device import bf16_is_fast, resolve_device

    device = resolve_device("auto")
    if bf16_is_fast(device):
        return Check("bf16", OK, f"multiplied by the hardware of {device}: trainer.precision=auto takes it")
    # Nothing to mend: the hardware is what it is, and auto already avoids it.
    return Check("bf16", OK, f"not in the hardware of {device}: trainer.precision=auto takes fp32")


def _compiler() -> Check:
    asked = os.environ.get("CXX")
    names = [asked] if asked else ["g++", "clang++"]
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found:
        return Check("compiler", OK, f"{found}: torch.compile works on the CPU")
    mend = "install g++ (Debian: apt install g++); until then runs fall back to trainer.compile=false"
    return Check("compiler", WARN, "no C++ compiler for torch.compile on the CPU", mend)


def _folder(name: str, folder: Path, mend: str) -> Check:
    """Tried by writing, since permissions alone do not tell of read-only mounts. Leaves nothing behind."""
    there = _nearest(folder)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return Check(name, FAIL, f"{folder} cannot be written: {error.strerror}", mend)
    if not folder.exists():
        return Check(name, OK, f"{folder} (will be made)")
    size = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_symlink() and path.is_file())
    return Check(name, OK, f"{folder}, {size / 2**20:.1f} MiB")


def _disk() -> Check:
    free = {folder: shutil.disk_usage(_nearest(folder)).free / 2**30 for folder in (outputs_dir(), cache_dir())}
    folder, least = min(free.items(), key=lambda item: item[1])
    if least < _ROOM_GIB:
        return Check(
            "disk", WARN, f"{least:.1f} GiB free for {folder}", "free some space: a checkpoint of 124M is 1.5 GB"
        )
    return Check("disk", OK, f"{least:.1f} GiB free")


def _data() -> Check:
    folder = data_dir()
    if folder is None:
        return Check("data", OK, "RECSYSML_DATA is not set (only real data sets need it)")
    if not folder.is_dir():
        return Check("data", WARN, f"RECSYSML_DATA={folder} is no folder", "set it to the folder with the data sets")
    return Check("data", OK, f"RECSYSML_DATA={folder}, {sum(1 for _ in folder.iterdir())} entries")


def _tiktoken() -> Check:
    from recsysml.data.tokenizers import gpt2_file

    if file := gpt2_file():
        return Check("gpt2 tokenizer", OK, f"cached in {file.parent}")
    mend = "data.tokenizer=gpt2 fetches it once from the network; bpe (the default) and bytes never need it"
    return Check("gpt2 tokenizer", WARN, "not cached", mend)


def _tracker() -> Check:
    key = "there is a key" if has_key() else "no key"
    mend = "" if has_key() else "`wandb login` or WANDB_API_KEY sends runs; nothing needs it"
    if importlib.util.find_spec("wandb") is None:
        return Check("W&B", WARN, "wandb is not installed; runs are not tracked", "pip install wandb")
    return Check("W&B", OK, f"{key}: tracker.mode=auto is {resolve_mode('auto')}", mend)


def _optional(module: str, purpose: str, mend: str) -> Check:
    try:
        there = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        there = False
    return Check(purpose, OK, "available") if there else Check(purpose, WARN, "not installed (optional)", mend)


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
