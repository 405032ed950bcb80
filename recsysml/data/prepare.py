"""Documents -> split -> tokenizer -> memory-mapped files, kept in a cache whose names follow from the content.

A prepared folder holds, for each split, `<split>.bin` (the tokens), `<split>.units.npy` (starts and bytes) and
`<split>.ids.json`; then `tokenizer.json`, and `meta.json` with sizes, fingerprint and a sha256 of every other file.
It is built under another name and renamed, so it is whole or not there, also when two processes build it at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from recsysml.data.documents import Document, clean, fingerprint, unit_cuts
from recsysml.data.progress import progress
from recsysml.data.token_data import TokenData, TokenSplit
from recsysml.data.tokenizers import Tokenizer, bytes_tokenizer, gpt2_tokenizer, tokenizer_from_json, train_bpe
from recsysml.errors import DataError
from recsysml.files import cache_dir, sha256, write_json

try:
    import fcntl
except ImportError:  # not a Unix: then two processes both build and the first to finish wins
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("recsysml")

# what `write_split` writes
SPLIT_FILES = (".bin", ".units.npy", ".ids.json")
# goes up when the same documents would give other files
FORMAT = 1
# a bpe is trained on at most so much text of the training split: more changes little and costs minutes
_BPE_CHARACTERS = 64 << 20
# characters encoded at once
_BATCH = 4 << 20


class TextSettings(Protocol):
    """The fields of a text config that its cache depends on."""

    name: str
    tokenizer: str
    vocab_size: int
    val_fraction: float
    test_fraction: float


@dataclass(frozen=True)
class Block:
    """Some whole documents as tokens. `unit_starts` counts from the block's first token."""

    tokens: np.ndarray  # (n,) uint16 or uint32
    unit_starts: np.ndarray  # (u,) int64
    unit_bytes: np.ndarray  # (u,) int64
    unit_ids: list[str]


class Damaged(DataError):
    """A prepared folder that is not as it was written."""


class Prepared(NamedTuple):
    fingerprint: str
    tokenizer: Tokenizer
    splits: dict[str, TokenSplit]


def prepared_folder(config: TextSettings, source: Any) -> Path:
    """Where the cache keeps these documents (`source`: JSON that names their content) under these settings."""
    key = {"format": FORMAT, "source": source, "tokenizer": config.tokenizer}
    key |= {"val": config.val_fraction, "test": config.test_fraction}
    if config.tokenizer == "bpe":
        key["vocab_size"] = config.vocab_size
    value = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_dir() / "tokens" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', config.name)}-{value[:16]}"


def load_or_prepare(config: TextSettings, source: Any, split: Callable[[], dict[str, list[Document]]]) -> TokenData:
    """The prepared data from the cache, built first where it is missing or damaged. `split` reads the documents."""
    prepared = open_or_build(
        prepared_folder(config, source),
        lambda folder: write_prepared(folder, split(), config.tokenizer, config.vocab_size),
    )
    return TokenData(config.name, prepared.fingerprint, prepared.tokenizer, prepared.splits)


def open_or_build(folder: Path, build: Callable[[Path], None]) -> Prepared:
    """Read `folder`; where it is missing or damaged, `build` fills a temporary one that is then renamed to it."""
    if folder.is_dir():
        log.info("opening the tokens in %s", folder)
        try:
            return read_prepared(folder)
        except Damaged as damage:
            log.warning("%s: preparing it again", damage)
            _discard(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder):
            if not folder.is_dir():  # else another process has just built it
                log.info("reading and tokenizing the text; the tokens are kept in %s", folder)
                _build(folder, build)
    except OSError as error:
        raise DataError(f"cannot write the cache {folder.parent}: {error} (XDG_CACHE_HOME moves it)") from error
    return read_prepared(folder)


def write_prepared(folder: Path, splits: dict[str, list[Document]], tokenizer: str, vocab_size: int) -> None:
    """Tokenize every split into `folder`. A bpe is trained on the training split alone."""
    chosen = make_tokenizer(tokenizer, vocab_size, (document.text for document in splits["train"]))
    characters = sum(len(document.text) for documents in splits.values() for document in documents)
    with progress("tokenizing", characters) as advance:
        for name, documents in splits.items():
            write_split(folder, name, encode_blocks(chosen, documents, advance), chosen.dtype)
    write_meta(folder, fingerprint(splits), chosen)


def make_tokenizer(name: str, vocab_size: int, training_texts: Iterable[str]) -> Tokenizer:
    if name == "gpt2":
        return gpt2_tokenizer()
    if name == "bytes":
        return bytes_tokenizer()
    return train_bpe(_limited(training_texts, _BPE_CHARACTERS), vocab_size)


def encode_blocks(
    tokenizer: Tokenizer, documents: Iterable[Document], advance: Callable[[int], None] = lambda characters: None
) -> Iterator[Block]:
    """Blocks of a few million characters, in the documents' order."""
    waiting: list[Document] = []
    characters = 0
    for document in documents:
        waiting.append(document)
        characters += len(document.text)
        if characters >= _BATCH:
            yield encode_block(tokenizer, waiting)
            advance(characters)
            waiting, characters = [], 0
    if waiting:
        yield encode_block(tokenizer, waiting)
        advance(characters)


def encode_block(tokenizer: Tokenizer, documents: list[Document]) -> Block:
    """[end-of-text] + tokens for each document, and where its scoring units start."""
    encoded = tokenizer.encode_documents(document.text for document in documents)
    eot = np.array([tokenizer.eot], dtype=tokenizer.dtype)
    tokens = np.concatenate([part for ids in encoded for part in (eot, ids)])  # (n,)
    lengths = tokenizer.token_lengths[tokens]
    positions = np.cumsum(lengths) - lengths  # (n,) byte where each token starts
    starts: list[int] = []
    ids: list[str] = []
    total = 0
    for document in documents:
        data = document.text.encode()
        cuts = unit_cuts(data)
        starts.extend(total + cut for cut in cuts)
        ids.extend(f"{document.id}#{i}" for i in range(len(cuts)))
        total += len(data)
    assert total == positions[-1] + lengths[-1], "the tokens do not add up to the text"
    byte_starts = np.array(starts, dtype=np.int64)
    # The leftmost token at a byte is the end-of-text before it. A token that crosses a cut stays with the earlier unit.
    unit_starts = np.searchsorted(positions, byte_starts, side="left").astype(np.int64)
    return Block(tokens, unit_starts, np.diff(byte_starts, append=total), ids)


def write_split(folder: Path, name: str, blocks: Iterable[Block], dtype: np.dtype) -> None:
    """Append the blocks to `<name>.bin` and write where their units start."""
    starts: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    ids: list[str] = []
    length = 0
    with (folder / f"{name}.bin").open("wb") as file:
        for block in blocks:
            assert block.tokens.dtype == dtype
            block.tokens.tofile(file)
            starts.append(block.unit_starts + length)
            sizes.append(block.unit_bytes)
            ids.extend(block.unit_ids)
            length += len(block.tokens)
    np.save(folder / f"{name}.units.npy", np.stack([np.concatenate(starts), np.concatenate(sizes)]))  # (2, U)
    write_json(folder / f"{name}.ids.json", ids)


def read_block(folder: Path, name: str, dtype: np.dtype) -> Block:
    """What `write_split` wrote, the tokens memory-mapped."""
    tokens = np.memmap(folder / f"{name}.bin", dtype=dtype, mode="r")
    starts, sizes = np.load(folder / f"{name}.units.npy", allow_pickle=False)
    ids = json.loads((folder / f"{name}.ids.json").read_text(encoding="utf-8"))
    return Block(tokens, starts, sizes, ids)


def write_meta(folder: Path, fingerprint: str, tokenizer: Tokenizer) -> None:
    """The last file of a prepared folder: what is in it, with checksums."""
    write_json(folder / "tokenizer.json", tokenizer.to_json())
    files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    splits = [name for name in ("train", "val", "test") if f"{name}.bin" in files]
    meta = {"format": FORMAT, "fingerprint": fingerprint, "dtype": tokenizer.dtype.name, "splits": splits}
    write_json(folder / "meta.json", meta | {"files": files})


def read_prepared(folder: Path) -> Prepared:
    """Verify every checksum and memory-map the tokens. Raises Damaged naming the file that is missing or damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        for file, expected in meta["files"].items():
            if not (folder / file).is_file() or sha256(folder / file) != expected:
                raise Damaged(f"{folder / file} is damaged (wrong checksum)")
        tokenizer_json = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        splits = {}
        for name in meta["splits"]:
            block = read_block(folder, name, np.dtype(meta["dtype"]))
            n_bytes = int(block.unit_bytes.sum())
            splits[name] = TokenSplit(block.tokens, n_bytes, block.unit_starts, block.unit_bytes, block.unit_ids)
    except Damaged:
        raise
    except (OSError, KeyError, ValueError) as error:
        raise Damaged(f"{folder} is damaged ({type(error).__name__}: {error})") from error
    return Prepared(meta["fingerprint"], tokenizer_from_json(tokenizer_json), splits)


def decode_text(data: bytes, where: str) -> str:
    """Text of a file; a byte-order mark is dropped. Raises DataError when it is not UTF-8."""
    try:
        return clean(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text (byte {error.start}): convert it first") from error


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    if fcntl:  # we hold the lock, so what a killed process left behind belongs to nobody
        for left in folder.parent.glob(f".{folder.name}.*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
    temporary = folder.parent / f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    temporary.mkdir()
    try:
        build(temporary)
        try:
            os.rename(temporary, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _discard(folder: Path) -> None:
    """Take a damaged folder away: renamed first, so that no one opens it half-deleted."""
    aside = folder.parent / f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        os.rename(folder, aside)
    except FileNotFoundError:  # another process was quicker
        return
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Only one process at a time builds a folder; the others wait and then find it."""
    if not fcntl:
        yield
        return
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process is preparing %s: waiting for it", folder.name)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _limited(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        if characters <= 0:
            return
        yield text[:characters]
        characters -= len(text)
