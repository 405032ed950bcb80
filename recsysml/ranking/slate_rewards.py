"""What each candidate of a slate would bring, learnt from what was shown: the reward model of doubly robust losses.

trees    boosted trees of the reward itself, the place a feature (`reward_trees.py`)
network  the same kind of model as the policy's, with hidden layers of its own: a probability a task, weighed by what
         they are worth

Each request is predicted by a model that has not seen it (Chernozhukov et al. 2018), as a prediction that knows its own
reward takes the correction away that a doubly robust loss stands on.

Of the simulated world a policy loses by the error that all requests of an item share, and trees have less of it than a
network of the features that the policy reads (docs/policies.md).

A reward model reads one thing that the policy does not, where the log has it: the logarithm of what the logging policy
gave each candidate. What that policy went by may be nobody's feature (a mood that it senses), and moves what it shows
and what comes of it alike; given its probabilities the two are independent (Rosenbaum & Rubin 1983).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from recsysml.data.progress import progress
from recsysml.data.slate_batches import ShownBatches, ShownItems, slates
from recsysml.data.slates import LoggedSlates
from recsysml.errors import DataError
from recsysml.ranking.policies import build
from recsysml.ranking.reward_trees import Predict, RewardTrees
from recsysml.schemas.policies import PolicyRankerConfig

# of a network
_BATCH, _RATE, _DECAY, _LOOK_EVERY = 1024, 3e-3, 1e-3, 50
# probabilities below it count as it
_RAREST = 1e-6
# what val says of a model comes from so many shown items at most
_VAL = 20_000


def cross_fit(
    log: LoggedSlates,
    rewards: dict[str, float],
    *,
    kind: str,
    trees: int,
    hidden: Sequence[int],
    dropout: float,
    steps: int,
    folds: int,
    places: str,
    seed: int,
    share: float = 1.0,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """(R, N) float32 expected reward of every candidate on top. Of requests that no model has seen (val, test) the mean
    over the folds' models.

    rewards: task -> what one is worth. trees: of `trees`; hidden, dropout and steps: of `network`. share: of the
    requests that may be learnt from, chosen at random. Each model stops where the loss of val is least; where val is
    learnt from, that of a tenth of its requests. It leaves torch's random state as it was. Raises DataError where there
    is nothing to learn from, or to stop by.
    """
    log = _with_propensities(log)
    shown = ShownItems(log, list(rewards), places)
    start, stop = log.fitted
    fold = np.full(len(log), -1)
    fold[start:stop] = np.random.default_rng([seed, 7]).permutation(stop - start) % folds
    predicted = np.zeros(log.mask.shape, np.float32)
    learnt = shown.within((start, stop))
    if share < 1:
        drawn = np.random.default_rng([seed, 8]).random(len(log)) < share
        learnt = learnt[drawn[shown.rows[learnt]]]
    val = shown.within(log.bounds["val"])[:_VAL]
    config = PolicyRankerConfig(hidden=list(hidden), dropout=dropout)
    held = np.random.default_rng([seed, 9]).random(len(log)) < 0.1
    boosted = RewardTrees(shown, rewards, trees) if kind == "trees" else None
    units = (steps if kind == "network" else 1) + len(log) // _BATCH
    with torch.random.fork_rng(), progress("fitting reward models", folds * units) as advance:
        for each in range(folds):
            own = learnt[fold[shown.rows[learnt]] != each]
            if log.fit_range != "train":
                own, val = own[~held[shown.rows[own]]], own[held[shown.rows[own]]][:_VAL]
            if not (len(own) and len(val)):
                raise DataError(
                    f"{log.name}: {len(own)} shown items to fit a reward model to, and {len(val)} that say where to"
                    " stop: give more data, or a larger trainer.reward_model_share"
                )
            if boosted is None:
                torch.manual_seed(seed + each)
                model = build(config, log, rewards, shown.n_places).to(device)
                _fit(model, shown, own, val, steps, seed + each, device, advance)
                predict = _of_network(model, log, device)
            else:
                predict = boosted.fit(own, val, seed + each)
                advance(1)
            inside = np.flatnonzero((fold == each) | (fold == -1))
            for part in np.split(inside, range(_BATCH, len(inside), _BATCH)):
                predicted[part] += np.where(fold[part] == -1, 1 / folds, 1.0)[:, None] * predict(part)
                advance(1)
    return np.where(log.mask, predicted, 0.0).astype(np.float32)


def _with_propensities(log: LoggedSlates) -> LoggedSlates:
    """The log with the logging policy's log probability of each candidate, less its slate's mean, as a pair feature."""
    if log.logging is None:
        return log
    found = np.where(log.mask, np.log(np.maximum(log.logging, _RAREST)), 0.0)
    found -= np.where(log.mask, found.sum(axis=1, keepdims=True) / log.mask.sum(axis=1, keepdims=True), 0.0)
    pairs = np.concatenate([log.pairs, found[..., None].astype(np.float32)], axis=2)
    return dataclasses.replace(log, pairs=pairs, pair_names=[*log.pair_names, "log_propensity"])


def _of_network(model, log, device) -> Predict:  # type: ignore[no-untyped-def]
    model.eval()

    @torch.no_grad()
    def predict(rows: np.ndarray) -> np.ndarray:
        return model.values(model(*(tensor.to(device) for tensor in slates(log, rows)))).cpu().numpy()

    return predict


def _fit(model, shown, own, val, steps, seed, device, advance) -> None:  # type: ignore[no-untyped-def]
    """In place, on the shown items `own` (n,), to the step of least loss on those of val (v,)."""
    batches = ShownBatches(shown, own, batch_size=_BATCH, seed=seed)
    looked_at = shown.of(val)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=_DECAY)
    best, kept = float("inf"), {}

    def loss(batch):  # type: ignore[no-untyped-def]
        *features, places, actions = (tensor.to(device) for tensor in batch)
        logits = model.placed(model(*features)[:, 0], places)
        return nn.functional.binary_cross_entropy_with_logits(logits, actions)

    for step in range(steps):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = _RATE * (1 - step / steps)
        optimizer.zero_grad()
        loss(batches[step]).backward()
        optimizer.step()
        advance(1)
        if (step + 1) % _LOOK_EVERY == 0 or step + 1 == steps:
            model.eval()
            with torch.no_grad():
                missed = float(loss(looked_at))
            if missed < best:
                best, kept = missed, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(kept)
