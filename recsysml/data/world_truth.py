"""The truth of the simulated world. For evals and tests: a model, or what feeds one, never imports this."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from recsysml.data.world_laws import ACTIONS, Moment, Responses, responses
from recsysml.data.world_population import Latent, Population, make
from recsysml.data.world_sessions import GO_ON, REQUESTS, SLATE, Behind, Impressions, n_slices, simulate
from recsysml.schemas.data import WorldConfig


@dataclass(frozen=True)
class Truth:
    """Probabilities and values behind the world of a config; slices as `World.slice` numbers them."""

    population: Population
    latent: Latent
    seed: int
    events: int

    def __len__(self) -> int:
        return n_slices(self.events)

    def behind(self, index: int) -> Behind:
        """What is behind the requests of a slice: logging probabilities, mood, and all laws on the slate."""
        return simulate(self.population, self.latent, self.seed, self.events, index)[2]

    def __iter__(self) -> Iterator[Behind]:
        return (self.behind(index) for index in range(len(self)))

    def responses(self, moment: Moment, items: np.ndarray, position: int = 0) -> Responses:
        """All laws for any items (R, M), each as if it alone stood at `position`."""
        return responses(self.population, self.latent, moment, items, np.array([position]))

    def affinity(self, users: np.ndarray, items: np.ndarray, times: np.ndarray, action: str = "click") -> np.ndarray:
        """(R, M) probability of an action at the top of a slate, in a session without intent, mood or ad."""
        from recsysml.data.world_laws import taste_at

        none = np.zeros(len(users))
        moment = Moment(users, times, taste_at(self.latent, users, times), none, none.astype(bool))
        return self.responses(moment, items).action(action)


@dataclass(frozen=True)
class Outcome:
    """What slates truly bring, one a request."""

    value: np.ndarray  # (R,) expected reward of the slate
    stays: np.ndarray  # (R,) probability that all of it is seen and the user is still there
    session: np.ndarray  # (R,) expected reward of the slate and of the requests that may follow it


def open_truth(config: WorldConfig) -> Truth:
    """The truth of the world of a config."""
    return Truth(*make(config.users, config.items, config.seed), seed=config.seed, events=config.events)


def p_true(impressions: Impressions, behind: Behind) -> dict[str, np.ndarray]:
    """(n,) probability of each action of each impression, as it was drawn: at its position, in its mood.

    click; long_view, like and share not conditional on it; skip; leave, given what was done with the item.
    """
    at = (impressions.requests, impressions.positions)
    found = {name: behind.slate.action(name)[at] for name in ACTIONS}
    found["skip"] = ((1 - behind.slate.click) * behind.slate.skip)[at]
    laws = behind.slate
    found["leave"] = np.where(
        impressions.click,
        laws.leave_after_click[at],
        np.where(impressions.skip, laws.leave_after_skip[at], laws.leave_after_pass[at]),
    )
    return found


def reward(laws: Responses, weights: Mapping[str, float]) -> np.ndarray:
    """(R, M) expected reward of each item: sum over actions of weight x probability. skip and leave may be weighted."""
    total = np.zeros_like(laws.click)
    for name, weight in weights.items():
        if name in ACTIONS:
            total += weight * laws.action(name)
        elif name == "skip":
            total += weight * (1 - laws.click) * laws.skip
        elif name == "leave":
            total += weight * laws.leave
        else:
            raise ValueError(f"{name} is no action: it is one of {', '.join((*ACTIONS, 'skip', 'leave'))}")
    return total


def top_value(policy: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """(R,) true value of a policy that shows one item: sum over all candidates of its probability x reward (R, M)."""
    assert policy.shape == rewards.shape
    return np.asarray((policy * rewards).sum(1))


def top_chances(config: WorldConfig, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Action -> (R, N) true probability for each candidate on top, rows and columns as `world.load_slates(config)` has
    them.

    At the moment of the request, in the session's mood: what the log's actions are draws of. Of places that hold no
    candidate it is what would be done with that item.
    """
    truth = open_truth(config)
    times: list[np.ndarray] = []
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for index in range(len(truth)):
        requests, _, behind = simulate(truth.population, truth.latent, truth.seed, truth.events, index)
        laws = truth.responses(behind.moment, requests.candidates)
        times.append(requests.times)
        for name, parts in found.items():
            parts.append(reward(laws, {name: 1.0}))
    order = np.argsort(np.concatenate(times), kind="stable")
    return {name: np.concatenate(parts)[order] for name, parts in found.items()}


def top_rewards(config: WorldConfig, weights: Mapping[str, float]) -> np.ndarray:
    """(R, N) true expected reward of each candidate on top: what `top_chances` come to."""
    chances = top_chances(config, weights)
    return np.asarray(sum(weight * chances[name] for name, weight in weights.items()))


def slate_value(laws: Responses, weights: Mapping[str, float]) -> np.ndarray:
    """(R,) expected reward of whole slates, whose laws are given in their order: sum_k P(still there at k) reward_k."""
    stays = np.cumprod(1 - laws.leave, axis=1)
    there = np.concatenate([np.ones((len(stays), 1)), stays[:, :-1]], axis=1)
    return np.asarray((there * reward(laws, weights)).sum(1))


def moments_of(truth: Truth, ids: np.ndarray) -> Moment:
    """The moments of requests (R,) by their ids, which rise."""
    parts = []
    for index in np.unique(ids >> 32):
        rows = ids[ids >> 32 == index] & 0xFFFFFFFF
        moment = truth.behind(int(index)).moment
        parts.append([getattr(moment, field.name)[rows] for field in dataclasses.fields(Moment)])
    return Moment(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def outcome(truth: Truth, moment: Moment, items: np.ndarray, weights: Mapping[str, float]) -> Outcome:
    """What slates of items (R, L), top first, truly bring at these moments, places and leaving counted in."""
    laws = responses(truth.population, truth.latent, moment, items, np.arange(items.shape[1]))
    value, stays = slate_value(laws, weights), (1 - laws.leave).prod(axis=1)
    # a session goes on to a request like the mean one, REQUESTS at most
    more = float((GO_ON * stays.mean()) ** np.arange(REQUESTS - 1) @ np.full(REQUESTS - 1, value.mean()))
    return Outcome(value, stays, value + GO_ON * stays * more)


def policy_value(
    truth: Truth, moment: Moment, items: np.ndarray, scores: np.ndarray, weights: Mapping[str, float]
) -> np.ndarray:
    """(R,) true value of the Plackett-Luce policy of `scores` (R, M) over all orders of items (R, M), by enumeration.

    M! orders: M up to 7. The sum of their probabilities is 1.
    """
    if items.shape[1] > 7:
        raise ValueError(f"{items.shape[1]} items have too many orders to enumerate: give at most 7")
    exact = np.exp(scores - scores.max(1, keepdims=True))
    value = np.zeros(len(items))
    for order in itertools.permutations(range(items.shape[1])):
        chosen = exact[:, order]
        left = np.cumsum(chosen[:, ::-1], axis=1)[:, ::-1]
        laws = responses(truth.population, truth.latent, moment, items[:, order], np.arange(len(order)))
        value += (chosen / left).prod(1) * slate_value(laws, weights)
    return value


__all__ = [
    "SLATE",
    "Outcome",
    "Truth",
    "moments_of",
    "open_truth",
    "outcome",
    "p_true",
    "policy_value",
    "reward",
    "slate_value",
    "top_chances",
    "top_rewards",
    "top_value",
]
