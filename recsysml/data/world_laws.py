"""The laws of the simulated world: how likely everything is that a user may do with an item, in closed form.

    attraction  0.02 + 0.9 Phi(s), where s holds a non-monotone taste (a user-specific peak of the match), a gate by the
                hour of the day, a length that suits the hour, quality, freshness, and the session's mood z
    click       examination(position, device) x attraction
    watch       the share watched is Kumaraswamy(a, 2): P(share > x) = (1 - x^a)^2
    like, share logistic, given a click; skip: logistic, given none
    leave       logistic, after each item, given what was done with it and whether there was an ad

No shipped model can write the click law down. Mood is nobody's input, and the logging policy reacts to it as users do,
so it confounds exposure and response. A probability that is a product of examination and attraction adds neither in
logits nor in probits. The match enters through a peak of the user's own, which no single dot product gives, and taste
is seen only through noise. tests/data/test_world.py measures each of these.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, ndtr

from recsysml.data.world_population import DAY, Latent, Population

# a view is long from 18 seconds on, or 90% of a shorter item
LONG_SECONDS, LONG_SHARE = 18.0, 0.9
ACTIONS = ("click", "long_view", "like", "share")


@dataclass(frozen=True)
class Moment:
    """Requests as the world knows them."""

    users: np.ndarray  # (R,)
    times: np.ndarray  # (R,) seconds
    wish: np.ndarray  # (R, TASTE) unit vectors: taste at this time, moved by what the session is about
    mood: np.ndarray  # (R,)
    ad: np.ndarray  # (R,) bool


@dataclass(frozen=True)
class Responses:
    """Probabilities, each (R, M), for M items of each request."""

    click: np.ndarray  # position counted in
    long_view: np.ndarray  # given a click, as are like and share
    like: np.ndarray
    share: np.ndarray
    skip: np.ndarray  # given no click
    leave_after_click: np.ndarray
    leave_after_skip: np.ndarray
    leave_after_pass: np.ndarray  # neither clicked nor skipped
    watch_shape: np.ndarray  # a of the Kumaraswamy law

    @property
    def leave(self) -> np.ndarray:
        """(R, M) of leaving after the item, whatever is done with it."""
        passed = self.skip * self.leave_after_skip + (1 - self.skip) * self.leave_after_pass
        return self.click * self.leave_after_click + (1 - self.click) * passed

    def action(self, name: str) -> np.ndarray:
        """(R, M) of one of ACTIONS, not conditional on a click."""
        return self.click if name == "click" else self.click * getattr(self, name)


def taste_at(latent: Latent, users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(R, TASTE) unit vectors: taste swings slowly, so that what was liked is not liked for ever."""
    swing = np.sin(2 * np.pi * times / latent.period[users] + latent.phase[users])
    moved = latent.taste[users] + 0.4 * swing[:, None] * latent.drift[users]
    return moved / np.sqrt((moved**2).sum(1, keepdims=True))


def examination(positions: np.ndarray, device: np.ndarray) -> np.ndarray:
    """(R, M) chance that an item shown at positions (M,) is looked at on devices (R,)."""
    fall = np.array([0.35, 0.22, 0.12])[device]  # a phone shows the least at once
    return (1 + positions) ** -fall[:, None]


def responses(
    population: Population, latent: Latent, moment: Moment, items: np.ndarray, positions: np.ndarray
) -> Responses:
    """Of items (R, M) shown at positions (M,)."""
    users, mood = moment.users, moment.mood[:, None]
    content = latent.content[items]  # (R, M, K)
    match = np.einsum("rk,rmk->rm", moment.wish, content)
    quality, durations = latent.quality[items], population.durations[items]
    hour = (moment.times % DAY) / 3600
    near_evening = 0.5 + 0.5 * np.cos(2 * np.pi * (hour - latent.evening[users]) / 24)  # (R,)
    gate = (0.5 + near_evening)[:, None]
    taste = 2.0 - 5.0 * (match - latent.peak[users][:, None]) ** 2
    suits = -0.35 * np.abs(np.log(durations) - (2.9 + near_evening)[:, None])
    age = np.maximum(moment.times[:, None] - population.born[items], 0) / DAY
    fresh = 0.5 * np.exp(-age / 10)
    ad = moment.ad[:, None] * latent.aversion[users][:, None]
    strength = -1.2 + gate * taste + suits + 0.35 * quality + fresh + (0.5 + 0.25 * quality) * mood - 0.15 * ad
    attraction = 0.02 + 0.9 * ndtr(strength)
    click = examination(positions, latent.device[users]) * attraction
    shape = np.exp(0.3 + 1.2 * match + 0.3 * quality + 0.2 * mood)
    bar = np.minimum(LONG_SECONDS / durations, LONG_SHARE)
    leave = np.broadcast_to(-2.5 - 0.4 * latent.patience[users][:, None] - 0.3 * mood + 0.5 * ad, click.shape)
    return Responses(
        click=click,
        long_view=(1 - bar**shape) ** 2,
        like=expit(-3.2 + 2.5 * match + 0.5 * quality + 0.4 * mood + 0.7 * latent.generosity[users][:, None]),
        share=expit(-5.0 + 1.5 * match + 0.6 * quality + 0.8 * latent.sociability[users][:, None]),
        skip=expit(0.3 - 1.5 * match - 0.3 * quality),
        leave_after_click=expit(leave - 0.8 - 0.4 * quality),
        leave_after_skip=expit(leave + 0.8),
        leave_after_pass=expit(leave),
        watch_shape=shape,
    )


def watched(shape: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """The share of an item that is watched, by the inverse of its law."""
    return np.asarray((1 - np.sqrt(1 - uniform)) ** (1 / shape))
