"""Sessions of the simulated world, a slice of time at a time: slates drawn by a logging policy, and what users do.

A request has `CANDIDATES` items, half by popularity and freshness, half from topics that the policy believes the user
likes. The policy draws an ordered slate of `SLATE` from them, Plackett-Luce over its scores, and logs the probability
of each draw given those before it. The user goes down the slate until something makes them leave.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsysml.data.world_laws import (
    LONG_SECONDS,
    LONG_SHARE,
    Moment,
    Responses,
    responses,
    taste_at,
    watched,
)
from recsysml.data.world_population import DAY, DAYS, Latent, Population

CANDIDATES, SLATE, REQUESTS = 40, 8, 6
# events of one slice: what is held in memory at once
SLICE = 50_000
# of going on to another request after a slate that was looked at to its end
GO_ON = 0.8
# a session's mean number of events, measured: only how many sessions are drawn depends on it
_SESSION = 9.0


@dataclass(frozen=True)
class Requests:
    """What the logging policy was asked and what it chose; R in order of time."""

    ids: np.ndarray  # (R,) int64, unique in the world
    sessions: np.ndarray  # (R,) int64, unique in the world
    users: np.ndarray  # (R,) int64
    times: np.ndarray  # (R,) float64 seconds
    candidates: np.ndarray  # (R, CANDIDATES) int64 items
    offered: np.ndarray  # (R, CANDIDATES) bool; False: no candidate, as it is there twice or was shown before
    slate: np.ndarray  # (R, SLATE) int64 columns of candidates, top first
    propensities: np.ndarray  # (R, SLATE) of each draw given those above it; its first column is that of a top place
    shown: np.ndarray  # (R,) int64 how far down the slate the user came
    ad_bid: np.ndarray  # (R,) float64 revenue of a click on the ad
    ad_propensity: np.ndarray  # (R,) of showing it
    ad_shown: np.ndarray  # (R,) bool, before the slate
    ad_click: np.ndarray  # (R,) bool


@dataclass(frozen=True)
class Impressions:
    """Items shown and what was done with them; n in order of time."""

    requests: np.ndarray  # (n,) int64 rows of Requests
    positions: np.ndarray  # (n,) int64 from 0
    users: np.ndarray  # (n,) int64
    items: np.ndarray  # (n,) int64
    times: np.ndarray  # (n,) float64 seconds
    click: np.ndarray  # (n,) bool, as are the next five
    long_view: np.ndarray  # like and share as well only after a click
    like: np.ndarray
    share: np.ndarray
    skip: np.ndarray  # only without a click
    leave: np.ndarray
    watch_seconds: np.ndarray  # (n,) float64


@dataclass(frozen=True)
class Behind:
    """The truth of a slice, rows as in its Requests."""

    moment: Moment
    logging: np.ndarray  # (R, CANDIDATES) the policy's probabilities of the top place; 0 where not offered
    slate: Responses  # (R, SLATE)
    ad_click: np.ndarray  # (R,) probability, given that it is shown


def n_slices(events: int) -> int:
    """Slices of the world's time: at least a slice a day, as an item is shown from the first slice after its birth."""
    return max(DAYS, -(-events // SLICE))


def simulate(
    population: Population, latent: Latent, seed: int, events: int, index: int
) -> tuple[Requests, Impressions, Behind]:
    """Slice `index` of a world of so many events: exactly its share of them. Depends on nothing but the arguments."""
    slices = n_slices(events)
    quota = events * (index + 1) // slices - events * index // slices
    sessions = int(quota / _SESSION * 1.3) + 20
    while True:
        random = np.random.default_rng([seed, 1, index])
        rounds = _sessions(population, latent, random, sessions, DAY * DAYS * index / slices, DAY * DAYS / slices)
        if sum(int(part["shown"].sum()) for part in rounds) >= quota:
            return _assemble(rounds, population, quota, index)
        sessions *= 2


def _sessions(
    population: Population, latent: Latent, random: np.random.Generator, n: int, start: float, length: float
) -> list[dict[str, Any]]:
    """n sessions that begin in this time, in no order; one table a round of requests."""
    users = random.choice(len(latent.activity), n, p=latent.activity)
    times = start + length * _daytime(random.random(n), start, length)
    mood = random.normal(size=n)
    sensed = mood + random.normal(size=n)  # what the policy makes of it
    liked = 4 * np.einsum("uk,gk->ug", taste_at(latent, users, times), latent.topics)
    intent = latent.topics[(liked + random.gumbel(size=liked.shape)).argmax(1)]  # (n, K)
    offer = _Offer(population, latent, start)
    seen = np.full((n, SLATE * REQUESTS), -1)
    live = np.arange(n)
    rounds: list[dict[str, Any]] = []
    for turn in range(REQUESTS):
        u, t = users[live], times[live]
        wish = taste_at(latent, u, t) + 0.9 * intent[live]
        wish /= np.sqrt((wish**2).sum(1, keepdims=True))
        guess = latent.believed[u] + (0.4 * intent[live] if turn else 0)  # from what was clicked before
        candidates, offered = offer.draw(random, guess, seen[live, : SLATE * turn])
        scores = 2.5 * np.einsum("rk,rnk->rn", guess, latent.content[candidates])
        scores += 0.3 * np.log(latent.popularity[candidates])
        scores += 0.4 * sensed[live][:, None] * latent.quality[candidates]
        logging, slate, propensities = _draw(random, np.where(offered, scores, -np.inf))
        bid = random.lognormal(0, 0.6, len(live))
        ad_propensity = np.clip(0.2 + 0.5 * np.log(bid), 0.1, 0.9)
        ad = random.random(len(live)) < ad_propensity
        ad_click = 0.02 + 0.1 / (1 + latent.aversion[u])
        moment = Moment(u, t, wish, mood[live], ad)
        items = np.take_along_axis(candidates, slate, axis=1)
        laws = responses(population, latent, moment, items, np.arange(SLATE))
        done = _act(random, laws, population.durations[items], propensities > 0)
        rows = {
            "sessions": live, "users": u, "times": t, "candidates": candidates, "offered": offered, "slate": slate,
            "propensities": propensities, "ad_bid": bid, "ad_propensity": ad_propensity, "ad_shown": ad,
            "ad_click": ad & (random.random(len(live)) < ad_click), "p_ad_click": ad_click, "logging": logging,
            "moment": moment, "laws": laws, "items": items, **done,
        }  # fmt: skip
        rounds.append(rows)
        seen[live, SLATE * turn : SLATE * (turn + 1)] = items
        clicked = (done["click"] & done["visible"])[..., None] * latent.content[items]  # (r, SLATE, K)
        moved = 0.5 * intent[live] + clicked.sum(1) / np.maximum(1, np.abs(clicked).any(-1).sum(1))[:, None]
        intent[live] = moved / np.sqrt((moved**2).sum(1, keepdims=True))
        times[live] = t + done["seconds"].sum(1) + 2
        stays = ~(done["leave"] & done["visible"]).any(1) & (random.random(len(live)) < GO_ON)
        live = live[stays]
    return rounds


def _daytime(uniform: np.ndarray, start: float, length: float) -> np.ndarray:
    """Where in a slice of time, 0 to 1, sessions begin: most towards the evening."""
    grid = np.linspace(0, 1, 97)
    hour = ((start + length * grid) % DAY) / 3600
    rate = 1 + 0.8 * np.cos(2 * np.pi * (hour - 20) / 24)
    total = np.concatenate([[0], np.cumsum((rate[1:] + rate[:-1]) / 2)])
    return np.interp(uniform, total / total[-1], grid)


class _Offer:
    """Draws candidates among the items that are born by now."""

    def __init__(self, population: Population, latent: Latent, now: float) -> None:
        born = population.born <= now
        age = np.maximum(now - population.born, 0) / DAY
        weights = np.where(born, latent.popularity * (0.3 + np.exp(-age / 15)), 0.0)
        self.topics = latent.topics
        self.order = np.argsort(latent.topic, kind="stable")
        self.cumulative = np.cumsum(weights[self.order])
        ends = np.cumsum(np.bincount(latent.topic, minlength=len(latent.topics)))
        bounds = np.concatenate([[0.0], self.cumulative])[np.concatenate([[0], ends])]
        self.lows, self.highs = bounds[:-1], bounds[1:]
        self.last = int(np.flatnonzero(weights[self.order])[-1])

    def draw(self, random: np.random.Generator, guess: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Items (R, CANDIDATES), and which of them count: each once, and none of `seen` (R, S)."""
        rows, half = len(guess), CANDIDATES // 2
        liked = np.exp(4 * np.einsum("rk,gk->rg", guess, self.topics)) * (self.highs > self.lows)
        shares = np.cumsum(liked, axis=1)
        picked = random.random((rows, half)) * shares[:, -1:]
        topic = (picked[:, :, None] >= shares[:, None, :]).sum(-1)  # (R, half)
        topic = np.minimum(topic, len(self.lows) - 1)
        inside = self.lows[topic] + random.random((rows, half)) * (self.highs - self.lows)[topic]
        anywhere = random.random((rows, CANDIDATES - half)) * self.cumulative[-1]
        places = np.searchsorted(self.cumulative, np.concatenate([inside, anywhere], axis=1), side="right")
        items = self.order[np.minimum(places, self.last)]
        ranked = np.argsort(items, axis=1, kind="stable")
        ordered = np.take_along_axis(items, ranked, axis=1)
        first = np.ones_like(ordered, dtype=bool)
        first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        offered = np.empty_like(first)
        np.put_along_axis(offered, ranked, first, axis=1)
        if seen.shape[1]:
            offered &= ~(items[:, :, None] == seen[:, None, :]).any(-1)
        return items, offered


def _draw(random: np.random.Generator, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of the top place (R, N), a Plackett-Luce slate (R, SLATE), and each draw's conditional probability.

    Gumbel noise added to the scores and sorted is such a draw (Yellott 1977). A draw among fewer than SLATE ends in
    places of probability 0.
    """
    weights = np.exp(scores - scores.max(1, keepdims=True))
    slate = np.argsort(-(scores + random.gumbel(size=scores.shape)), axis=1, kind="stable")[:, :SLATE]
    chosen = np.take_along_axis(weights, slate, axis=1)
    # what is left before each draw, summed from the end: a difference of sums would lose the small ones
    others = weights.copy()
    np.put_along_axis(others, slate, 0.0, axis=1)
    left = others.sum(1, keepdims=True) + np.cumsum(chosen[:, ::-1], axis=1)[:, ::-1]
    propensities = np.divide(chosen, left, out=np.zeros_like(chosen), where=chosen > 0)
    return weights / weights.sum(1, keepdims=True), slate, propensities


def _act(
    random: np.random.Generator, laws: Responses, durations: np.ndarray, real: np.ndarray
) -> dict[str, np.ndarray]:
    """What a user does with each place of the slate; `visible` are those that they came to."""
    luck = random.random((6, *laws.click.shape))
    click = luck[0] < laws.click
    share_watched = watched(laws.watch_shape, luck[1])
    skip = ~click & (luck[4] < laws.skip)
    chance = np.where(click, laws.leave_after_click, np.where(skip, laws.leave_after_skip, laws.leave_after_pass))
    leave = luck[5] < chance
    left_before = np.cumsum(leave, axis=1) - leave
    visible = real & (left_before == 0)
    watch = np.where(click, share_watched * durations, 0.0)
    seconds = visible * np.where(click, watch + 1, np.where(skip, 1.5, 3.0))
    return {
        "click": click,
        "long_view": click & (share_watched > np.minimum(LONG_SECONDS / durations, LONG_SHARE)),
        "like": click & (luck[2] < laws.like),
        "share": click & (luck[3] < laws.share),
        "skip": skip,
        "leave": leave,
        "watch_seconds": watch,
        "seconds": seconds,
        "began": np.cumsum(seconds, axis=1) - seconds,
        "visible": visible,
        "shown": visible.sum(1),
    }


def _assemble(
    rounds: list[dict[str, Any]], population: Population, quota: int, index: int
) -> tuple[Requests, Impressions, Behind]:
    """The first sessions that make up the quota, the last of them cut off; everything in order of time."""

    def column(name: str) -> np.ndarray:
        return np.concatenate([part[name] for part in rounds])

    sessions, times, visible = column("sessions"), column("times"), column("visible")
    events = np.bincount(sessions, weights=visible.sum(1)).astype(np.int64)
    through = np.cumsum(events)
    last = int(np.searchsorted(through, quota))  # the session in which the quota is reached
    extra = through[last] - quota
    mine = np.flatnonzero(sessions == last)
    for row in mine[np.argsort(-times[mine])]:  # its events from the end; at most REQUESTS rows
        cut = min(extra, int(visible[row].sum()))
        visible[row, np.flatnonzero(visible[row])[::-1][:cut]] = False
        extra -= cut
    kept = np.flatnonzero((sessions <= last) & visible.any(1))
    kept = kept[np.argsort(times[kept], kind="stable")]

    base = index << 32
    requests = Requests(
        ids=base + np.arange(len(kept)),
        sessions=base + sessions[kept],
        shown=visible[kept].sum(1),
        **{
            name: column(name)[kept]
            for name in (
                "users", "times", "candidates", "offered", "slate", "propensities",
                "ad_bid", "ad_propensity", "ad_shown", "ad_click",
            )
        },
    )  # fmt: skip
    rows, positions = np.nonzero(visible[kept])
    at = requests.times[rows] + column("began")[kept][rows, positions]
    order = np.argsort(at, kind="stable")
    rows, positions = rows[order], positions[order]
    flat = {
        name: column(name)[kept][rows, positions]
        for name in ("items", "click", "long_view", "like", "share", "skip", "leave", "watch_seconds")
    }
    impressions = Impressions(requests=rows, positions=positions, users=requests.users[rows], times=at[order], **flat)
    behind = Behind(
        moment=_rows(Moment, [part["moment"] for part in rounds], kept),
        logging=column("logging")[kept],
        slate=_rows(Responses, [part["laws"] for part in rounds], kept),
        ad_click=column("p_ad_click")[kept],
    )
    return requests, impressions, behind


def _rows(kind: Any, parts: list[Any], kept: np.ndarray) -> Any:
    """Dataclasses of arrays, joined, and of them these rows."""
    names = [field.name for field in dataclasses.fields(kind)]
    return kind(**{name: np.concatenate([getattr(part, name) for part in parts])[kept] for name in names})
