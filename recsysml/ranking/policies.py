"""A policy over slates as a checkpoint: what is written into it, what it becomes again, and its probabilities."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsysml.data.slate_batches import slates
from recsysml.data.slates import LoggedSlates
from recsysml.engine import checkpoint
from recsysml.errors import ConfigError, JobError
from recsysml.models.policy_ranker import PolicyRanker
from recsysml.schemas.policies import PolicyRankerConfig

logger = logging.getLogger("recsysml")


@dataclass(frozen=True)
class Opened:
    """A policy in eval mode, and the names of the features it reads, by part."""

    model: PolicyRanker
    names: dict[str, list[str]]
    name: str
    parameters: int


def build(config: PolicyRankerConfig, log: LoggedSlates, rewards: dict[str, float], places: int) -> PolicyRanker:
    """The untrained policy of a config, its features scaled by what is learnt from."""
    model = PolicyRanker(config, _widths(_names(log)), rewards, places)
    rows = slice(*log.fitted)
    real = log.mask[rows]
    used = np.unique(log.candidates[rows][real])
    for scale, part in zip(model.scales, (log.contexts[rows], log.items[used], log.pairs[rows][real]), strict=True):
        numbers = part.astype(np.float64)
        scale.fit(torch.from_numpy(numbers.mean(axis=0)), torch.from_numpy(numbers.std(axis=0)))  # type: ignore[operator]
    return model


def metadata(config: Any, log: LoggedSlates, model: PolicyRanker) -> dict[str, Any]:
    """What a policy's checkpoint.json says beside the weights: enough to build it and to read slates for it."""
    described = {
        "name": config.name, "kind": config.kind, "config": dataclasses.asdict(config), "rewards": model.rewards,
        "places": len(model.places),
    }  # fmt: skip
    return {
        "model": described,
        "data": {"name": log.name, "fingerprint": log.fingerprint},
        "slate_features": _names(log),
    }


def open_policy(folder: Path, device: torch.device | str = "cpu") -> Opened:
    """The policy of a checkpoint folder. Raises JobError for a damaged one, ConfigError for another model's."""
    tensors, found = checkpoint.load_weights(folder)
    described = found.get("model", {})
    if described.get("kind") != "policy_ranker":
        raise ConfigError(f"{folder} holds a model of kind {described.get('kind')!r}, not a policy_ranker")
    try:
        config = PolicyRankerConfig(**described["config"])
        names, rewards, places = found["slate_features"], described["rewards"], described["places"]
    except (TypeError, KeyError) as error:
        raise JobError(f"{folder} was written by another version: {error}") from error
    model = PolicyRanker(config, _widths(names), rewards, places)
    checkpoint.put_weights(model, tensors, folder)
    count = sum(p.numel() for p in model.parameters())
    return Opened(model.to(device).eval(), names, described["name"], count)


def aligned(log: LoggedSlates, names: dict[str, list[str]]) -> LoggedSlates:
    """The log with the columns that a policy reads, in its order; what the log lacks is 0 (a value it never has).

    Raises ConfigError where it has none of them.
    """
    own = _names(log)
    if own == names:
        return log
    parts = {"context": log.contexts, "item": log.items, "pair": log.pairs}
    missing = [name for part, wanted in names.items() for name in wanted if name not in own[part]]
    if len(missing) == sum(map(len, names.values())):
        raise ConfigError(f"{log.name} has none of the features that the policy reads, such as {missing[0]}")
    changed = {}
    for part, values in parts.items():
        found = np.zeros((*values.shape[:-1], len(names[part])), np.float32)
        for place, name in enumerate(names[part]):
            if name in own[part]:
                found[..., place] = values[..., own[part].index(name)]
        changed[part] = found
    if missing:
        logger.warning("%s lacks %s of the policy's features, such as %s", log.name, len(missing), missing[0])
    return dataclasses.replace(
        log, contexts=changed["context"], items=changed["item"], pairs=changed["pair"],
        context_names=names["context"], item_names=names["item"], pair_names=names["pair"],
    )  # fmt: skip


@torch.no_grad()
def log_probabilities(
    model: PolicyRanker, log: LoggedSlates, rows: np.ndarray, *, batch_size: int, device: torch.device | str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """(B, N) float64 log probability of each candidate of rows (B,), and (B, T) logits of the item on top."""
    found, logits = [], []
    for part in np.split(rows, range(batch_size, len(rows), batch_size)):
        own = model(*(tensor.to(device) for tensor in slates(log, part)))  # (b, N, T)
        found.append(model.log_policy(own, torch.from_numpy(log.mask[part]).to(device)).double().cpu().numpy())
        logits.append(own[torch.arange(len(part)), torch.from_numpy(log.shown[part])].double().cpu().numpy())
    return np.concatenate(found), np.concatenate(logits)


def _names(log: LoggedSlates) -> dict[str, list[str]]:
    return {"context": log.context_names, "item": log.item_names, "pair": log.pair_names}


def _widths(names: dict[str, list[str]]) -> tuple[int, int, int]:
    return len(names["context"]), len(names["item"]), len(names["pair"])
