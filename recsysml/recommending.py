"""`recsysml recommend` and the retrievers' half of `recsysml export`: a checkpoint and the data of its run."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

from recsysml import config as configs
from recsysml import lazy
from recsysml.data import KINDS as DATA
from recsysml.data.interaction_data import Interactions
from recsysml.errors import ConfigError, DataError
from recsysml.retrieval import index as indexes
from recsysml.retrieval import serving
from recsysml.retrieval.opening import open_retriever
from recsysml.runs import read_results

logger = logging.getLogger("recsysml")


def _run_of(checkpoint: Path) -> Path | None:
    """The run directory a checkpoint lies in, if it does: <run>/checkpoints/<step>."""
    home = checkpoint.resolve().parent.parent
    return home if any((home / name).is_file() for name in ("results.json", "config.yaml")) else None


def _data(checkpoint: Path) -> tuple[Interactions, bool]:
    """The interactions that the checkpoint's run learnt from, and whether what was seen is left out."""
    home = _run_of(checkpoint)
    if home is None:
        raise ConfigError(
            f"{checkpoint} lies in no run directory, so its users' histories are not known: give --history"
        )
    if not (home / "config.yaml").is_file():
        raise ConfigError(f"{home / 'config.yaml'} is missing, so users' histories are not known: give --history")
    config = configs.read_run(home).data
    return lazy.resolve(f"{DATA[config.kind]}:load")(config), config.mask_seen


def _had_index(run: Path) -> bool:
    """Whether an index was written with the run: where it is gone by now, the search says so and builds it anew."""
    if (run / "index").is_dir():
        return True
    try:
        return "index" in read_results(run / "results.json")["artifacts"]
    except ConfigError:
        return False


def lines(checkpoint: Path, user: str | None, history: str | None, k: int) -> list[str]:
    """`rank  score  item  title`, one line a recommendation; the title where the data has one.

    Exactly one of `user` and `history` (items with commas between, oldest first) is given; an empty history is a user
    of whom nothing is known. Raises ConfigError for an unknown user, or a history of unknown items alone.
    """
    if (user is None) == (history is None):
        both = "" if user is None else ", not both"
        raise ConfigError(f"recommend for one user: give --user ID, or --history item,item for a new one{both}.")
    # read like a line of CSV: a name with a comma in it stands in quotes
    items = [name.strip() for name in next(csv.reader([history or ""]), []) if name.strip()]
    opened = open_retriever(checkpoint)
    data: Interactions | None
    data, mask_seen = None, True
    if user is not None:
        data, mask_seen = _data(checkpoint)
        row = serving.history_of_user(opened, data, user)
    else:
        row = serving.history_of_items(opened, items)
        try:  # only for the titles
            data, mask_seen = _data(checkpoint)
        except (ConfigError, DataError):
            data = None
    home = _run_of(checkpoint)
    folder = home / "index" if home is not None and _had_index(home) else None
    # the index is that of the best weights: another checkpoint of the run finds it unfit, and leaves it
    best = checkpoint.parent / "best"
    keep = not best.exists() or checkpoint.resolve() == best.resolve()
    found = serving.recommendations(opened, row, k, mask_seen=mask_seen, folder=folder, keep=keep, data=data)
    titles = dict(zip(data.item_ids, data.item_titles, strict=True)) if data is not None and data.item_titles else {}
    width = max((len(item) for item, _ in found), default=0)
    return [
        f"{rank:>3}  {score:9.4f}  {item:<{width}}  {titles.get(item, '')}".rstrip()
        for rank, (item, score) in enumerate(found, 1)
    ]


def export(checkpoint: Path, folder: Path, kind: str = "auto") -> str:
    """Write vectors, index and names into `folder`; what was written, in one line."""
    opened = open_retriever(checkpoint)
    histories, home = None, _run_of(checkpoint)
    if home is not None and not (home / "config.yaml").is_file():
        logger.warning("%s is missing, so users are not known: their vectors are left out", home / "config.yaml")
    elif home is not None:
        import numpy as np

        data, _ = _data(checkpoint)
        opened.check_ids(data)
        histories = serving.everything(data, np.arange(len(data.user_ids)))
    made = serving.export(opened, folder, histories, kind)
    users = f"{len(opened.user_ids):,} users, " if histories is not None else ""
    recall = made[f"recall@{indexes.RECALL_AT}"]
    return (
        f"wrote {folder}: vectors of {users}{made['items']:,} items, width {made['width']}; {made['kind']} index,"
        f" recall@{indexes.RECALL_AT} {recall:.4f} against exact"
    )
