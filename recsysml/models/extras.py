"""Models that need a library which does not come by default. Standard library only, so that asking costs nothing."""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager
from typing import Any

from recsysml.errors import ConfigError

# kind -> the library, which is also the name of the extra that brings it
EXTRAS = {"bpr": "implicit", "als": "implicit"}


def check(kind: str) -> None:
    """Raises ConfigError, in one line with its mend, where the library of a model of this kind is missing."""
    library = EXTRAS.get(kind)
    if library and importlib.util.find_spec(library) is None:
        raise ConfigError(f"{kind}: it needs {library}; pip install 'recsysml[{library}]'")


def one_blas_thread() -> AbstractContextManager[Any]:
    """Products inside run on one thread: `implicit` is as quick so, and gives the same bits each time."""
    from threadpoolctl import threadpool_limits  # comes with implicit

    limits: AbstractContextManager[Any] = threadpool_limits(1, "blas")
    return limits
