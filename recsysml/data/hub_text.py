"""A text data set of the Hugging Face hub, streamed once into token shards and offline from then on.

While it streams, a folder `<name>.partial` holds numbered shards, each with a sha256, and `state.json`, rewritten
after each shard with the place in the stream; a killed download goes on from there. At the end the shards are joined
into the one prepared folder that `prepare.read_prepared` reads.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsysml.data.documents import Document, check_fractions, clean, digest, split_of_hash
from recsysml.data.download import reachable
from recsysml.data.prepare import (
    SPLIT_FILES,
    Block,
    encode_block,
    make_tokenizer,
    open_or_build,
    prepared_folder,
    read_block,
    read_prepared,
    write_meta,
    write_split,
)
from recsysml.data.progress import progress
from recsysml.data.token_data import TokenData
from recsysml.data.tokenizers import Tokenizer, check_tokenizer, tokenizer_from_json
from recsysml.errors import ConfigError, DataError
from recsysml.files import sha256, write_json
from recsysml.schemas.data import HubTextConfig

log = logging.getLogger("recsysml")

# documents encoded at once; a shard and the whole end after such a group
_DOCUMENTS = 64


@dataclass
class _State:
    """How far a download has come, as of its last whole shard."""

    rows: int = 0
    stream: dict[str, Any] | None = None  # the place in the stream, in the words of `datasets`
    tokens: int = 0
    fingerprint: str = ""  # a chain: sha256 of the one before and the next document
    shards: list[dict[str, str]] = field(default_factory=list)  # of each, file name -> sha256
    ended: bool = False


def check(config: HubTextConfig) -> None:
    """Raises ConfigError or DataError when the data is neither prepared nor can be had from the hub now."""
    check_fractions(config.val_fraction, config.test_fraction)
    if min(config.max_tokens, config.shard_tokens) < 1:
        raise ConfigError("data.max_tokens and data.shard_tokens must be at least 1")
    check_tokenizer(config.tokenizer, config.vocab_size)
    if not _folder(config).is_dir():
        _check_hub(config)


def load(config: HubTextConfig) -> TokenData:
    """The prepared data; what is missing is streamed first."""
    check(config)
    folder = _folder(config)
    prepared = open_or_build(folder, lambda temporary: _fetch(config, temporary, _partial(folder)))
    # only now: the prepared folder stands under its own name
    shutil.rmtree(_partial(folder), ignore_errors=True)
    return TokenData(config.name, prepared.fingerprint, prepared.tokenizer, prepared.splits)


def prepare(config: HubTextConfig) -> None:
    """Stream, or go on streaming, until `max_tokens`. Raises DataError at once without network."""
    load(config)


def status(config: HubTextConfig) -> str:
    """One line for `recsysml data list`: prepared, how far a download has come, or raises what `check` raises."""
    folder = _folder(config)
    if folder.is_dir():
        tokens = sum(len(split.tokens) for split in read_prepared(folder).splits.values())
        return f"prepared: {tokens:,} tokens"
    state = _read_state(_partial(folder))
    check(config)
    if state:
        return f"{state.tokens:,} of {config.max_tokens:,} tokens: `recsysml data prepare {config.name}` goes on"
    return f"not fetched: `recsysml data prepare {config.name}` streams {config.max_tokens:,} tokens of it"


def _folder(config: HubTextConfig) -> Path:
    names = ("kind", "hub_name", "hub_subset", "hub_split", "text_key", "max_tokens", "shard_tokens")
    return prepared_folder(config, {name: getattr(config, name) for name in names})


def _partial(folder: Path) -> Path:
    return folder.with_name(folder.name + ".partial")


def _check_hub(config: HubTextConfig) -> None:
    if Path(config.hub_name).is_dir():  # `datasets` also streams a folder of files
        return
    mend = f"run `recsysml data prepare {config.name}` where there is a network, or use data=python_docs"
    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        if os.environ.get(variable, "").upper() in {"1", "TRUE", "YES", "ON"}:
            raise DataError(f"{config.name} is not prepared and {variable} is set: {mend}")
    # asked first because the hub's client retries for half a minute
    if not reachable(os.environ.get("HF_ENDPOINT") or "https://huggingface.co"):
        raise DataError(f"{config.name} is not prepared and the Hugging Face hub cannot be reached: {mend}")


def _stream(config: HubTextConfig) -> Any:
    """The rows, as an `IterableDataset` that knows its place (`state_dict`)."""
    import datasets

    return datasets.load_dataset(config.hub_name, config.hub_subset, split=config.hub_split, streaming=True)


def _fetch(config: HubTextConfig, target: Path, partial: Path) -> None:
    """Fill `target` with the whole prepared data set, keeping shards in `partial` on the way."""
    _check_hub(config)
    try:
        dataset = _stream(config)
    except Exception as error:  # whatever the hub's client raises: a wrong name, a subset that is missing
        first = str(error).strip().split("\n")[0]
        raise DataError(
            f"the hub has no {config.hub_name} ({config.hub_subset}, {config.hub_split}): {first}"
        ) from error
    partial.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(config, dataset, partial)
    state = _good_state(partial)
    if state.stream is not None:
        log.info("going on with %s after %s rows", config.name, f"{state.rows:,}")
        dataset.load_state_dict(state.stream)
    documents = _documents(config, dataset, state)
    with progress(f"streaming {config.name}", config.max_tokens) as advance:
        advance(state.tokens)
        while not state.ended and state.tokens < config.max_tokens:
            before = state.tokens
            _next_shard(config, documents, tokenizer, partial, state)
            state.stream = dataset.state_dict()
            write_json(partial / "state.json", vars(state))
            advance(state.tokens - before)
    names = {name.split("-")[0] for shard in state.shards for name in shard}
    if names != {"train", "val", *(["test"] if config.test_fraction else [])}:
        raise DataError(f"{state.rows} rows gave only {', '.join(sorted(names)) or 'nothing'}: raise data.max_tokens")
    for name in names:
        stems = [f"{name}-{i:05d}" for i, shard in enumerate(state.shards) if f"{name}-{i:05d}.bin" in shard]
        write_split(target, name, (read_block(partial, stem, tokenizer.dtype) for stem in stems), tokenizer.dtype)
    write_meta(target, state.fingerprint, tokenizer)


def _tokenizer(config: HubTextConfig, dataset: Any, partial: Path) -> Tokenizer:
    """Kept beside the shards. A bpe is trained on the first training documents."""
    path = partial / "tokenizer.json"
    if path.is_file():
        return tokenizer_from_json(json.loads(path.read_text(encoding="utf-8")))
    texts = (
        document.text
        for document in (_document(config, row, 0) for row in dataset)
        if document and split_of_hash(digest(document.text), config.val_fraction, config.test_fraction) == "train"
    )
    tokenizer = make_tokenizer(config.tokenizer, config.vocab_size, texts)
    write_json(path, tokenizer.to_json())
    return tokenizer


def _next_shard(
    config: HubTextConfig, documents: Iterator[Document], tokenizer: Tokenizer, partial: Path, state: _State
) -> None:
    """Read documents until a shard's tokens are there; write them, one file a split. `state` counts them in."""
    waiting: dict[str, list[Block]] = {}
    tokens = 0
    while tokens < config.shard_tokens and state.tokens + tokens < config.max_tokens:
        batch: dict[str, list[Document]] = {}
        for document in itertools.islice(documents, _DOCUMENTS):
            key = digest(document.text)
            split = split_of_hash(key, config.val_fraction, config.test_fraction)
            batch.setdefault(split, []).append(document)
            chain = f"{state.fingerprint}\0{split}\0{document.id}\0{key}"
            state.fingerprint = hashlib.sha256(chain.encode()).hexdigest()
        if not batch:
            state.ended = True
            break
        for split, chosen in batch.items():
            block = encode_block(tokenizer, chosen)
            waiting.setdefault(split, []).append(block)
            tokens += len(block.tokens)
    files: dict[str, str] = {}
    for split, blocks in waiting.items():
        stem = f"{split}-{len(state.shards):05d}"
        write_split(partial, stem, blocks, tokenizer.dtype)
        files |= {f"{stem}{suffix}": sha256(partial / f"{stem}{suffix}") for suffix in SPLIT_FILES}
    state.shards.append(files)
    state.tokens += tokens


def _documents(config: HubTextConfig, dataset: Any, state: _State) -> Iterator[Document]:
    rows = iter(dataset)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # the connection, in whatever words
            first = str(error).strip().split("\n")[0]
            mend = f"`recsysml data prepare {config.name}` goes on"
            raise DataError(f"{config.name} stopped after row {state.rows:,} ({first}): {mend}") from error
        document = _document(config, row, state.rows)
        state.rows += 1
        if document:
            yield document


def _document(config: HubTextConfig, row: dict[str, Any], number: int) -> Document | None:
    text = row.get(config.text_key)
    if not isinstance(text, str):
        raise DataError(f"{config.hub_name} has no text under {config.text_key!r} (it has {', '.join(sorted(row))})")
    return Document(f"row:{number}", clean(text)) if text.strip() else None


def _read_state(partial: Path) -> _State | None:
    try:
        return _State(**json.loads((partial / "state.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _good_state(partial: Path) -> _State:
    """The state to go on from; from the beginning if a shard is damaged, since its rows cannot be had otherwise."""
    state = _read_state(partial)
    if state is None:
        return _State()
    for shard in state.shards:
        for name, expected in shard.items():
            if not (partial / name).is_file() or sha256(partial / name) != expected:
                log.warning("%s is damaged (wrong checksum): streaming from the beginning", partial / name)
                return _State()
    return state
