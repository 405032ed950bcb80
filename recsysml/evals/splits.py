"""Whether a text has the split that is to be judged, known before a run begins. Imports no torch."""

from __future__ import annotations

from recsysml.errors import ConfigError
from recsysml.schemas.run import RunConfig


def check(config: RunConfig) -> None:
    """Raises ConfigError for `eval.split=test` of a text without a test split."""
    tested = getattr(config.data, "test_fraction", 0) or getattr(config.data, "test_path", None)
    if config.eval.split == "test" and not config.tasks and not tested:
        raise ConfigError(f"eval.split=test: {config.data.name} has no test split: set data.test_fraction, or use val")


def check_page(config: RunConfig) -> None:
    """Raises ConfigError for `eval=page` of data whose truth is not known."""
    if config.data.kind != "world":
        raise ConfigError(f"eval=page: only data=world knows what pages bring that nobody saw, not {config.data.name}.")
