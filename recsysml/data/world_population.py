"""Who lives in the simulated world: users, items and friendships, what can be seen of them and what cannot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsysml.data.features import Features

DAY = 86_400.0
# events happen between day 0 and this
DAYS = 28
# dimensions of taste and of what an item offers
TASTE = 12
# dimensions of the content vectors, which show it through a nonlinearity and noise
CONTENT = 32
_COMMUNITIES = 16
_TOPICS = [
    "garden", "cooking", "football", "cinema", "guitar", "travel", "chess", "physics", "history", "painting",
    "climbing", "fashion", "poetry", "robots", "sailing", "astronomy", "baking", "cycling", "theatre",
    "pottery", "running", "birds", "jazz", "photography",
]  # fmt: skip
_WORDS = [
    "quiet", "bright", "old", "small", "wild", "simple", "secret", "golden", "first", "slow", "northern",
    "little", "broken", "easy", "modern", "double", "hidden", "green", "early", "last", "honest", "paper",
    "winter", "open",
]  # fmt: skip
_COUNTRIES = ("north", "south", "east", "west", "islands")
_LANGUAGES = ("a", "b", "c", "d")
DEVICES = ("phone", "tablet", "television")


@dataclass(frozen=True)
class Population:
    """What anyone can see."""

    user_features: Features  # U rows
    item_features: Features  # I rows
    item_titles: list[str]  # I
    born: np.ndarray  # (I,) float64 seconds; an item is shown from then on
    durations: np.ndarray  # (I,) float64 seconds it takes to watch an item to its end
    friends: np.ndarray  # (E, 2) int64 undirected, each once, the smaller first


@dataclass(frozen=True)
class Latent:
    """What only the world knows. Nothing of it belongs in the input of a model."""

    taste: np.ndarray  # (U, TASTE) unit vectors
    drift: np.ndarray  # (U, TASTE) unit vectors: where taste swings to
    period: np.ndarray  # (U,) seconds of one swing
    phase: np.ndarray  # (U,) radians of the swing at time 0
    believed: np.ndarray  # (U, TASTE) the logging policy's wrong idea of taste
    peak: np.ndarray  # (U,) the match a user likes best: more of the same bores
    evening: np.ndarray  # (U,) hour at which a user cares most for a match
    patience: np.ndarray  # (U,)
    generosity: np.ndarray  # (U,) inclination to like
    sociability: np.ndarray  # (U,) inclination to have friends and to share
    aversion: np.ndarray  # (U,) to ads
    activity: np.ndarray  # (U,) share of all sessions, sums to 1
    device: np.ndarray  # (U,) index into DEVICES
    content: np.ndarray  # (I, TASTE) unit vectors
    quality: np.ndarray  # (I,)
    topic: np.ndarray  # (I,)
    topics: np.ndarray  # (G, TASTE) unit vectors
    popularity: np.ndarray  # (I,) positive weight in what is offered


def make(users: int, items: int, seed: int) -> tuple[Population, Latent]:
    """The population of a seed: what can be seen, and what cannot."""
    random = np.random.default_rng([seed, 0])
    topics = _unit(random.normal(size=(len(_TOPICS), TASTE)))
    communities = _unit(random.dirichlet(np.full(len(_TOPICS), 0.15), _COMMUNITIES) @ topics)
    community = random.choice(_COMMUNITIES, users, p=random.dirichlet(np.full(_COMMUNITIES, 3.0)))
    taste = _unit(communities[community] + 0.25 * random.normal(size=(users, TASTE)))
    shares = 1 / (1 + np.arange(len(_TOPICS))) ** 0.7
    topic = random.choice(len(_TOPICS), items, p=shares / shares.sum())
    quality = random.normal(size=items)
    activity = random.lognormal(0.0, 0.9, users)
    device = random.choice(len(DEVICES), users, p=[0.6, 0.25, 0.15])
    latent = Latent(
        taste=taste,
        drift=_unit(random.normal(size=(users, TASTE))),
        period=DAY * random.uniform(20, 90, users),
        phase=random.uniform(0, 2 * np.pi, users),
        believed=_unit(taste + 0.25 * random.normal(size=(users, TASTE))),
        peak=random.uniform(0.4, 0.9, users),
        evening=random.normal(20, 2.5, users) % 24,
        patience=random.normal(size=users),
        generosity=random.normal(size=users),
        sociability=random.normal(size=users),
        aversion=random.gamma(1.5, 0.6, users),
        activity=activity / activity.sum(),
        device=device,
        content=_unit(topics[topic] + 0.22 * random.normal(size=(items, TASTE))),
        quality=quality,
        topic=topic,
        topics=topics,
        popularity=np.exp(0.6 * quality + 0.9 * random.normal(size=items)),
    )
    born = DAY * random.uniform(-60, 0.8 * DAYS, items)
    durations = np.clip(np.exp(3.4 + 0.3 * topics[topic, 0] + 0.7 * random.normal(size=items)), 5, 240)
    population = Population(
        _user_features(latent, community, random),
        _item_features(latent, born, durations, random),
        _titles(topic, random),
        born,
        durations,
        _friends(latent, community, random),
    )
    return population, latent


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.sqrt((vectors**2).sum(-1, keepdims=True))


def _titles(topic: np.ndarray, random: np.random.Generator) -> list[str]:
    words = random.integers(len(_WORDS), size=len(topic)).tolist()
    pairs = zip(words, topic.tolist(), strict=True)
    return [f"{_WORDS[word]} {_TOPICS[of]} {number}" for number, (word, of) in enumerate(pairs)]


def _user_features(latent: Latent, community: np.ndarray, random: np.random.Generator) -> Features:
    """Age and tenure, country and device, and up to three interests that a user has named; half name none."""
    n = len(community)
    age = 16 + 60 / (1 + np.exp(-3 * latent.taste[:, 0] - 0.8 * random.normal(size=n)))
    tenure = random.exponential(400, n)
    country = (community + random.integers(0, 2, n)) % len(_COUNTRIES)
    likes = np.einsum("uk,gk->ug", latent.taste, latent.topics) + 0.15 * random.gumbel(size=(n, len(_TOPICS)))
    named = np.argsort(-likes, axis=1)[:, :3]
    told = np.where(random.random(n) < 0.5, 0, random.integers(1, 4, n))
    offsets, tags = _ragged(named, told)
    return Features(
        np.stack([age, tenure], axis=1).astype(np.float32),
        np.stack([country, latent.device], axis=1) + 1,
        offsets,
        tags,
        np.zeros((n, 0), np.float32),
        ["age", "tenure_days"],
        ["country", "device"],
        [list(_COUNTRIES), list(DEVICES)],
        _TOPICS,
    )


def _item_features(latent: Latent, born: np.ndarray, durations: np.ndarray, random: np.random.Generator) -> Features:
    """Length, day of birth and what reviewers thought, maker and language, words, and a content vector."""
    n = len(born)
    reviews = latent.quality + 0.8 * random.normal(size=n)
    makers = max(2, n // 20)
    maker = (latent.topic * makers // len(_TOPICS) + random.geometric(0.3, n) - 1) % makers
    language = random.choice(len(_LANGUAGES), n, p=[0.55, 0.25, 0.15, 0.05])
    # the topic's own word, usually; another topic's, perhaps; one or two that say little
    other, plain = random.integers(len(_TOPICS), size=(n, 1)), random.integers(len(_WORDS), size=(n, 2))
    words = np.concatenate([latent.topic[:, None], other, len(_TOPICS) + plain], axis=1)
    shown = random.random((n, 4)) < [0.85, 0.25, 1.0, 0.5]
    order = np.argsort(~shown, axis=1, kind="stable")
    offsets, tags = _ragged(np.take_along_axis(words, order, axis=1), shown.sum(1))
    seen_through = random.normal(size=(TASTE, CONTENT))
    vectors = np.tanh(1.5 * np.einsum("ik,ke->ie", latent.content, seen_through))
    vectors += 0.5 * random.normal(size=(n, CONTENT))
    return Features(
        np.stack([np.log(durations), born / DAY, reviews], axis=1).astype(np.float32),
        np.stack([maker, language], axis=1) + 1,
        offsets,
        tags,
        vectors.astype(np.float32),
        ["log_duration", "born_day", "reviews"],
        ["maker", "language"],
        [[f"maker {i}" for i in range(makers)], list(_LANGUAGES)],
        [*_TOPICS, *_WORDS],
    )


def _ragged(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (N + 1,) and the first counts[n] of each row of values (N, C), each once a row."""
    kept = np.arange(values.shape[1]) < counts[:, None]
    rows = np.nonzero(kept)[0]
    width = int(values.max(initial=0)) + 1
    keys = np.unique(rows * width + values[kept])
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum(np.bincount(keys // width, minlength=len(values)), out=offsets[1:])
    return offsets, keys % width


def _friends(latent: Latent, community: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Friends are met in one's community or anywhere, kept the likelier the closer the tastes, and then meet theirs."""
    n = len(community)
    meets = random.poisson(12 * np.exp(0.5 * latent.sociability))
    left = np.repeat(np.arange(n), meets)
    neighbours = np.argsort(community, kind="stable")  # users of one community stand side by side
    sizes = np.bincount(community, minlength=_COMMUNITIES)
    starts = np.cumsum(sizes) - sizes
    own = community[left]
    near = neighbours[starts[own] + (random.random(len(left)) * sizes[own]).astype(np.int64)]
    right = np.where(random.random(len(left)) < 0.6, near, random.integers(n, size=len(left)))
    pairs = _kept(latent, left, right, random)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.argsort(both[:, 0], kind="stable")]
    degrees = np.bincount(both[:, 0], minlength=n)
    ends = np.cumsum(degrees)
    if len(both):  # someone, through a friend of theirs, meets one of the friend's friends
        start = random.integers(len(both), size=4 * len(pairs))
        middle = both[start, 1]
        third = both[ends[middle] - 1 - (random.random(len(start)) * degrees[middle]).astype(np.int64), 1]
        pairs = np.concatenate([pairs, _kept(latent, both[start, 0], third, random)])
    return np.unique(pairs, axis=0)


def _kept(latent: Latent, left: np.ndarray, right: np.ndarray, random: np.random.Generator) -> np.ndarray:
    alike = np.einsum("nk,nk->n", latent.taste[left], latent.taste[right])
    kept = (random.random(len(left)) < 1 / (1 + np.exp(2.5 - 5 * alike))) & (left != right)
    pairs = np.stack([left, right], axis=1)[kept]
    pairs.sort(axis=1)
    return pairs
