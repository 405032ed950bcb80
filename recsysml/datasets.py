"""`recsysml data`: which data sets there are, what each needs, fetching and checking one."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recsysml import catalogue
from recsysml.config import compose_data
from recsysml.data import KINDS
from recsysml.errors import ConfigError, DataError
from recsysml.runlog import show
from recsysml.schemas.checks import choices_hint

ACTIONS = ("list", "prepare", "check")


def lines(action: str, name: str | None, config_dir: Path | None = None) -> Iterator[str]:
    """What the command prints, line by line. Raises ConfigError or DataError with the line that mends it."""
    if action not in ACTIONS:
        raise ConfigError(f"data {action}: {choices_hint(action, ACTIONS)}")
    if action == "list":
        yield from _statuses([name] if name else list(catalogue.choices("data", config_dir)), config_dir)
        if name is None:
            yield ""
            yield "recsysml data prepare NAME fetches or converts one; recsysml data check NAME verifies it"
        return
    if name is None:
        names = ", ".join(catalogue.choices("data", config_dir))
        raise ConfigError(f"data {action}: name a data set; it is one of {names}.")
    config = compose_data(name, config_dir)
    source = _source(name, config)
    if action == "prepare":
        show()
        source.prepare(config)
    source.check(config)
    yield f"{name}: {source.status(config)}"


def _statuses(names: list[str], config_dir: Path | None) -> Iterator[str]:
    width = max(map(len, names))
    for name in names:
        config = compose_data(name, config_dir)
        try:
            status = str(_source(name, config).status(config))
        except (ConfigError, DataError) as error:
            status = str(error).removeprefix(f"{name}: ")
        yield f"{name:<{width}}  {status}"


def _source(name: str, config: Any) -> Any:
    try:
        return importlib.import_module(KINDS[config.kind])
    except ModuleNotFoundError as error:
        if error.name != KINDS[config.kind]:
            raise
        raise ConfigError(f"{name}: data of kind {config.kind} cannot be read by this version.") from None
