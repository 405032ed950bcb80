"""Log-likelihoods of continuations: what multiple-choice questions are answered with.

The answers of one question begin alike. They are scored in one row that holds the tree of their beginnings: what
several begin with once, and every token sees those that lead to it and stands at the position it would have in a row of
its own. The numbers are those of separate rows up to rounding; the work is several times less, and the head is applied
only where a token is predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

# places that wait for the head: a product with few rows spends its time on reading the head's weights
_PLACES_AT_ONCE = 1024
# numbers of the logits formed at once (256 MiB), and of those that are looked at together on a CPU (4 MiB)
_LOGITS_AT_ONCE = 1 << 26
_ROWS_IN_CACHE = 1 << 20
# tokens in a batch where no size is asked for: enough to keep the device busy; on a CPU no more than that, because
# what is computed between two products then stays in its cache (1,024 was a fifth faster than 4,096)
_AUTO_TOKENS = {"cpu": 1024, "mps": 16384, "cuda": 65536}
# a question with more tokens than this is scored answer by answer: a row costs the square of its length in attention
_LONGEST_ROW = 4096


class Scorable(Protocol):
    """A causal model as far as scoring must know it."""

    context_length: int
    vocab_size: int

    def packed(
        self,
        tokens: Tensor,
        real: Tensor,
        wanted: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Rows (B, T), places of their tokens (N,), those of the N that are asked for (U,) -> hidden states (U, C)."""
        ...

    def unembed(self, hidden: Tensor) -> Tensor:
        """(N, C) -> logits (N, V) fp32."""
        ...


class Request(NamedTuple):
    """Token ids that are given, those that are scored, and the question the two belong to."""

    context: Sequence[int]
    continuation: Sequence[int]
    question: Hashable


class LogLikelihood(NamedTuple):
    nats: float  # log p(continuation | context), at most 0
    greedy: bool  # whether each token of the continuation was the likeliest


@dataclass(frozen=True)
class _Row:
    """The tree of what requests begin with, depth first: the tokens below token j are those from j to `ends[j]`."""

    tokens: np.ndarray  # (T,)
    positions: np.ndarray  # (T,) depth
    ends: np.ndarray  # (T,)
    requests: np.ndarray  # (N,) which request each target belongs to
    sources: np.ndarray  # (N,) where in the row each target is predicted
    targets: np.ndarray  # (N,)


@torch.no_grad()
def log_likelihoods(
    model: Scorable,
    requests: Sequence[Request],
    *,
    device: torch.device,
    batch_size: int | None = None,
    share: bool = True,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    done: Callable[[int], None] = lambda requests: None,
) -> list[LogLikelihood]:
    """Score every request; the model is in eval mode and on `device`.

    What is too long loses tokens of its context from the left, as in lm_eval's Hugging Face model: the last
    `context_length` + 1 tokens are kept. A continuation longer than the context is scored in pieces of that length,
    each behind what comes before it (lm_eval gives up there). batch_size: questions at once; None is as many as suit
    the device, fewer where its memory does not suffice. share: whether the model takes rows with a mask (`packed`).
    `done` hears of every batch how many requests were scored.
    Raises ValueError for an empty continuation.
    """
    nats = np.zeros(len(requests))
    greedy = np.ones(len(requests), dtype=bool)
    rows = sorted(_rows(requests, model.context_length, share), key=lambda row: -len(row.tokens))

    waiting: list[_Places] = []

    def run(batch: list[_Row]) -> None:
        try:
            with autocast():
                waiting.append(_run(model, batch, device))
        except torch.OutOfMemoryError:
            if batch_size is not None or len(batch) == 1:
                raise
            half = len(batch) // 2
            run(batch[:half])
            run(batch[half:])

    def read() -> None:
        places = _together(waiting)
        waiting.clear()
        with autocast():
            found, equal = _of_targets(model, places)
        np.add.at(nats, places.owners, found)
        np.logical_and.at(greedy, places.owners, equal)
        done(len(np.unique(places.owners)))

    for batch in _batches(rows, batch_size, _AUTO_TOKENS.get(device.type, 1024)):
        run(batch)
        if sum(len(places.hidden) for places in waiting) >= _PLACES_AT_ONCE:
            read()
    if waiting:
        read()
    return [LogLikelihood(float(value), bool(flag)) for value, flag in zip(nats, greedy, strict=True)]


class _Places(NamedTuple):
    """Where something is predicted: target n at place `inverse[n]`, for the request `owners[n]`."""

    hidden: Tensor  # (U, C)
    inverse: np.ndarray  # (N,)
    targets: np.ndarray  # (N,)
    owners: np.ndarray  # (N,)


def _together(waiting: list[_Places]) -> _Places:
    starts = np.cumsum([0, *(len(places.hidden) for places in waiting[:-1])])
    return _Places(
        torch.cat([places.hidden for places in waiting]),
        np.concatenate([places.inverse + start for places, start in zip(waiting, starts, strict=True)]),
        np.concatenate([places.targets for places in waiting]),
        np.concatenate([places.owners for places in waiting]),
    )


@dataclass(frozen=True)
class _Piece:
    """The whole of a request, or the part of its continuation that fits into the context."""

    owner: int  # the request
    inputs: np.ndarray  # (T,)
    targets: np.ndarray  # (N,) predicted by the last N inputs


def _rows(requests: Sequence[Request], context_length: int, share: bool) -> Iterator[_Row]:
    questions: dict[Hashable, list[_Piece]] = {}
    for number, (context, continuation, question) in enumerate(requests):
        if not continuation:
            raise ValueError("an empty continuation cannot be scored")
        for start in range(0, len(continuation), context_length):
            wanted = continuation[start : start + context_length]
            ids = np.array([*context, *continuation[:start], *wanted], dtype=np.int64)[-(context_length + 1) :]
            piece = _Piece(number, ids[:-1], ids[len(ids) - len(wanted) :])
            alone = not share or len(continuation) > context_length
            questions.setdefault((number, start) if alone else (question,), []).append(piece)
    for pieces in questions.values():
        row = _row(pieces)
        if len(row.tokens) <= _LONGEST_ROW or len(pieces) == 1:
            yield row
        else:
            yield from (_row([piece]) for piece in pieces)


def _row(pieces: list[_Piece]) -> _Row:
    tokens, positions, owners, sources, targets = [], [], [], [], []
    ends = np.empty(sum(len(piece.inputs) for piece in pieces), dtype=np.int64)
    before = path = ends[:0]  # the inputs of the piece before, and where in the row they stand
    size = 0
    for piece in sorted(pieces, key=lambda piece: piece.inputs.tolist()):  # so that neighbours have most in common
        shared = _common_beginning(before, piece.inputs)
        ends[path[shared:]] = size
        fresh = np.arange(size, size + len(piece.inputs) - shared)
        path = np.concatenate((path[:shared], fresh))
        tokens.append(piece.inputs[shared:])
        positions.append(np.arange(shared, len(piece.inputs)))
        owners.append(np.full(len(piece.targets), piece.owner))
        sources.append(path[len(path) - len(piece.targets) :])
        targets.append(piece.targets)
        before, size = piece.inputs, size + len(fresh)
    ends[path] = size
    columns = (tokens, positions, [ends[:size]], owners, sources, targets)
    return _Row(*(np.concatenate(parts) for parts in columns))


def _common_beginning(a: np.ndarray, b: np.ndarray) -> int:
    """How many first tokens both have in common."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length


def _batches(rows: list[_Row], batch_size: int | None, tokens: int) -> Iterator[list[_Row]]:
    """Rows come longest first, so the first of a batch says what each of its rows costs, padding included."""
    start = 0
    while start < len(rows):
        size = batch_size or max(1, tokens // len(rows[start].tokens))
        yield rows[start : start + size]
        start += size


def _run(model: Scorable, rows: list[_Row], device: torch.device) -> _Places:
    """Put rows through the layers, longest first."""
    lengths = np.array([len(row.tokens) for row in rows])
    shape = (len(rows), lengths[0])
    tokens, positions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    ends = np.tile(np.arange(1, shape[1] + 1), (len(rows), 1))  # padding sees itself alone
    for i, row in enumerate(rows):
        n = lengths[i]
        tokens[i, :n], positions[i, :n], ends[i, :n] = row.tokens, row.positions, row.ends
    real = np.flatnonzero(np.arange(shape[1]) < lengths[:, None])  # (N,)
    starts = np.cumsum(lengths) - lengths
    # answers share the token before their first one
    wanted, inverse = np.unique(
        np.concatenate([row.sources + start for row, start in zip(rows, starts, strict=True)]), return_inverse=True
    )
    inputs, places, asked = (torch.from_numpy(array).to(device) for array in (tokens, real, wanted))
    if all((row.ends == len(row.tokens)).all() for row in rows):
        # no row branches: the causal mask does, with padding on the right
        hidden = model.packed(inputs, places, asked)
    else:
        mask = _mask(torch.from_numpy(ends).to(device))
        hidden = model.packed(inputs, places, asked, torch.from_numpy(positions).to(device), mask)
    targets, owners = (np.concatenate(parts) for parts in zip(*((r.targets, r.requests) for r in rows), strict=True))
    return _Places(hidden, inverse, targets, owners)


def _mask(ends: Tensor) -> Tensor:
    """(B, T) -> (B, 1, T, T): a token sees itself and those that it stands below."""
    at = torch.arange(ends.shape[1], device=ends.device)
    seen = (at <= at.unsqueeze(1)) & (at.unsqueeze(1) < ends.unsqueeze(1))  # (B, T, T), the last one is looked at
    return torch.zeros(seen.shape, device=ends.device).masked_fill_(~seen, -torch.inf).unsqueeze(1)


def _of_targets(model: Scorable, places: _Places) -> tuple[np.ndarray, np.ndarray]:
    """(N,) nats and (N,) whether it was the likeliest, of every target."""
    hidden, inverse, targets, _ = places
    order = np.argsort(inverse, kind="stable")
    nats, greedy = np.empty(len(inverse)), np.empty(len(inverse), dtype=bool)
    # as few pieces of one size as the memory for logits allows
    pieces = -(-len(hidden) * model.vocab_size // _LOGITS_AT_ONCE)
    step = -(-len(hidden) // pieces)
    for start in range(0, len(hidden), step):
        logits = model.unembed(hidden[start : start + step]).float()  # (S, V)
        low, high = np.searchsorted(inverse[order], (start, start + len(logits)))
        chosen = order[low:high]
        place, wanted = (torch.from_numpy(x[chosen]).to(logits.device) for x in (inverse - start, targets))
        value, likeliest = _read(logits, place, wanted)
        nats[chosen] = value.double().cpu().numpy()
        greedy[chosen] = likeliest.cpu().numpy()
    return nats, greedy


def _read(logits: Tensor, place: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """log softmax of logits (S, V) at (place, wanted), both (N,), and whether that is the row's likeliest.

    No (S, V) of log-probabilities is formed: a few rows at a time stay in a processor's cache, where passes over them
    cost little.
    """
    highest = logits.amax(dim=-1)  # (S,)
    rows = max(1, _ROWS_IN_CACHE // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    blocks = zip(logits.split(rows), highest.split(rows), strict=True)
    sums = torch.cat([(block - top.unsqueeze(1)).exp_().sum(dim=-1) for block, top in blocks])  # (S,)
    found = logits[place, wanted]
    likeliest = found == highest[place]
    even = likeliest.nonzero().squeeze(1)  # of equal ones the first is the likeliest
    likeliest[even] = logits[place[even]].argmax(dim=-1) == wanted[even]
    return found - highest[place] - sums.log()[place], likeliest
