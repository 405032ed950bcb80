"""Loss and bits per byte of a language model over a whole split, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsysml import lazy
from recsysml.data import KINDS as DATA
from recsysml.data.documents import Document
from recsysml.data.prepare import encode_block
from recsysml.data.token_data import TokenData, TokenSplit
from recsysml.data.tokenizers import Tokenizer, tokenizer_from_json
from recsysml.engine import checkpoint, device
from recsysml.engine.device import Machine
from recsysml.engine.distributed import World
from recsysml.engine.opening import open_model
from recsysml.errors import ConfigError
from recsysml.metrics import language as metrics

# how much of a split the compressors of the baseline read: they are slow, and their rate settles long before
_COMPRESSED_BYTES = 4_000_000

TokenLosses = Callable[[Tensor, Tensor], Tensor]  # tokens (B, T), targets (B, T) -> nats (B, T), 0 at target -100


@dataclass(frozen=True)
class Score:
    """What a model paid for every scoring unit of a split."""

    nats: np.ndarray  # (U,)
    tokens: np.ndarray  # (U,) predicted tokens: all but the split's first
    unit_bytes: np.ndarray  # (U,)
    unit_ids: list[str]

    @property
    def loss(self) -> tuple[float, float | None]:
        """Nats per token and its standard error over units."""
        return metrics.ratio(self.nats, self.tokens)

    @property
    def bits_per_byte(self) -> tuple[float, float | None]:
        return metrics.ratio(self.nats / np.log(2), self.unit_bytes)

    def values(self, split: str) -> dict[str, float]:
        return {f"{split}/loss": self.loss[0], f"{split}/bits_per_byte": self.bits_per_byte[0]}


def windows(tokens: np.ndarray, context_length: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor, int]]:
    """(inputs (B, T), targets (B, T), offset of the first target) over `tokens`, in order.

    Windows do not overlap: every token after the first is a target exactly once. The last window is short: its inputs
    are padded with 0 and its targets with -100, so that every batch but the last has one shape.
    """
    targets = len(tokens) - 1
    per_batch = context_length * batch_size
    for start in range(0, targets, per_batch):
        piece = np.asarray(tokens[start : start + per_batch + 1], dtype=np.int64)
        rows = -(-(len(piece) - 1) // context_length)
        inputs = np.zeros(rows * context_length, dtype=np.int64)
        goals = np.full(rows * context_length, -100, dtype=np.int64)
        inputs[: len(piece) - 1], goals[: len(piece) - 1] = piece[:-1], piece[1:]
        shape = (rows, context_length)
        yield torch.from_numpy(inputs).view(shape), torch.from_numpy(goals).view(shape), start + 1


@torch.no_grad()
def evaluate(
    token_losses: TokenLosses,
    split: TokenSplit,
    *,
    context_length: int,
    batch_size: int,
    machine: Machine,
    world: World | None = None,
) -> Score:
    """Score every token of `split` but its first, in order. The windows are shared out over the processes of `world`.

    `token_losses` is usually `model.token_losses`; the caller has put the model in eval mode.
    """
    world = world or World()
    nats = np.zeros(len(split.tokens), dtype=np.float64)
    for number, (inputs, targets, start) in enumerate(windows(split.tokens, context_length, batch_size)):
        if number % world.size != world.rank:
            continue
        with machine.autocast():
            losses = token_losses(inputs.to(machine.device), targets.to(machine.device))
        piece = losses.float().flatten().cpu().numpy()[: len(nats) - start]  # the rest is padding
        nats[start : start + len(piece)] = piece
    by_unit = torch.from_numpy(metrics.sum_by_unit(nats, split.unit_starts))
    if world.size > 1:
        by_unit = world.sum(by_unit.to(machine.device)).cpu()
    return Score(by_unit.numpy(), predicted_tokens(split), np.asarray(split.unit_bytes), list(split.unit_ids))


def predicted_tokens(split: TokenSplit) -> np.ndarray:
    """(U,) how many tokens of each unit are predicted: all, less one in the first."""
    counts = np.diff(np.append(split.unit_starts, len(split.tokens)))
    counts[0] -= 1
    return counts


def record(run: Any, name: str, score: Score, data: TokenData) -> None:
    """Put a split's metrics, baselines and per-unit scores into the run's record.

    `name/loss` in nats per token, against token frequencies; `name/bits_per_byte` against the same in bits per byte
    and general compressors. A unit's example value is its nats over the MEAN tokens (bytes) of a unit, so that the
    mean of the values is the metric itself, and a paired test of them a test of the metric.
    """
    split = data.splits[name]
    simple = metrics.unigram_nll(data.splits["train"].tokens, split.tokens, data.tokenizer.vocab_size)
    simple[0] = 0.0  # the first token is not predicted
    loss, loss_error = score.loss
    bits, bits_error = score.bits_per_byte
    n = len(score.nats)
    run.metric(
        f"{name}/loss", loss, stderr=loss_error, n=n, better="lower", baseline=float(simple.sum() / score.tokens.sum())
    )
    run.metric(
        f"{name}/bits_per_byte",
        bits,
        stderr=bits_error,
        n=n,
        better="lower",
        baseline=metrics.bits_per_byte(float(simple.sum()), int(score.unit_bytes.sum())),
        baselines=metrics.compressed_bits_per_byte(text_of(split, data)),
    )
    run.add_examples(f"{name}/loss", score.unit_ids, score.nats / score.tokens.mean())
    run.add_examples(f"{name}/bits_per_byte", score.unit_ids, score.nats / np.log(2) / score.unit_bytes.mean())


def text_of(split: TokenSplit, data: TokenData) -> bytes:
    """The beginning of the split's text, at most about 4 MB, without end-of-text tokens."""
    lengths = np.cumsum(data.tokenizer.token_lengths[np.asarray(split.tokens[: _COMPRESSED_BYTES * 8])])
    ids = np.asarray(split.tokens[: int(np.searchsorted(lengths, _COMPRESSED_BYTES, side="right"))])
    return data.tokenizer.decode(ids[ids != data.tokenizer.eot].tolist()).encode()


def protocol(context_length: int) -> dict[str, Any]:
    """How a split was scored, for results.json: runs that differ here do not compare."""
    return {"windows": "in order, not overlapping", "context_length": context_length, "units": "documents"}


def with_tokenizer(split: TokenSplit, source: Tokenizer, target: Tokenizer) -> TokenSplit:
    """The same text and the same scoring units, encoded by `target` instead of `source`."""
    ends = [*np.flatnonzero(np.asarray(split.tokens) == source.eot), len(split.tokens)]
    names = dict.fromkeys(unit.rpartition("#")[0] for unit in split.unit_ids)  # documents, in order
    documents = [
        Document(name, source.decode(split.tokens[start + 1 : end].tolist()))
        for name, start, end in zip(names, ends[:-1], ends[1:], strict=True)
    ]
    block = encode_block(target, documents)
    return TokenSplit(block.tokens, split.n_bytes, block.unit_starts, block.unit_bytes, block.unit_ids)


def evaluate_checkpoint(config: Any, checkpoint_dir: Path, run: Any) -> None:
    """`recsysml eval` without tasks: score `config.eval.split` of `config.data` with a checkpoint's weights.

    The text is encoded by the checkpoint's own tokenizer. Raises ConfigError for a split that is not there.
    """
    tensors, metadata = checkpoint.load_weights(checkpoint_dir)
    data: TokenData = lazy.resolve(f"{DATA[config.data.kind]}:load")(config.data)
    tokenizer = tokenizer_from_json(metadata["tokenizer"])
    if tokenizer.fingerprint != data.tokenizer.fingerprint:
        splits = {name: with_tokenizer(split, data.tokenizer, tokenizer) for name, split in data.splits.items()}
        data = TokenData(data.name, data.fingerprint, tokenizer, splits)
    if config.eval.split not in data.splits:
        raise ConfigError(f"eval.split={config.eval.split}: {data.name} has {', '.join(data.splits)}")
    machine = device.prepare(device.resolve_device(config.device), "fp32", threads=config.threads, deterministic=True)
    model = open_model(metadata["model"], tensors, checkpoint_dir).to(machine.device)
    counts = model.counted_parameters()
    run.set_data(data.name, data.fingerprint, data.sizes, tokenizer=tokenizer.fingerprint)
    described = metadata["model"]
    run.set_model(described.get("name", described["kind"]), described["kind"], counts["total"], 0)
    run.set_protocol(**protocol(model.context_length))
    run.set_environment(machine.describe())
    score = evaluate(
        model.token_losses,
        data.splits[config.eval.split],
        context_length=model.context_length,
        batch_size=config.eval.batch_size,
        machine=machine,
    )
    record(run, config.eval.split, score, data)
