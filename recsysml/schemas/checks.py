"""Checks that the dataclasses share. Each raises a ConfigError of one line that begins with the key."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence

from recsysml.errors import ConfigError


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The word most like `word`, or None when nothing is like it."""
    found = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return found[0] if found else None


def choices_hint(value: str, choices: Sequence[str]) -> str:
    """`Did you mean: adamw? It is one of adamw, muon.`, or its second half where nothing is near."""
    near = nearest(value, choices)
    return (f"Did you mean: {near}? It" if near else "it") + f" is one of {', '.join(choices)}."


def one_of(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{key}={value}: {choices_hint(value, choices)}")


def at_least(key: str, value: float | None, low: float) -> None:
    """A number not below `low`; None (a default to be filled in later) passes."""
    if value is not None and not (math.isfinite(value) and value >= low):
        raise ConfigError(f"{key}={value}: it must be at least {low}.")


def above(key: str, value: float, low: float) -> None:
    if not (math.isfinite(value) and value > low):
        raise ConfigError(f"{key}={value}: it must be greater than {low}.")


def share(key: str, value: float, *, one: bool = False) -> None:
    """A share: in [0, 1), or [0, 1] with `one`."""
    if not (0 <= value < 1 or (one and value == 1)):
        raise ConfigError(f"{key}={value}: it must lie between 0 and 1{'' if one else ' (1 excluded)'}.")


def parts_of_time(val: float, test: float, fit_range: str) -> None:
    """The shares of a split by time, the newest last, which leave something to learn from; and what is learnt from."""
    share("data.val_fraction", val)
    share("data.test_fraction", test)
    one_of("data.fit_range", fit_range, ("train", "train_val"))
    if val + test >= 1:
        raise ConfigError(
            f"data.val_fraction={val} and data.test_fraction={test} leave nothing to train on; together they must be"
            " below 1."
        )
