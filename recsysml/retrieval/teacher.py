"""Whose scores a light ranker is to reproduce: a counted model, fitted here, or the retriever of another run."""

from __future__ import annotations

from typing import Any, cast

import torch

from recsysml import lazy
from recsysml.data.interaction_data import Interactions
from recsysml.errors import ConfigError
from recsysml.models import KINDS as MODELS
from recsysml.models.histories import Histories
from recsysml.models.retriever import Retriever
from recsysml.models.value_model import checkpoint_folder
from recsysml.retrieval.opening import Opened, open_retriever
from recsysml.schemas import SCHEMAS


def teacher_of(config: Any, data: Interactions, events: Histories, device: torch.device) -> Retriever | None:
    """The teacher of a model's config, None for none. `events` are those a counted one is fitted on.

    Raises ConfigError where there is no such run, it knows other items, or the catalogue is too large for the method.
    """
    if config.teacher == "none":
        return None
    if config.teacher_run is not None:
        return _opened(f"model.teacher={config.teacher}", config.teacher_run, data, device).retriever
    try:
        found = lazy.resolve(MODELS[config.teacher])(
            lazy.resolve(SCHEMAS["model"][config.teacher])(), len(data.item_ids)
        )
    except ConfigError as error:
        raise ConfigError(f"model.teacher={config.teacher}: {error}; or use seq_knn") from None
    found.fit(events)
    return found


def take_towers(model: Any, data: Interactions, device: torch.device) -> None:
    """Put the towers of the run model.init_from into `model`. Raises ConfigError where they do not fit."""
    config = model.config
    key = f"model.init_from={config.init_from}"
    opened = _opened(key, config.init_from, data, device)
    if opened.kind != "two_tower":
        raise ConfigError(f"{key} holds a model of kind {opened.kind}; give the directory of a run of two_tower")
    found = cast(Any, opened.retriever).encoder
    differing = [
        f"model.{name}={value}"
        for name, value in vars(found.config).items()
        if name not in ("kind", "name") and getattr(config, name) != value
    ]
    if differing:
        raise ConfigError(f"{key} was made with {' '.join(differing)}: give the same")
    model.towers.load_state_dict(found.state_dict())


def _opened(key: str, path: str, data: Interactions, device: torch.device) -> Opened:
    folder = checkpoint_folder(path)
    if folder is None:
        raise ConfigError(f"{key}: there is no checkpoint any more")
    opened = open_retriever(folder, device)
    opened.check_ids(data)
    return opened
