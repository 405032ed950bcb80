"""Three byte-level tokenizers behind one class: bpe (trained here), gpt2 (known merges), bytes (no merges).

All are byte-pair encodings (Sennrich et al. 2016; byte-level as in GPT-2, Radford et al. 2019) run by tiktoken.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tiktoken
from tiktoken_ext.openai_public import r50k_pat_str as GPT2_PATTERN

from recsysml.data.download import download, reachable
from recsysml.errors import ConfigError, DataError
from recsysml.files import cache_dir, data_dir, sha256

if TYPE_CHECKING:
    import tokenizers

NAMES = ("bpe", "gpt2", "bytes")
END_OF_TEXT = "<|endoftext|>"

_GPT2_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe"
_GPT2_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
# tiktoken names the files of its cache by the sha1 of the address they come from
_GPT2_FILE = hashlib.sha1(_GPT2_URL.encode()).hexdigest()

# a text above this many characters is encoded in pieces, which bounds the memory of the lists of ids
_PIECE = 1 << 20
# A newline between two non-spaces ends a pre-token whatever follows, so cutting there changes no token. (After a
# longer run of spaces it would: the pattern leaves the run's last space to the next word.)
_SAFE_CUT = re.compile(r"\S\n(?=\S)")


class Tokenizer:
    """A byte-level BPE: `tokens[i]` are the bytes of id i, in order of merge priority; the last id is end-of-text."""

    def __init__(self, name: str, tokens: list[bytes], pattern: str = GPT2_PATTERN) -> None:
        self.name = name
        self.tokens = tokens
        self.pattern = pattern
        self.eot = len(tokens)
        self.vocab_size = len(tokens) + 1
        self.dtype = np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)
        # (vocab_size,) bytes of each token; end-of-text has none
        self.token_lengths = np.array([len(token) for token in tokens] + [0], dtype=np.int64)
        digest = hashlib.sha256(pattern.encode())
        for token in tokens:
            digest.update(len(token).to_bytes(4, "little") + token)
        self.fingerprint = digest.hexdigest()
        self._encoding = tiktoken.Encoding(
            name,
            pat_str=pattern,
            mergeable_ranks={token: i for i, token in enumerate(tokens)},
            special_tokens={END_OF_TEXT: self.eot},
            explicit_n_vocab=self.vocab_size,
        )

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text: a special token's name inside it is text like any other."""
        return self._encoding.encode_ordinary(text)

    def encode_documents(self, texts: Iterable[str]) -> list[np.ndarray]:
        """One array of ids (dtype uint16, or uint32 for a vocabulary above 65,536) a text, on all cores."""
        pieces: list[str] = []
        counts: list[int] = []
        for text in texts:
            before = len(pieces)
            pieces.extend(_pieces(text))
            counts.append(len(pieces) - before)
        encoded = self._encoding.encode_ordinary_batch(pieces, num_threads=os.cpu_count() or 1)
        arrays = [np.array(ids, dtype=self.dtype) for ids in encoded]
        ends = np.cumsum(counts)
        return [np.concatenate(arrays[end - count : end]) for end, count in zip(ends, counts, strict=True)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; bytes that are no UTF-8 become U+FFFD. `KeyError` for an id outside the vocabulary."""
        return self._encoding.decode([int(i) for i in ids], errors="replace")

    def to_json(self) -> dict[str, Any]:
        """All that `tokenizer_from_json` needs, as JSON. Tokens are written as latin-1 text: one character a byte."""
        if self.name != "bpe":
            return {"kind": self.name, "vocab_size": self.vocab_size}
        return {"kind": "bpe", "pattern": self.pattern, "tokens": [token.decode("latin-1") for token in self.tokens]}


def tokenizer_from_json(value: dict[str, Any]) -> Tokenizer:
    """The tokenizer `to_json` described. bpe and bytes need nothing else; gpt2 needs its vocabulary file."""
    kind = value.get("kind")
    if kind == "bpe":
        return Tokenizer("bpe", [token.encode("latin-1") for token in value["tokens"]], value["pattern"])
    if kind == "gpt2":
        return gpt2_tokenizer()
    if kind == "bytes":
        return bytes_tokenizer()
    raise DataError(f"unknown tokenizer {kind!r}: choose one of {', '.join(NAMES)}")


def check_tokenizer(name: str, vocab_size: int) -> None:
    """Raises ConfigError or DataError when the tokenizer cannot be had. Trains and downloads nothing."""
    if name not in NAMES:
        raise ConfigError(f"data.tokenizer={name} does not exist: choose one of {', '.join(NAMES)}")
    if name == "bpe" and vocab_size < 257:
        raise ConfigError(f"data.vocab_size={vocab_size} is too small: 256 bytes and end-of-text need at least 257")
    if name == "gpt2" and gpt2_file() is None and not reachable(_GPT2_URL):
        raise DataError(_gpt2_missing())


@cache
def bytes_tokenizer() -> Tokenizer:
    """256 ids, one a byte, and end-of-text."""
    return Tokenizer("bytes", [bytes([i]) for i in range(256)])


@cache
def gpt2_tokenizer() -> Tokenizer:
    """GPT-2's 50,257 tokens, from tiktoken's cache, `$RECSYSML_DATA/tiktoken_cache` (only read) or the network."""
    path = gpt2_file()
    if path is None:
        if not reachable(_GPT2_URL):
            raise DataError(_gpt2_missing())
        path = cache_dir() / "tiktoken" / _GPT2_FILE
        download(_GPT2_URL, path, _GPT2_SHA256)
    characters = _byte_of_character()
    tokens = [bytes([byte]) for byte in characters.values()]
    merges = path.read_text(encoding="utf-8").split("\n")[1:-1]  # the first line is a version
    tokens.extend(bytes(characters[character] for character in merge.replace(" ", "")) for merge in merges)
    return Tokenizer("gpt2", tokens)


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A BPE of at most `vocab_size` ids (fewer when the text has no more pairs), all 256 bytes among them."""
    return from_huggingface(train_huggingface(texts, vocab_size))


def train_huggingface(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """The training itself, by the `tokenizers` library. The same texts give the same merges."""
    # unless this is set, the library complains at each later fork, such as that of a data loader's worker
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from tokenizers import Tokenizer as HuggingFaceTokenizer
    from tokenizers import models, pre_tokenizers, trainers

    trained = HuggingFaceTokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,  # one id is kept for end-of-text
        min_frequency=2,
        special_tokens=[],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    return trained


def from_huggingface(trained: tokenizers.Tokenizer) -> Tokenizer:
    """The same vocabulary run by tiktoken: ids are merge priorities, because training numbers merges in order."""
    characters = _byte_of_character()
    vocabulary = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    assert [i for _, i in vocabulary] == list(range(len(vocabulary)))
    return Tokenizer("bpe", [bytes(characters[character] for character in token) for token, _ in vocabulary])


def _byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-in of each byte: itself where latin-1 prints it, else a character from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _PIECE and (cut := _SAFE_CUT.search(text, start + _PIECE)):
        yield text[start : cut.end()]
        start = cut.end()
    yield text[start:]


def _gpt2_folders() -> list[Path]:
    """Where GPT-2's vocabulary may lie. tiktoken itself is not asked: it deletes a file whose checksum is wrong."""
    own = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    folders = [Path(own) if own else Path(tempfile.gettempdir()) / "data-gym-cache", cache_dir() / "tiktoken"]
    shared = data_dir()
    return [*folders, shared / "tiktoken_cache"] if shared else folders


def gpt2_file() -> Path | None:
    """The first vocabulary file with the right checksum."""
    for folder in _gpt2_folders():
        path = folder / _GPT2_FILE
        if path.is_file() and sha256(path) == _GPT2_SHA256:
            return path
    return None


def _gpt2_missing() -> str:
    damaged = [folder / _GPT2_FILE for folder in _gpt2_folders() if (folder / _GPT2_FILE).is_file()]
    if damaged:
        return f"{damaged[0]} has a wrong checksum and there is no network: replace it, or use data.tokenizer=bpe"
    return (
        f"the gpt2 tokenizer needs its vocabulary and there is no network: set TIKTOKEN_CACHE_DIR to a folder that "
        f"has {_GPT2_FILE} (vocab.bpe), or use data.tokenizer=bpe"
    )
