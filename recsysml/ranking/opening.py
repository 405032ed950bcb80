"""A trained ranker's checkpoint: what is written into it, and the ranker it becomes again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from recsysml import lazy
from recsysml.data.impression_data import ImpressionTable
from recsysml.data.impression_encoder import ImpressionEncoder
from recsysml.engine import checkpoint
from recsysml.errors import ConfigError, JobError
from recsysml.models import KINDS as MODELS
from recsysml.schemas import SCHEMAS
from recsysml.schemas.ranking_shape import RankingShape


@dataclass(frozen=True)
class Opened:
    """A ranker in eval mode, and how its rows are encoded."""

    model: Any
    encoder: ImpressionEncoder
    shape: RankingShape
    kind: str
    name: str
    parameters: int
    fingerprint: str  # of the data it learnt from


def metadata(config: Any, table: ImpressionTable) -> dict[str, Any]:
    """What a ranker's checkpoint.json says beside the weights: enough to build it and to encode rows for it."""
    shape = dataclasses.asdict(table.shape)
    return {
        "model": {"name": config.name, "kind": config.kind, "config": dataclasses.asdict(config), "shape": shape},
        "data": {"name": table.name, "fingerprint": table.fingerprint},
        "encoder": table.encoder.to_json(),
    }


def build(config: Any, shape: RankingShape) -> Any:
    """The untrained model of a config."""
    return lazy.resolve(MODELS[config.kind])(config, shape)


def open_ranker(folder: Path, device: torch.device | str = "cpu") -> Opened:
    """The ranker of a checkpoint folder. Raises JobError for a damaged one, ConfigError for another model's."""
    tensors, found = checkpoint.load_weights(folder)
    described = found.get("model", {})
    if "encoder" not in found or described.get("kind") not in SCHEMAS["model"]:
        raise ConfigError(f"{folder} holds a model of kind {described.get('kind')!r}, not a ranker")
    try:
        config = lazy.resolve(SCHEMAS["model"][described["kind"]])(**described["config"])
        shape = RankingShape(**described["shape"])
    except TypeError as error:
        raise JobError(f"{folder} was written by another version: {error}") from error
    model: nn.Module = build(config, shape)
    checkpoint.put_weights(model, tensors, folder)
    return Opened(
        model.to(device).eval(),
        ImpressionEncoder.from_json(found["encoder"]),
        shape,
        described["kind"],
        described["name"],
        sum(tensor.numel() for tensor in tensors.values()),
        found["data"]["fingerprint"],
    )


def arranged(table: ImpressionTable, opened: Opened) -> ImpressionTable:
    """The table's features as a ranker reads them: a config may name them in another order, or name more.

    Raises ConfigError for one that the table lacks, and for a past of other items than the ranker's.
    """
    places = {}
    for kind in ("dense", "vectors", "sparse", "bags"):
        names, read = list(getattr(table.shape, kind)), list(getattr(opened.shape, kind))
        if missing := [name for name in read if name not in names]:
            raise ConfigError(f"{table.name} has no {kind} feature {missing[0]}, which {opened.name} reads.")
        places[kind] = [names.index(name) for name in read]
    read, target = list(opened.shape.history) if opened.model.context_length else [], opened.shape.target
    if read and (list(table.shape.history) != read or table.shape.target != target):
        raise ConfigError(f"{table.name} has not the past that {opened.name} reads: {', '.join(read)}, of {target}.")
    cohorts = [name for name in table.shape.cohorts if name in opened.shape.sparse]
    return replace(
        table,
        shape=replace(opened.shape, tasks=table.shape.tasks, cohorts=cohorts),
        dense=_columns(table.dense, places["dense"]),
        vectors=_columns(table.vectors, places["vectors"]),
        sparse=_columns(table.sparse, places["sparse"]),
        bags=[table.bags[place] for place in places["bags"]],
    )


def _columns(array: np.ndarray, places: list[int]) -> np.ndarray:
    """array (N, C, ...) -> (N, len(places), ...), row by row in memory: `[:, places]` lays it out column by column, and
    every batch that is taken of such a one copies it whole."""
    return array if places == list(range(array.shape[1])) else array.take(np.array(places, np.int64), axis=1)
