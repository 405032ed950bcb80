"""Questions that no model has seen: how your own validation text goes on, among pieces from other places of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from recsysml.data.token_data import TokenData
from recsysml.errors import DataError
from recsysml.files import cache_dir, write_atomic

QUESTIONS, CHOICES = 500, 4
# characters of the context and of a choice: about 75 and 12 tokens of English
CONTEXT_LENGTH, CHOICE_LENGTH = 300, 48
# part of the file's name: other rules are other questions
_VERSION = 1
# a piece begins where a word does: all choices alike, so that where a piece was cut tells nothing
_WORD = re.compile(r"(?<=\s)\S")


def prepare(data: TokenData, split: str = "val", seed: int = 1) -> Path:
    """The questions of `data.splits[split]` as JSON lines in the cache folder, made at the first call.

    Raises DataError for a split that is not there or too short to ask about.
    """
    if split not in data.splits:
        raise DataError(f"heldout: {data.name} has no {split} text; it has {', '.join(data.splits)}")
    rules = [_VERSION, QUESTIONS, CHOICES, CONTEXT_LENGTH, CHOICE_LENGTH]
    digest = hashlib.sha256(json.dumps([data.fingerprint, split, seed, rules]).encode()).hexdigest()[:12]
    path = cache_dir() / "questions" / f"heldout-{digest}" / "validation.jsonl"
    if not path.is_file():
        rows = make(documents(data, split), seed)
        if not rows:
            raise DataError(
                f"heldout: the {split} text of {data.name} is too short to ask about: it needs more than"
                f" {CONTEXT_LENGTH + CHOICES * CHOICE_LENGTH} characters, in documents of {CONTEXT_LENGTH} and more"
            )
        write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def documents(data: TokenData, split: str) -> list[str]:
    """The texts of a split, as they were before they were encoded."""
    tokens = np.asarray(data.splits[split].tokens)
    bounds = [*np.flatnonzero(tokens == data.tokenizer.eot), len(tokens)]  # a document begins with end-of-text
    return [data.tokenizer.decode(tokens[start + 1 : end].tolist()) for start, end in pairwise(bounds)]


def make(texts: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """At most QUESTIONS rows {"id", "context", "choices", "label"}, spread over `texts` by their length.

    The true continuation and the distractors have the same number of characters and begin at a word; distractors do
    not overlap the question's own place. The same texts and seed give the same rows.
    """
    random = np.random.default_rng(seed)
    places = [
        (number, found.start())
        for number, text in enumerate(texts)
        for found in _WORD.finditer(text)
        if found.start() + CHOICE_LENGTH <= len(text)
    ]
    askable = [place for place in places if place[1] >= CONTEXT_LENGTH]
    if not askable or len(places) <= CHOICES:
        return []
    chosen = random.choice(len(askable), size=min(QUESTIONS, len(askable)), replace=False)
    rows = []
    for index in sorted(chosen.tolist()):
        number, start = askable[index]
        text = texts[number]
        true = text[start : start + CHOICE_LENGTH]
        others: list[str] = []
        for draw in random.integers(len(places), size=20 * CHOICES).tolist():
            where, at = places[draw]
            piece = texts[where][at : at + CHOICE_LENGTH]
            near = where == number and abs(at - start) < CONTEXT_LENGTH + CHOICE_LENGTH
            if not near and piece != true and piece not in others:
                others.append(piece)
            if len(others) == CHOICES - 1:
                break
        if len(others) < CHOICES - 1:
            continue  # a text that repeats itself has no distractors here
        label = int(random.integers(CHOICES))
        choices = [*others[:label], true, *others[label:]]
        context = text[start - CONTEXT_LENGTH : start]
        rows.append({"id": f"{number}:{start}", "context": context, "choices": choices, "label": label})
    return rows
