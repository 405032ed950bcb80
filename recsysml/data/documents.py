"""Documents before they are tokens: how they are split, fingerprinted, and cut into scoring units."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from recsysml.errors import ConfigError, DataError

UNIT_BYTES = 8192
# Greedy, so the last match: a line end before text that is not indented (no token of the usual tokenizers crosses
# it), else any line end.
_PARAGRAPH_END = re.compile(rb".*\n(?=\S)", re.DOTALL)
_LINE_END = re.compile(rb".*\n", re.DOTALL)


class Document(NamedTuple):
    id: str
    text: str


def clean(text: str) -> str:
    """Text that UTF-8 can hold: lone surrogates become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def check_fractions(val_fraction: float, test_fraction: float, *, needs_val: bool = True) -> None:
    """Raises ConfigError unless something is left to train on, and to validate on if `needs_val`."""
    if needs_val and not 0 < val_fraction < 1:
        raise ConfigError(f"data.val_fraction={val_fraction} must lie between 0 and 1")
    if not 0 <= test_fraction < 1 or not 0 <= val_fraction < 1 or val_fraction + test_fraction >= 1:
        raise ConfigError(f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction} leave no training")


def split_documents(documents: list[Document], val_fraction: float, test_fraction: float) -> dict[str, list[Document]]:
    """train/val/test by document; a single document is cut by position (train first, test last).

    Documents are taken in the order of their text's sha256 until a split has its share of the bytes. Equal texts
    land in the same split. A document larger than a whole share goes to training, unless there is no smaller one.
    Raises DataError when there are fewer documents than splits.
    """
    shares = {"test": test_fraction, "val": val_fraction}
    wanted = [name for name in shares if shares[name] > 0]
    if not wanted:
        return {"train": documents}
    if len(documents) == 1:
        return _cut(documents[0], val_fraction, test_fraction)
    hashes = [digest(document.text) for document in documents]
    sizes: dict[str, int] = {}
    for document, key in zip(documents, hashes, strict=True):
        sizes[key] = sizes.get(key, 0) + len(document.text.encode())
    if len(sizes) < len(wanted) + 1:
        raise DataError(
            f"{len(sizes)} different documents cannot be split into train, {', '.join(reversed(wanted))}: "
            "give more, or data.test_fraction=0"
        )
    total = sum(sizes.values())
    left = sorted(sizes)
    split_of: dict[str, str] = {}
    for i, name in enumerate(wanted):
        share = shares[name] * total
        chosen: list[str] = []
        taken = 0
        for key in left:
            if taken >= share or len(left) - len(chosen) <= len(wanted) - i:  # each split to come needs one
                break
            if sizes[key] <= share:
                chosen.append(key)
                taken += sizes[key]
        if not chosen:
            chosen = [min(left, key=lambda key: (sizes[key], key))]
        split_of.update(dict.fromkeys(chosen, name))
        left = [key for key in left if key not in split_of]
    splits: dict[str, list[Document]] = {name: [] for name in ("train", *reversed(wanted))}
    for document, key in zip(documents, hashes, strict=True):
        splits[split_of.get(key, "train")].append(document)
    return splits


def split_of_hash(key: str, val_fraction: float, test_fraction: float) -> str:
    """The split of one document of a stream whose end is not known, by its text's sha256 alone."""
    position = int(key[:16], 16) / 2**64
    return "test" if position < test_fraction else "val" if position < test_fraction + val_fraction else "train"


def fingerprint(splits: dict[str, list[Document]]) -> str:
    """sha256 over every document's split, name and text."""
    value = hashlib.sha256()
    for name, documents in sorted(splits.items()):
        for document in documents:
            value.update(f"{name}\0{document.id}\0{digest(document.text)}\n".encode())
    return value.hexdigest()


def unit_cuts(data: bytes) -> list[int]:
    """Byte offsets where the scoring units of a document start: 0, then line ends at most 8 KiB apart.

    A line longer than that is cut where it stands.
    """
    cuts = [0]
    while len(data) - cuts[-1] > UNIT_BYTES:
        start, limit = cuts[-1], cuts[-1] + UNIT_BYTES
        # one byte more, for the look-ahead
        end = _PARAGRAPH_END.match(data, start, limit + 1) or _LINE_END.match(data, start, limit)
        cuts.append(end.end() if end else limit)
    return cuts


def deduplicated(documents: Iterable[Document]) -> list[Document]:
    """The documents without later ones of the same text."""
    kept: dict[str, Document] = {}
    for document in documents:
        kept.setdefault(digest(document.text), document)
    return list(kept.values())


def _cut(document: Document, val_fraction: float, test_fraction: float) -> dict[str, list[Document]]:
    length = len(document.text)
    ends = {"train": int(length * (1 - val_fraction - test_fraction)), "val": int(length * (1 - test_fraction))}
    splits: dict[str, list[Document]] = {}
    start = 0
    for name, end in (*ends.items(), ("test", length)):
        if end > start:
            splits[name] = [Document(f"{document.id}@{start}", document.text[start:end])]
        start = end
    wanted = 1 + (val_fraction > 0) + (test_fraction > 0)
    if len(splits) < wanted:
        raise DataError(f"{document.id}: {length} characters are too few to split in {wanted}")
    return splits
