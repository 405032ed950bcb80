"""A policy deployed in the simulated world: it shows, the world's laws answer, and both are logged.

What is drawn is all that leaves: a learner of this log knows no more than a system knows that logs its own policy.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from recsysml.data.slates import LOGGED, LoggedSlates
from recsysml.data.world_laws import Moment
from recsysml.data.world_truth import Truth, open_truth
from recsysml.schemas.data import WorldConfig


def answered(
    config: WorldConfig, log: LoggedSlates, policy: np.ndarray, random: np.random.Generator, exploration: float = 0.0
) -> LoggedSlates:
    """The log of the same requests, had `policy` (R, N) drawn what stands on top, which is all that is logged.

    exploration: a share of the requests is shown any candidate, and the logged probabilities say so. The requests, and
    what else is known of them, stay those of `log`: what is shown changes what is learnt next, not who comes back.
    """
    shares = np.where(log.mask, policy, 0.0)
    shares /= shares.sum(axis=1, keepdims=True)
    logging = (1 - exploration) * shares + exploration * log.mask / log.mask.sum(axis=1, keepdims=True)
    rows = np.arange(len(log))
    edges = np.cumsum(logging, axis=1)
    shown = (random.random((len(log), 1)) * edges[:, -1:] >= edges).sum(axis=1)
    truth = open_truth(config)
    laws = truth.responses(_moments(truth), log.candidates[rows, shown][:, None])
    luck = random.random((6, len(log)))
    done = {"click": luck[0] < laws.click[:, 0]}
    for place, name in enumerate(("long_view", "like", "share"), 1):  # given a click
        done[name] = done["click"] & (luck[place] < getattr(laws, name)[:, 0])
    done["skip"] = ~done["click"] & (luck[4] < laws.skip[:, 0])
    passed = np.where(done["skip"], laws.leave_after_skip[:, 0], laws.leave_after_pass[:, 0])
    done["leave"] = luck[5] < np.where(done["click"], laws.leave_after_click[:, 0], passed)
    return dataclasses.replace(
        top_alone(log), shown=shown, propensity=logging[rows, shown], propensity_source=LOGGED, logging=logging,
        actions=np.stack([done[task] for task in log.tasks], axis=1).astype(np.float32),
    )  # fmt: skip


def top_alone(log: LoggedSlates) -> LoggedSlates:
    """The log without what stood below the top."""
    return dataclasses.replace(log, slate=None, slate_propensity=None, slate_actions=None)


def _moments(truth: Truth) -> Moment:
    """The moments of all requests, in order of time, as a log has them."""
    parts = [behind.moment for behind in truth]
    joined = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(Moment)
    }
    order = np.argsort(joined["times"], kind="stable")
    return Moment(**{name: values[order] for name, values in joined.items()})
