"""What every text source hands to a trainer: token streams on disk, and where their documents start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recsysml.data.tokenizers import Tokenizer


@dataclass(frozen=True)
class TokenSplit:
    """One split as one stream: every document is [end-of-text] followed by its tokens.

    So each byte of text is predicted exactly once, the first of a document from the end-of-text token before it.
    Scoring units are documents, those above 8 KiB cut at line ends by byte position: the same units for every
    tokenizer, so that two runs can be compared unit by unit.
    """

    tokens: np.ndarray  # (N,) uint16 or uint32, memory-mapped, read-only
    n_bytes: int  # UTF-8 bytes of the text; end-of-text counts 0
    unit_starts: np.ndarray  # (U,) int64 offsets into `tokens`
    unit_bytes: np.ndarray  # (U,) int64, their sum is n_bytes
    unit_ids: list[str]  # U names such as "docs:json.decoder#0", unique within the split


@dataclass(frozen=True)
class TokenData:
    """A prepared text data set. `fingerprint` is a sha256 over documents and split, whatever the tokenizer."""

    name: str
    fingerprint: str
    tokenizer: Tokenizer
    splits: dict[str, TokenSplit]  # train, val, and test where there is one

    @property
    def sizes(self) -> dict[str, int]:
        """Tokens of each split."""
        return {name: len(split.tokens) for name, split in self.splits.items()}


def text_pieces(split: TokenSplit, tokenizer: Tokenizer, between: str, at_once: int = 1 << 18) -> Iterator[str]:
    """The text of a split again, in pieces of `at_once` tokens that end where a space or a line does.

    between: what stands for the end-of-text token before each document.
    """
    table = [*tokenizer.tokens, between.encode()]
    rest = b""
    for start in range(0, len(split.tokens), at_once):
        data = rest + b"".join([table[i] for i in split.tokens[start : start + at_once].tolist()])
        cut = max(data.rfind(b" "), data.rfind(b"\n"))
        data, rest = (data[:cut], data[cut:]) if cut >= 0 else (b"", data)
        yield data.decode("utf-8", "replace")
    yield rest.decode("utf-8", "replace")
