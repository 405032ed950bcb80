"""A trained retriever's checkpoint: what is written into it, and the retriever it becomes again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recsysml import lazy
from recsysml.data.interaction_data import Interactions
from recsysml.engine import checkpoint
from recsysml.errors import ConfigError, JobError
from recsysml.models import KINDS as MODELS
from recsysml.models import heads
from recsysml.models.retriever import Retriever
from recsysml.nn.graph_attention import Graph
from recsysml.schemas import SCHEMAS

TRAINING_ONLY = "age_bias."  # weights that nothing which serves may see begin so


@dataclass(frozen=True)
class Opened:
    """A retriever and the names behind its indices."""

    retriever: Retriever
    kind: str
    name: str
    parameters: int
    user_ids: list[str]
    item_ids: list[str]
    fingerprint: str  # of the data it learnt from

    def check_ids(self, data: Interactions) -> None:
        """Raises ConfigError where an index means one item to the model and another to the data."""
        if self.item_ids != data.item_ids or self.user_ids != data.user_ids:
            raise ConfigError(
                f"{data.name} has other users or items than the checkpoint learnt from: choose the data it came from"
            )


def metadata(
    config: Any,
    name: str,
    data: Interactions,
    known: Mapping[str, torch.Tensor | Graph] | None = None,
    head: str | None = None,
) -> dict[str, Any]:
    """What a retriever's checkpoint.json says beside the weights: enough to build the model and to name its indices.

    known: the features and graphs that the model was built with, which it keeps with its weights. head: the loss that
    gave the network a head of its own.
    """
    known = known or {}
    sizes = {
        "n_items": len(data.item_ids),
        "n_users": len(data.user_ids),
        "features": {part: found.shape[1] for part, found in known.items() if not isinstance(found, Graph)},
        "graphs": {part: len(found.sources) for part, found in known.items() if isinstance(found, Graph)},
        "head": head,
    }
    return {
        "model": {"name": name, "kind": config.kind, "config": dataclasses.asdict(config), **sizes},
        "data": {"name": data.name, "fingerprint": data.fingerprint},
        "ids": {"users": data.user_ids, "items": data.item_ids},
    }


def build(config: Any, n_items: int, n_users: int, **known: torch.Tensor | Graph) -> Any:
    """The untrained model of a config: counted ones know items only, networks also how many users there are.

    known: `item_features` (I, Fi) and `user_features` (U, Fu), where there are any, for a model that reads them;
    `item_graph` and `user_graph`, where its config asks for them.
    """
    made = lazy.resolve(MODELS[config.kind])
    return made(config, n_items) if config.trainers == ("fit",) else made(config, n_items, n_users, **known)


def open_retriever(folder: Path, device: torch.device | str = "cpu") -> Opened:
    """The retriever of a checkpoint folder. Raises JobError for a damaged one, ConfigError for another model's."""
    tensors, found = checkpoint.load_weights(folder)
    described = found.get("model", {})
    if "ids" not in found or described.get("kind") not in SCHEMAS["model"]:
        raise ConfigError(f"{folder} holds a model of kind {described.get('kind')!r}, not a retriever")
    try:
        config = lazy.resolve(SCHEMAS["model"][described["kind"]])(**described["config"])
    except TypeError as error:
        raise JobError(f"{folder} was written by another version: {error}") from error
    rows = {"item_features": described["n_items"], "user_features": described["n_users"]}
    # what is read from the checkpoint takes the place of the zeros
    empty: dict[str, torch.Tensor | Graph] = {
        part: torch.zeros(rows[part], width) for part, width in (described.get("features") or {}).items()
    }
    for part, edges in (described.get("graphs") or {}).items():
        n_nodes = described["n_items" if part == "item_graph" else "n_users"]
        empty[part] = Graph(torch.zeros(n_nodes + 1, dtype=torch.long), torch.zeros(edges, dtype=torch.long))
    model = build(config, described["n_items"], described["n_users"], **empty)
    if config.trainers == ("fit",):
        model.restore({name: tensor.numpy() for name, tensor in tensors.items()})
        retriever: Retriever = model
        parameters = sum(tensor.numel() for tensor in tensors.values())
    else:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(TRAINING_ONLY)}
        if described.get("head"):
            heads.attach(model, heads.restored(described["head"], tensors))
        checkpoint.put_weights(model, tensors, folder)
        parameters = sum(weights.numel() for weights in model.parameters())  # features and graphs are none
        retriever = heads.retriever_of(model.to(device).eval(), device)
    return Opened(
        retriever,
        described["kind"],
        described["name"],
        parameters,
        found["ids"]["users"],
        found["ids"]["items"],
        found["data"]["fingerprint"],
    )
