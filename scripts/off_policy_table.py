"""How far off-policy estimates are from the truth, and how often their intervals hold it, on the simulated world.

    python scripts/off_policy_table.py [--logs 400] [--requests 1600] [--seed 1]
    python scripts/off_policy_table.py --worlds 8 [--logs 400] [--requests 1600] [--seed 1]

Requests of a world are drawn with replacement; for each the logging policy draws an item anew, and the world's laws
what is done with it. A policy's true value is its mean over all requests of the world, enumerated. Policies are softmax
over the values of a linear model of other requests' logs, at falling temperatures: less and less like the log. The
reward model is fitted anew to each log. With --worlds it is how often intervals hold the truth in several worlds, from
--seed on, of the logs with an ESS/n of at least 10%, without a reward model to be fitted; in brackets that of Student's
t about the estimate. docs/off_policy.md shows what this prints.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from recsysml.data.slates import LoggedSlates
from recsysml.data.world import load_slates
from recsysml.data.world_laws import ACTIONS
from recsysml.data.world_truth import top_chances
from recsysml.metrics import policy as metrics
from recsysml.ranking.reward_model import cross_fit
from recsysml.schemas.data import WorldConfig

TEMPERATURES = (1.0, 0.5, 0.3, 0.2, 0.1)
# DR with the world's own expected rewards: what no reward model can do better
FLOOR = "dr, true rewards"
NAMES = (*metrics.ESTIMATORS, FLOOR)


def softmax(scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(R, N), 0 outside of mask."""
    kept = np.where(mask, scores, -np.inf)
    exact = np.exp(kept - kept.max(axis=1, keepdims=True))
    return np.asarray(exact / exact.sum(axis=1, keepdims=True))


def values(log: LoggedSlates, chosen: np.ndarray) -> np.ndarray:
    """(R, N) of a ridge regression on the logged rewards of `chosen` requests."""
    features = log.features(chosen)[np.arange(len(chosen)), log.shown[chosen]]
    model = make_pipeline(StandardScaler(), Ridge(alpha=100.0)).fit(features, log.rewards()[chosen])
    parts = np.array_split(np.arange(len(log)), 20)
    found = [log.features(part) for part in parts]
    return np.concatenate([model.predict(x.reshape(-1, x.shape[2])).reshape(x.shape[:2]) for x in found])


def redrawn(
    log: LoggedSlates, p: Mapping[str, np.ndarray], random: np.random.Generator
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A function that draws for requests (n,) what is shown (n,) and its reward (n,)."""
    assert log.logging is not None
    edges = np.cumsum(log.logging, axis=1)

    def draw(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shown = (random.random((len(rows), 1)) * edges[rows, -1:] >= edges[rows]).sum(axis=1)
        click = random.random(len(rows)) < p["click"][rows, shown]
        reward = log.weights["click"] * click
        for name in [name for name in log.weights if name != "click"]:  # only after a click
            share = p[name][rows, shown] / np.maximum(p["click"][rows, shown], 1e-12)
            reward = reward + log.weights[name] * (click & (random.random(len(rows)) < share))
        return shown, reward

    return draw


@dataclass(frozen=True)
class Prepared:
    """A world, its policies and their true values by temperature, and what draws logs of it."""

    log: LoggedSlates
    worth: np.ndarray  # (R, N) true expected reward of each candidate
    pool: np.ndarray  # (P,) requests that logs are drawn from
    policies: dict[float, np.ndarray]  # (R, N)
    truth: dict[float, float]
    random: np.random.Generator
    draw: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def prepared(seed: int) -> Prepared:
    config = WorldConfig(seed=seed)
    log, p = load_slates(config), top_chances(config, ACTIONS)
    random = np.random.default_rng([seed, 7])
    dealt = random.permutation(len(log))
    guess, pool = values(log, dealt[: len(log) // 4]), dealt[len(log) // 4 :]
    worth = np.asarray(sum(weight * p[name] for name, weight in log.weights.items()))
    policies = {temperature: softmax(guess / temperature, log.mask) for temperature in TEMPERATURES}
    truth = {key: float((policy * worth)[pool].sum(axis=1).mean()) for key, policy in policies.items()}
    return Prepared(log, worth, pool, policies, truth, random, redrawn(log, p, random))


def with_reward_model(seed: int, logs: int, requests: int) -> None:
    """The tables of one world."""
    world = prepared(seed)
    log, worth = world.log, world.worth
    found = np.empty((logs, len(world.policies), len(NAMES), 4))  # value, low, high, ESS / n
    for number in range(logs):
        rows = world.random.choice(world.pool, requests)
        shown, reward = world.draw(rows)
        mask, propensity = log.mask[rows], log.logging[rows, shown]  # type: ignore[index]
        predicted = cross_fit(lambda part, rows=rows: log.features(rows[part]), mask, shown, reward, seed=number)
        for place, policy in enumerate(world.policies.values()):
            pi = policy[rows]
            judged = metrics.estimate(pi, mask, shown, propensity, reward, predicted, seed=number)
            at = np.arange(len(rows)), shown
            judged[FLOOR] = metrics.doubly_robust(
                pi[at] / propensity, reward - worth[rows][at], (pi * worth[rows]).sum(axis=1)
            )
            for column, name in enumerate(NAMES):
                one = judged[name]
                none = one.stderr is None
                found[number, place, column] = [
                    one.value, np.nan if none else one.low, np.nan if none else one.high, one.ess_share
                ]  # fmt: skip
    report(found, world.truth)


def coverage(seeds: range, logs: int, requests: int) -> None:
    """The table of several worlds, at temperatures whose logs are mostly to be believed."""
    names = ("ips", "clipped_ips", "snips", "dr, constant", FLOOR)
    print(f"| world, temperature | logs | {' | '.join(names)} |\n| --- | --- |{' --- |' * len(names)}", flush=True)
    for seed in seeds:
        world = prepared(seed)
        inside: dict[float, list[list[bool]]] = {temperature: [] for temperature in TEMPERATURES[:4]}
        for _ in range(logs):
            rows = world.random.choice(world.pool, requests)
            shown, reward = world.draw(rows)
            at = rows, shown
            for temperature, held in inside.items():
                pi, truth = world.policies[temperature], world.truth[temperature]
                weights = pi[at] / world.log.logging[at]  # type: ignore[index]
                if metrics.effective_sample_size(weights) < metrics.LEAST_ESS * requests:
                    continue
                expected = (pi[rows] * world.worth[rows]).sum(axis=1)
                flat = np.full(requests, reward.mean())
                judged = [
                    metrics.ips(weights, reward),
                    metrics.clipped_ips(weights, reward, requests**0.5),
                    metrics.snips(weights, reward),
                    metrics.doubly_robust(weights, reward - flat, flat),
                    metrics.doubly_robust(weights, reward - world.worth[at], expected),
                ]
                usual = [metrics.direct_method(weights, one.scores) for one in judged[:2]]
                held.append([_holds(one, truth) for one in (*judged, *usual)])
        for temperature, held in inside.items():
            share = np.mean(held, axis=0)
            cells = [f"{each:.3f}" for each in share[: len(names)]]
            for place in range(2):
                cells[place] += f" ({share[len(names) + place]:.3f})"
            print(f"| {seed}, {temperature} | {len(held)} | {' | '.join(cells)} |", flush=True)


def _holds(one: metrics.Estimate, truth: float) -> bool:
    return one.low is not None and one.high is not None and one.low <= truth <= one.high


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--logs", type=int, default=400)
    parser.add_argument("--requests", type=int, default=1600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--worlds", type=int, default=0, help="coverage in so many worlds")
    asked = parser.parse_args()
    if asked.worlds:
        coverage(range(asked.seed, asked.seed + asked.worlds), asked.logs, asked.requests)
    else:
        with_reward_model(asked.seed, asked.logs, asked.requests)


def report(found: np.ndarray, truth: Mapping[float, float]) -> None:
    """Three tables with a column a policy. found (logs, policies, estimators, 4)."""
    value = np.array(list(truth.values()))[:, None]  # (P, 1)
    error = found[..., 0] - value
    rmse = np.sqrt(np.nanmean(error**2, axis=0))  # (P, E)
    inside = ((found[..., 1] <= value) & (value <= found[..., 2])).mean(axis=0)
    ips = NAMES.index("ips")
    head = [f"ESS/n {share:.1%}" for share in found[:, :, ips, 3].mean(axis=0)]
    for title, figures in (
        ("How often the 95% interval holds the truth", inside),
        ("RMSE over that of IPS", rmse / rmse[:, ips, None]),
        ("Bias over the truth", np.nanmean(error, axis=0) / value),
    ):
        print(f"\n{title}\n\n| | {' | '.join(head)} |\n| --- |{' --- |' * len(head)}")
        print(f"| true value | {' | '.join(f'{each:.3f}' for each in value[:, 0])} |")
        for column, name in enumerate(NAMES):
            form = "+.1%" if title.startswith("Bias") else ".3f" if title.startswith("How") else ".2f"
            print(f"| {name} | {' | '.join(format(each, form) for each in figures[:, column])} |")


if __name__ == "__main__":
    main()
