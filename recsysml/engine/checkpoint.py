"""Checkpoints that are whole or not there, say when they are damaged, and hold all a run needs to go on.

checkpoints/step-00000100/model.safetensors   the weights to use (the average's, where one is kept)
                          state.pt            optimisers, random states, counters: plain tensors and numbers
                          checkpoint.json     format, step, model, tokenizer, sha256 of each file
checkpoints/last, checkpoints/best            relative links to one of them
"""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from recsysml.errors import JobError
from recsysml.files import sha256, write_json

logger = logging.getLogger("recsysml")

FORMAT = 1
WEIGHTS, STATE, METADATA = "model.safetensors", "state.pt", "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    step: int
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]  # on the CPU
    state: dict[str, Any]


def save(
    root: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: dict[str, Any],
    metadata: dict[str, Any],
    *,
    keep: int,
    is_best: bool,
) -> Path:
    """Write `root/step-XXXXXXXX`, point `last` (and `best`) at it, and drop all but the newest `keep` and the best.

    Everything is written under a hidden name, flushed to the disk and renamed: a crash or a full disk at any moment
    leaves the checkpoints that were there (of a step that is saved again, for a moment, only a hidden one). Raises
    JobError when the disk does not take it.
    """
    root.mkdir(parents=True, exist_ok=True)
    final = root / f"step-{step:08d}"
    hidden = root / f".writing-{final.name}-{os.getpid()}"
    try:
        hidden.mkdir()
        _write(hidden / WEIGHTS, safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))
        buffer = io.BytesIO()
        torch.save(state, buffer)
        _write(hidden / STATE, buffer.getvalue())
        sums = {name: sha256(hidden / name) for name in (WEIGHTS, STATE)}
        write_json(hidden / METADATA, {"format": FORMAT, "step": step, **metadata, "files": sums})
        _put(hidden, final)
        _link(root / "last", final.name)
        if is_best:
            _link(root / "best", final.name)
        _sync(root)
        _drop_old(root, keep)
    except OSError as error:
        shutil.rmtree(hidden, ignore_errors=True)
        raise JobError(f"could not write checkpoint {final.name}: {error}; {_still_there(root)}") from error
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    return final


def replace_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Put other weights into a checkpoint (or what a link means), all else as it is; whole or not at all."""
    path = path.resolve()
    hidden = path.parent / f".writing-{path.name}-{os.getpid()}"
    metadata = read_metadata(path)
    try:
        shutil.copytree(path, hidden)
        _write(hidden / WEIGHTS, safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))
        sums = {**metadata["files"], WEIGHTS: sha256(hidden / WEIGHTS)}
        write_json(hidden / METADATA, {**metadata, "files": sums})
        _put(hidden, path)
        _sync(path.parent)
    except OSError as error:
        shutil.rmtree(hidden, ignore_errors=True)
        raise JobError(f"could not write checkpoint {path.name}: {error}; {_still_there(path.parent)}") from error


def read_metadata(path: Path) -> dict[str, Any]:
    """checkpoint.json of a checkpoint folder. Raises JobError naming the file if it is missing or damaged."""
    file = path / METADATA
    try:
        metadata = json.loads(file.read_bytes())
        if metadata["format"] != FORMAT:
            raise JobError(f"{file}: format {metadata['format']} is not one this version reads ({FORMAT})")
        assert isinstance(metadata["step"], int)
        assert isinstance(metadata["files"], dict)
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise JobError(f"damaged checkpoint: {file} cannot be read ({type(error).__name__}: {error})") from error
    return metadata


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors on the CPU, metadata) of a checkpoint folder, its weights' checksum verified. Raises JobError."""
    metadata = read_metadata(path)
    _verify(path, WEIGHTS, metadata)
    return safetensors.torch.load_file(path / WEIGHTS), metadata


def load(path: Path) -> Checkpoint:
    """A checkpoint folder with every checksum verified. Raises JobError naming the damaged file."""
    tensors, metadata = load_weights(path)
    _verify(path, STATE, metadata)
    try:
        state = torch.load(path / STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises of an object that is neither is not one kind
        raise JobError(f"damaged checkpoint: {path / STATE} holds more than tensors and numbers") from error
    return Checkpoint(path, metadata["step"], metadata, tensors, state)


def latest_good(root: Path) -> Checkpoint | None:
    """The newest whole checkpoint under `root`; None if there never was one.

    Damaged ones are named in a warning and passed over. Raises JobError if all of them are damaged.
    """
    folders = steps(root)
    for path in reversed(folders):
        try:
            return load(path)
        except JobError as error:
            logger.warning("%s; trying the one before", error)
    if folders:
        raise JobError(f"every checkpoint under {root} is damaged; start the run anew")
    return None


def check_same_data(found: Checkpoint, metadata: Mapping[str, Any]) -> None:
    """Raise JobError where the run that `found` belongs to would go on with other data or tokens than it began with."""
    before, now = ((each.get("data") or {}).get("fingerprint") for each in (found.metadata, metadata))
    tokens = json.loads(json.dumps(metadata.get("tokenizer")))
    for name, same in (("data", before == now), ("tokenizer", found.metadata.get("tokenizer") == tokens)):
        if not same:
            raise JobError(
                f"the {name} is no longer what {found.path} was trained with: put it back, or start a new run from"
                f" these weights, model.init_from={found.path.parent.parent}"
            )


def find_best(root: Path, step: int | None) -> Path | None:
    """The folder of the checkpoint of `step` if its weights are whole, else None after a warning."""
    if step is None:
        return None
    path = root / f"step-{step:08d}"
    try:
        _verify(path, WEIGHTS, read_metadata(path))
    except JobError as error:
        logger.warning("%s; it was the best, and the best is chosen anew from here on", error)
        return None
    return path


def mark_best(path: Path) -> None:
    """Point `best` at a checkpoint beside it."""
    _link(path.parent / "best", path.name)


def steps(root: Path) -> list[Path]:
    """The checkpoint folders under `root`, oldest first."""
    return sorted(path for path in root.glob("step-*") if path.is_dir()) if root.is_dir() else []


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors by name, one that has two names (a tied embedding) once: under its first name."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen or tensor.numel() == 0:
            seen.add(tensor.data_ptr())
            tensors[name] = tensor
    return tensors


def put_weights(model: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Copy what `weights` returned into `model`. Raises JobError naming what does not fit."""
    expected = weights(model)
    wrong = [f"{name} is missing" for name in expected if name not in tensors]
    wrong += [f"{name} is unknown" for name in tensors if name not in expected]
    wrong += [
        f"{name} is {tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise JobError(f"{where} does not fit this model: {'; '.join(wrong[:3])}{more}")
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(tensors[name])


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _put(hidden: Path, final: Path) -> None:
    """Rename into place. A folder of that name (the same step saved again) is moved away first, then deleted."""
    if final.exists():
        old = final.with_name(f".old-{final.name}-{os.getpid()}")
        os.rename(final, old)
        os.rename(hidden, final)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(hidden, final)


def _link(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)


def _drop_old(root: Path, keep: int) -> None:
    folders = steps(root)
    wanted = {path.name for path in folders[-max(keep, 1) :]}
    wanted |= {os.readlink(root / name) for name in ("best", "last") if (root / name).is_symlink()}
    doomed = [path for path in folders if path.name not in wanted]
    doomed += [path for prefix in (".writing-", ".old-") for path in root.glob(f"{prefix}*")]  # left by a crash
    for path in doomed:
        if path.name.startswith("step-"):  # a half-deleted folder must never look like a checkpoint
            path = path.rename(path.with_name(f".old-{path.name}"))
        shutil.rmtree(path, ignore_errors=True)


def _verify(path: Path, name: str, metadata: dict[str, Any]) -> None:
    file = path / name
    if not file.is_file():
        raise JobError(f"damaged checkpoint: {file} is missing")
    if sha256(file) != metadata["files"].get(name):
        raise JobError(f"damaged checkpoint: {file} does not match its checksum")


def _still_there(root: Path) -> str:
    folders = steps(root)
    return f"the last whole one is {folders[-1]}" if folders else "there is no earlier one"


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
