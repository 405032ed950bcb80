"""Weights from elsewhere: Hugging Face folders, run directories, checkpoints, old `.pt` files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from recsysml.errors import ConfigError
from recsysml.files import sha256
from recsysml.models import hf_layouts
from recsysml.schemas.models import DIMENSIONS


@dataclass
class LoadReport:
    """What became of each tensor. `str()` is one line when all fitted, else one line a kind of fault."""

    source: str
    loaded: int = 0
    missing: list[str] = field(default_factory=list)  # the model has it, the source does not
    unexpected: list[str] = field(default_factory=list)  # the source has it, the model does not
    mismatched: list[str] = field(default_factory=list)  # both have it, in different shapes
    cut: list[str] = field(default_factory=list)  # only the first rows were taken

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.loaded} tensors loaded" + ("" if self.complete else ", but not all fitted")]
        for name in ("missing", "unexpected", "mismatched", "cut"):
            entries = getattr(self, name)
            if entries:
                more = f" and {len(entries) - 6} more" if len(entries) > 6 else ""
                lines.append(f"  {name} ({len(entries)}): {', '.join(entries[:6])}{more}")
        return "\n".join(lines)


def load_initial_weights(model: nn.Module, path: str | Path) -> LoadReport:
    """Copy into a GPT what `path` holds: a Hugging Face folder, a run directory, a checkpoint folder, a weights file.

    Tensors that are missing keep their fresh values and surplus ones are left out; the report names both. Raises
    ConfigError, with the report, when a shape is different or nothing fits at all.
    """
    tensors = read_tensors(path)
    report = copy_tensors(model, tensors, str(path))
    if report.mismatched or not any(name.startswith("blocks.") and name in tensors for name in model.state_dict()):
        stored = stored_dimensions(path) or {}
        wanted = " ".join(f"model.{name}={number}" for name, number in stored.items())
        raise ConfigError(
            f"model.init_from does not fit this model{f'; it was made with {wanted}' if wanted else ''}\n{report}"
        )
    return report


def copy_tensors(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> LoadReport:
    """Copy the tensors whose name fits; the rest is in the report. A single wrong shape and nothing is copied.

    A longer table of positions gives its first rows. Embedding and head rows of a padded vocabulary are copied as far
    as the true vocabulary goes; a source with another true vocabulary is a mismatch.
    """
    report = LoadReport(source)
    own = model.state_dict()
    vocab_size, padded = int(model.vocab_size), int(model.padded_vocab_size)  # type: ignore[arg-type]
    report.unexpected = [name for name in tensors if name not in own]
    pairs = []
    for name, target in own.items():
        if name not in tensors:
            report.missing.append(name)
            continue
        value = tensors[name]
        rows = len(value) if value.ndim else 0
        if name in ("token_embedding.weight", "head.weight"):
            target = target[:vocab_size]
            # as padded here, or by less than 64 rows to a multiple of 64 as is common: anything else is other tokens
            if rows == padded or (rows % 64 == 0 and 0 < rows - vocab_size < 64):
                report.cut += [f"{name} from {rows} to {vocab_size} rows"] if rows > vocab_size else []
                value = value[:vocab_size]
        elif name == "position_embedding.weight" and rows > len(target):
            report.cut.append(f"{name} from {rows} to {len(target)} positions")
            value = value[: len(target)]
        if value.shape != target.shape:
            report.mismatched.append(f"{name} is {tuple(value.shape)}, the model's {tuple(target.shape)}")
        pairs.append((target, value))
    if not report.mismatched:
        with torch.no_grad():
            for target, value in pairs:
                target.copy_(value)
        report.loaded = len(pairs)
    return report


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors at `path` under this project's names, on the CPU. Raises ConfigError for what cannot be read."""
    place = _place(Path(path))
    if place.is_file():
        return hf_layouts.to_own_names(_strip(_read_file(place)))
    metadata = place / "checkpoint.json"
    if metadata.is_file():
        file = place / "model.safetensors"
        if not file.is_file() or sha256(file) != _read_metadata(metadata)["files"].get(file.name):
            raise ConfigError(
                f"model.init_from: {file} is missing or does not match its checksum: choose another checkpoint"
            )
        return safetensors.torch.load_file(file)
    return hf_layouts.to_own_names(_strip(_read_shards(place)))


def stored_dimensions(path: str | Path) -> dict[str, int] | None:
    """n_layers, n_heads, d_model and context_length of what `path` holds; None if it does not say."""
    place = _place(Path(path))
    if place.is_file():
        content = {} if place.suffix == ".safetensors" else _load_pickle(place)
        arguments = content.get("model_args", {})
        names = dict(zip(DIMENSIONS, ("n_layer", "n_head", "n_embd", "block_size"), strict=True))
        return {k: int(arguments[v]) for k, v in names.items()} if set(names.values()) <= set(arguments) else None
    if (place / "checkpoint.json").is_file():
        model = _read_metadata(place / "checkpoint.json")["model"]
        if not all(isinstance(model["config"].get(name), int) for name in DIMENSIONS):
            raise ConfigError(f"model.init_from={path} holds a model of kind {model.get('kind')}, not a language model")
        return {name: model["config"][name] for name in DIMENSIONS}
    config = hf_layouts.read_config(place)
    dimensions = hf_layouts.config_to_own(config)
    return {name: dimensions[name] for name in DIMENSIONS}


def stored_tokenizer(path: str | Path) -> dict[str, Any] | None:
    """The tokenizer of a checkpoint of ours, as its checkpoint.json holds it; None where `path` does not say."""
    place = _place(Path(path))
    file = place / "checkpoint.json"
    return _read_metadata(file).get("tokenizer") if place.is_dir() and file.is_file() else None


def _read_metadata(file: Path) -> dict[str, Any]:
    try:
        metadata = json.loads(file.read_bytes())
        if all(isinstance(part, dict) for part in (metadata["files"], metadata["model"]["config"])):
            return metadata
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ConfigError(f"model.init_from: {file} is damaged: choose another checkpoint")


def _place(path: Path) -> Path:
    """The file or folder that holds the weights: of a run directory its best checkpoint, else its last."""
    path = path.expanduser()
    for candidate in (path / "checkpoints" / "best", path / "checkpoints" / "last", path / "best", path / "last"):
        if candidate.is_dir():
            return candidate
    if not path.exists():
        raise ConfigError(f"model.init_from={path} does not exist")
    return path


def _read_shards(folder: Path) -> dict[str, Tensor]:
    """model.safetensors, or the shards its index lists, or as a last resort pytorch_model.bin."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        tensors: dict[str, Tensor] = {}
        for name in names:
            # a name with a path in it could point anywhere
            if Path(name).name != name or not (folder / name).is_file():
                raise ConfigError(f"model.init_from: {folder / name}, which {index.name} lists, is missing")
            tensors |= _load_safetensors(folder / name)
        return tensors
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return _read_file(folder / name)
    raise ConfigError(f"model.init_from={folder} holds no model.safetensors (nor its index), and no checkpoint.json")


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    content = _load_pickle(path)
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ConfigError(f"model.init_from={path} is damaged ({error}): get it anew") from error


def _load_pickle(path: Path) -> dict[str, Any]:
    """A torch.save file, tensors and plain values only: anything else in it could run code when it is read."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(
            f"model.init_from={path} holds more than tensors and could run code, or is damaged: "
            f"convert it to safetensors ({str(error).splitlines()[0][:120]})"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"model.init_from={path} holds a {type(content).__name__}, not named tensors")
    return content


def _strip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes that torch.compile and DDP put before names."""
    clean = {}
    for name, value in tensors.items():
        while name.startswith(("_orig_mod.", "module.")):
            name = name.partition(".")[2]
        clean[name] = value
    return clean
