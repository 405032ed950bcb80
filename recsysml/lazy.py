"""Turns a "module:name" string into the thing itself, so that tables of kinds import nothing."""

from __future__ import annotations

import importlib
from typing import Any


def resolve(reference: str) -> Any:
    """`"recsysml.models.gpt:GPT"` -> the class. The strings come from our own tables, never from a config."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
