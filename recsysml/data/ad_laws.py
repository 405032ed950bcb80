"""The laws of the ad world: what an ad earns and what it costs, in closed form, for every session and every action.

A session is up to `ITEMS` items long. After each of them the user leaves with a hazard h of their own; an item takes
m minutes. An action is no ad, or one of the ads at one of the places, before the item of that place:

    earned   bid x P(click) x P(still there)            the bid and the match of ad and user are seen, the law is not
    lost     the hazard of the item behind the ad is raised, and what follows takes less of the user's time

Both losses are a user's own: small for who is satisfied and well matched, large for who is in a hurry or has seen many
ads. So neither always showing an ad nor showing the ad that earns most is best. Everything depends on what is seen of
a session alone: the best policy can be learnt, and its value is known by enumeration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

ITEMS = 12
# items before an ad of each place
PLACES = (0, 3, 6)
# what is known of a session, before the ads' own columns
SESSION = ("satisfaction", "loyalty", "hurry", "ads_seen", "age", "evening", "phone")


@dataclass(frozen=True)
class Tastes:
    """What differs from world to world, K ads."""

    appeal: np.ndarray  # (K,) of being clicked
    by_age: np.ndarray  # (K,)
    by_evening: np.ndarray  # (K,)
    noise: np.ndarray  # (K,) how much an ad gets in the way


@dataclass(frozen=True)
class Laws:
    """Of R sessions, K ads."""

    bid: np.ndarray  # (R, K) revenue of a click
    click: np.ndarray  # (R, K) given that the user gets to the ad
    leave: np.ndarray  # (R,) hazard after each item
    leave_after_ad: np.ndarray  # (R, K) hazard in its stead at the ad
    minutes: np.ndarray  # (R,) mean of an item
    kept: np.ndarray  # (R, K) share of the minutes an item still takes once there was an ad


def tastes(random: np.random.Generator, ads: int) -> Tastes:
    return Tastes(*(random.normal(0, scale, ads) for scale in (0.3, 0.3, 0.2, 0.3)))


def feature_names(ads: int) -> list[str]:
    """The columns of `sessions`."""
    own = [f"{name}_{ad}" for name in ("log_bid", "match") for ad in range(1, ads + 1)]
    return [*SESSION, *own]


def action_names(ads: int, places: int) -> list[str]:
    """`none`, then every ad at the first place, every ad at the second, and so on."""
    return [
        "none",
        *(f"ad {ad} before item {PLACES[place] + 1}" for place in range(places) for ad in range(1, ads + 1)),
    ]


def sessions(random: np.random.Generator, n: int, ads: int) -> np.ndarray:
    """(n, F) features, of about unit spread."""
    satisfaction, other, hurry, seen, age = random.normal(size=(5, n))
    loyalty = 0.5 * satisfaction + 0.85 * other
    seen = 0.4 * loyalty + 0.9 * seen
    evening = np.cos(2 * np.pi * random.random(n))
    phone = (random.random(n) < 0.6) - 0.6
    bids = 0.5 * random.normal(size=(n, ads))
    match = random.normal(size=(n, ads)) + 0.3 * np.outer(age, np.linspace(-1, 1, ads))
    columns = [satisfaction, loyalty, hurry, seen, age, evening, phone]
    return np.concatenate([np.stack(columns, axis=1), bids, match], axis=1)


def laws(features: np.ndarray, tastes: Tastes) -> Laws:
    """features (R, F) of `sessions`."""
    ads = len(tastes.appeal)
    satisfaction, loyalty, hurry, seen, age, evening, phone = features[:, : len(SESSION)].T
    log_bid, match = features[:, len(SESSION) : -ads], features[:, -ads:]
    appeal = tastes.appeal + tastes.by_age * age[:, None] + tastes.by_evening * evening[:, None]
    click = expit(-1.0 + 1.1 * match + appeal - 0.3 * seen[:, None] - 0.25 * hurry[:, None])
    hazard = -2.9 - 0.4 * satisfaction - 0.3 * loyalty + 0.4 * hurry + 0.3 * phone
    annoyance = 0.8 + tastes.noise + 0.8 * (hurry + seen - satisfaction)[:, None] - 0.6 * match  # (R, K)
    jump = 1.5 * np.logaddexp(0, annoyance)
    return Laws(
        bid=3.5 * np.exp(log_bid),
        click=click,
        leave=expit(hazard),
        leave_after_ad=expit(hazard[:, None] + jump),
        minutes=0.5 * np.exp(0.2 * satisfaction + 0.2 * evening - 0.15 * phone),
        kept=1 - 0.4 * expit(annoyance),
    )


def revenue(laws: Laws, places: int) -> np.ndarray:
    """(R, A) expected revenue of every action: bid x click x (1 - leave)^(items before the ad)."""
    there = (1 - laws.leave)[:, None] ** np.array(PLACES[:places])  # (R, P)
    earned = there[:, :, None] * (laws.bid * laws.click)[:, None, :]  # (R, P, K)
    return np.concatenate([np.zeros((len(there), 1)), earned.reshape(len(there), -1)], axis=1)


def engagement(laws: Laws, places: int) -> np.ndarray:
    """(R, A) expected minutes of every action.

    Sums over the items of minutes x P(still there) are geometric: up to the ad, and behind it, where the first item is
    followed by the ad's own hazard.
    """
    stays = 1 - laws.leave  # (R,)

    def items(count: int) -> np.ndarray:
        return (1 - stays**count) / laws.leave  # (R,) expected number, of at most count

    found = [laws.minutes * items(ITEMS)]
    for before in PLACES[:places]:
        after = (1 - laws.leave_after_ad) * items(ITEMS - before - 1)[:, None]  # (R, K)
        behind = stays[:, None] ** before * laws.kept * (1 + after)
        found += list((laws.minutes[:, None] * (items(before)[:, None] + behind)).T)
    return np.stack(found, axis=1)


def act(random: np.random.Generator, laws: Laws, actions: np.ndarray, places: int) -> tuple[np.ndarray, np.ndarray]:
    """What comes of actions (R,): revenue (R,) and minutes (R,), drawn item by item."""
    rows, ads = laws.click.shape
    each = np.arange(rows)
    place, ad = np.divmod(np.maximum(actions - 1, 0), ads)
    shown = actions > 0
    before = np.where(shown, np.array(PLACES[:places])[place], ITEMS)  # items before the ad
    step = np.arange(ITEMS)
    at_ad, behind = step == before[:, None], step >= before[:, None]  # (R, ITEMS)
    hazard = np.where(at_ad, laws.leave_after_ad[each, ad][:, None], laws.leave[:, None])
    leaves = random.random((rows, ITEMS)) < hazard
    there = (np.cumsum(leaves, axis=1) - leaves) == 0
    mean = laws.minutes[:, None] * np.where(behind, laws.kept[each, ad][:, None], 1.0)
    minutes = (there * mean * random.gamma(4.0, 0.25, (rows, ITEMS))).sum(axis=1)
    clicked = (there & at_ad).any(axis=1) & (random.random(rows) < laws.click[each, ad])
    return np.where(clicked, laws.bid[each, ad], 0.0), minutes


def logging_policy(features: np.ndarray, ads: int, places: int) -> np.ndarray:
    """(R, A) how the log was made: by the bids and the user's satisfaction, and a quarter of the time by chance."""
    log_bid, satisfied = features[:, len(SESSION) : -ads], features[:, :1]
    scores = np.concatenate([0.3 - 0.3 * satisfied, *([1.2 * log_bid + 0.3 * satisfied] * places)], axis=1)
    scores[:, 1:] -= np.log(places * ads)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return 0.75 * weights / weights.sum(axis=1, keepdims=True) + 0.25 / weights.shape[1]
