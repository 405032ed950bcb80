"""Whether a simulated world fits into the machine's memory, known before it is made."""

from __future__ import annotations

import os

from recsysml.errors import ConfigError
from recsysml.schemas.data import WorldConfig

# bytes at the peak of making it, by family; a fifth or so less than was measured (Linux, 64 bits), so that what is
# refused cannot fit
_EVENT = {"interactions": 50, "impressions": 700, "slates": 2_500}
_USER, _ITEM = 5_000, 700


def check(config: WorldConfig, family: str) -> None:
    """Raises ConfigError, in one line, where the world that models of a family learn from cannot fit."""
    total = memory()
    parts = {"users": _USER * config.users, "items": _ITEM * config.items, "events": _EVENT[family] * config.events}
    most = max(parts, key=parts.__getitem__)  # they need not be at their peak together
    if total is not None and parts[most] > total:
        raise ConfigError(
            f"data.{most}={getattr(config, most)}: such a world takes {parts[most] / 1e9:,.0f} GB of memory or more,"
            f" made into {family}, and this machine has {total / 1e9:,.0f}; give fewer."
        )


def memory() -> int | None:
    """Bytes of memory of this machine; None where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
