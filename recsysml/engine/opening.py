"""A language model opened to be judged: one of our checkpoints, or a folder of `transformers`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from recsysml import lazy
from recsysml.data.tokenizers import Tokenizer, tokenizer_from_json
from recsysml.engine import checkpoint
from recsysml.files import sha256
from recsysml.models import KINDS as MODELS
from recsysml.models.generation import stream
from recsysml.models.scoring import Scorable
from recsysml.schemas import SCHEMAS

_WEIGHTS = ("*.safetensors", "*.bin", "*.json", "*.txt", "*.model")  # of a folder of transformers


class TextCoder(Protocol):
    """A tokenizer as far as tasks need it."""

    eot: int  # ends a text
    prefix: int  # stands before a text that has no context

    def encode(self, text: str, special: bool | None = None) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True)
class Opened:
    """A language model in eval mode, and how it is used."""

    model: Any  # Scorable, and an nn.Module
    tokenizer: TextCoder
    name: str
    kind: str
    parameters: int
    fingerprint: str  # sha256 over weights, config and tokenizer
    shares: bool  # whether it takes the answers of a question in one row
    greedy: Callable[[list[int], int], Iterator[int]]  # (ids, most new tokens) -> the likeliest tokens

    @property
    def scorable(self) -> Scorable:
        return self.model


class _OwnTokenizer:
    """Our tokenizers put nothing before a text of their own accord."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.eot = self.prefix = tokenizer.eot

    def encode(self, text: str, special: bool | None = None) -> list[int]:
        return self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(i for i in ids if i != self.eot)


def open_model(described: dict[str, Any], tensors: dict[str, Tensor], where: Path) -> Any:
    """The model a checkpoint's metadata describes, with its weights, in eval mode on the CPU."""
    schema = lazy.resolve(SCHEMAS["model"][described["kind"]])
    known = {field.name for field in fields(schema)}
    config = schema(**{name: value for name, value in described["config"].items() if name in known})
    model = lazy.resolve(MODELS[described["kind"]])(config, described["vocab_size"])
    checkpoint.put_weights(model, tensors, where)
    return model.eval()


def open_language_model(folder: Path) -> Opened:
    """The model of a checkpoint folder, or of a folder of `transformers`, on the CPU.

    Raises JobError for a damaged checkpoint, ConfigError for a folder that `transformers` cannot read.
    """
    if (folder / checkpoint.METADATA).is_file():
        tensors, metadata = checkpoint.load_weights(folder)
        model = open_model(metadata["model"], tensors, folder)
        name = folder.resolve().parent.parent.name if folder.resolve().parent.name == "checkpoints" else folder.name
        content = {key: metadata[key] for key in ("model", "tokenizer")}
        digest = _digest([metadata["files"][checkpoint.WEIGHTS], content])
        return wrap(model, tokenizer_from_json(metadata["tokenizer"]), name, metadata["model"]["kind"], digest)
    from recsysml.models import hf

    theirs, tokenizer = hf.load(folder)
    files = sorted({path for pattern in _WEIGHTS for path in folder.glob(pattern)})
    digest = _digest([(path.name, sha256(path)) for path in files])
    count = sum(p.numel() for p in theirs.parameters())

    def greedy(ids: list[int], most: int) -> Iterator[int]:
        return theirs.greedy(ids, most, tokenizer.eot)

    return Opened(theirs, tokenizer, folder.name, "hf", count, digest, theirs.shares, greedy)


def wrap(model: nn.Module, tokenizer: Tokenizer, name: str, kind: str, fingerprint: str) -> Opened:
    """A model of ours that is at hand, such as one in training."""

    def greedy(ids: list[int], most: int) -> Iterator[int]:
        return stream(model, ids, most, temperature=0, top_k=0, stop_id=tokenizer.eot)  # type: ignore[arg-type]

    count = model.counted_parameters()["total"]  # type: ignore[operator]
    return Opened(model, _OwnTokenizer(tokenizer), name, kind, count, fingerprint, True, greedy)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
