"""An ad policy's true value, of revenue and of the user's time, by enumeration; beside it what the log alone says."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsysml import lazy, sections
from recsysml.data import KINDS as DATA
from recsysml.data.ad_truth import AdTruth
from recsysml.data.ads import AdLog
from recsysml.engine import checkpoint, device
from recsysml.errors import ConfigError
from recsysml.metrics import policy as off_policy
from recsysml.metrics.policy import Estimate
from recsysml.models.ad_placement import AdPlacement
from recsysml.plots_trade_off import trade_off_plot
from recsysml.schemas.rankers import AdPlacementConfig

logger = logging.getLogger("recsysml")

TRUTHS = {"ad_world": "recsysml.data.ad_truth:open_truth"}
# settings of the dial along which the best possible curve is drawn
_FINE = np.concatenate([[0.0], np.geomspace(0.05, 20.0, 60)])


@dataclass(frozen=True)
class Judged:
    """Of one split, n sessions. A policy's name -> its expected revenue and minutes in each session, (n,) each.

    `this` is the policy judged, `log` the one that made the log, `best` the best there is at this dial.
    """

    split: str
    ids: np.ndarray  # (n,)
    actions: dict[str, np.ndarray]  # policy -> (n, A) probabilities
    revenue: np.ndarray  # (n, A) expected of every action
    engagement: np.ndarray  # (n, A)
    worth: float  # revenue that a minute counts
    features: np.ndarray  # (n, F)
    revenue_estimate: np.ndarray  # (n, A)
    estimates: dict[str, Estimate]

    @property
    def reward(self) -> np.ndarray:
        """(n, A)."""
        return self.revenue + self.worth * self.engagement

    def of(self, policy: str, what: np.ndarray) -> np.ndarray:
        """(n,) of what (n, A), in each session, as a policy has it."""
        return np.asarray((self.actions[policy] * what).sum(axis=1))


def policy_of(model: AdPlacement, features: np.ndarray, estimate: np.ndarray, dial: float | None = None) -> np.ndarray:
    """(n, A) float64 probabilities of the model's actions."""
    place = next(model.parameters()).device
    with torch.no_grad():
        found = model.policy(torch.from_numpy(features).to(place), torch.from_numpy(estimate).to(place), dial)
    return np.asarray(found.cpu().numpy(), np.float64)


def from_log(model: AdPlacement, log: AdLog, split: str) -> dict[str, Estimate]:
    """The policy's value as the log of a split has it, at the model's dial: ips, snips, and dr by the model's own
    outcomes where it knows any. They have learnt from train alone."""
    rows = log.rows(split)
    features, actions, propensity = log.features[rows], log.actions[rows], log.propensity[rows]
    worth = model.dial * model.minute_value
    reward = log.revenue[rows] + worth * log.engagement[rows]
    policy = policy_of(model, features, log.revenue_estimate[rows])
    each = np.arange(len(actions))
    weights = policy[each, actions] / propensity
    found = {"ips": off_policy.ips(weights, reward), "snips": off_policy.snips(weights, reward)}
    if model.learns_outcomes:
        place = next(model.parameters()).device
        with torch.no_grad():
            revenue, engagement = model.outcomes(torch.from_numpy(features).to(place))
        predicted = (revenue + worth * engagement).double().cpu().numpy()  # (n, A)
        residual = reward - predicted[each, actions]
        found["dr"] = off_policy.doubly_robust(weights, residual, (policy * predicted).sum(axis=1))
    return found


def open_truth(data: Any) -> AdTruth:
    """The truth of the sessions of a config's log."""
    found: AdTruth = lazy.resolve(TRUTHS[data.kind])(data)
    return found


def judge(model: AdPlacement, log: AdLog, truth: AdTruth, split: str) -> Judged:
    """The model's policy in every session of a split, beside simple ones, and the truth of all actions."""
    rows = log.rows(split)
    worth = model.dial * model.minute_value
    revenue, engagement = truth.revenue[rows], truth.engagement[rows]
    estimate = log.revenue_estimate[rows]
    best = (revenue + worth * engagement).argmax(axis=1)
    alone = np.eye(len(log.action_names))
    actions = {
        "this": policy_of(model, log.features[rows], estimate),
        "log": truth.logging[rows],
        "no_ad": alone[np.zeros(len(best), np.int64)],
        "most_revenue": alone[estimate.argmax(axis=1)],
        "best": alone[best],
    }
    return Judged(
        split, log.ids[rows], actions, revenue, engagement, worth, log.features[rows], estimate,
        from_log(model, log, split),
    )  # fmt: skip


def gap_closed(value: np.ndarray, log: np.ndarray, best: np.ndarray) -> tuple[float, float]:
    """(n,) each, in each session -> the share of the way from the log's value to the best one, its standard error.

    The standard error is that of a ratio, by the delta method. NaN where the log is already the best.
    """
    way = float((best - log).mean())
    if way <= 0:
        return math.nan, math.nan
    share = float((value - log).mean()) / way
    each = (value - log - share * (best - log)) / way
    return share, float(each.std(ddof=1)) / math.sqrt(len(each))


def frontier(revenue: np.ndarray, engagement: np.ndarray, worths: Sequence[float]) -> np.ndarray:
    """(D, 2) mean minutes and mean revenue of the best policy at each worth of a minute; (n, A) of all actions.

    As a minute counts more, minutes never fall and revenue never rises.
    """
    each = np.arange(len(revenue))
    chosen = [(revenue + worth * engagement).argmax(axis=1) for worth in worths]
    return np.array([[engagement[each, a].mean(), revenue[each, a].mean()] for a in chosen])


def record(run: Any, judged: Judged) -> None:
    """Put a split's metrics into the run's record."""
    split, n = judged.split, len(judged.ids)
    others = [name for name in judged.actions if name not in ("this", "log")]

    def put(name: str, what: np.ndarray) -> None:
        each = judged.of("this", what)
        run.metric(
            f"{split}/policy/{name}", each.mean(), stderr=each.std(ddof=1) / math.sqrt(n), n=n, better="higher",
            baseline=judged.of("log", what).mean(),
            baselines={other: judged.of(other, what).mean() for other in others},
        )  # fmt: skip
        run.add_examples(f"{split}/policy/{name}", [str(id_) for id_ in judged.ids], each)

    put("value", judged.reward)
    share, stderr = gap_closed(*(judged.of(name, judged.reward) for name in ("this", "log", "best")))
    run.metric(f"{split}/policy/gap_closed", share, stderr=stderr, n=n, better="higher", baseline=0.0)
    put("revenue", judged.revenue)
    put("engagement", judged.engagement)
    for name, found in judged.estimates.items():
        doubt = {"unreliable": found.unreliable} if found.unreliable else {}
        run.metric(
            f"{split}/policy/{name}", found.value, stderr=found.stderr, n=n, better="higher",
            low=found.low, high=found.high, ess=found.ess, ess_share=found.ess_share, **doubt,
        )  # fmt: skip


def sentence(judged: Judged) -> str:
    """One line for the screen."""
    value = {name: judged.of(name, judged.reward).mean() for name in judged.actions}
    share, _ = gap_closed(*(judged.of(name, judged.reward) for name in ("this", "log", "best")))
    revenue, minutes = (judged.of("this", what).mean() for what in (judged.revenue, judged.engagement))
    shown = 1 - judged.actions["this"][:, 0].mean()
    said = ", ".join(f"{name} {found.value:.4f} ± {found.stderr or 0:.4f}" for name, found in judged.estimates.items())
    return (
        f"{judged.split}/policy/value {value['this']:.4f} (log {value['log']:.4f}, no ad {value['no_ad']:.4f}, most"
        f" revenue {value['most_revenue']:.4f}, best {value['best']:.4f}), gap closed {share:.4f}; revenue"
        f" {revenue:.4f}, {minutes:.4f} minutes, an ad in {shown:.1%}; from the log: {said}"
    )


def curves(model: AdPlacement, judged: Judged, dials: Sequence[float]) -> dict[str, np.ndarray]:
    """Name -> (D, 2) mean minutes and mean revenue: the best possible, the model's own with its dial turned, points."""
    unit = model.minute_value
    found = {"best possible": frontier(judged.revenue, judged.engagement, list(_FINE * unit))}
    if model.learns_outcomes and dials:
        turned = [policy_of(model, judged.features, judged.revenue_estimate, dial) for dial in dials]
        found["this model, its dial turned"] = np.array(
            [[(each * what).sum(axis=1).mean() for what in (judged.engagement, judged.revenue)] for each in turned]
        )
    for name, label in (("log", "the log"), ("this", f"this policy, dial {model.dial:g}")):
        found[label] = np.array([[judged.of(name, what).mean() for what in (judged.engagement, judged.revenue)]])
    return found


def show(run: Any, model: AdPlacement, judged: Judged, dials: Sequence[float]) -> None:
    """The trade between revenue and time as a picture and a section of the report."""
    drawn = curves(model, judged, dials)
    path = trade_off_plot(run.path / "plots" / "trade_off.png", f"{run.path.name}: {judged.split}", drawn)
    run.artifact("plots", str(path.relative_to(run.path)))
    rows = [
        [name, judged.of(name, judged.reward).mean(), judged.of(name, judged.revenue).mean(),
         judged.of(name, judged.engagement).mean(), 1 - actions[:, 0].mean()]
        for name, actions in judged.actions.items()
    ]  # fmt: skip
    said = [
        [name, found.value, found.low, found.high, found.ess_share, found.unreliable or ""]
        for name, found in judged.estimates.items()
    ]
    lines: Mapping[str, Any] = {name: (points[:, 0], points[:, 1]) for name, points in drawn.items()}
    parts = [
        sections.curves("Revenue against the user's time", "minutes a session", "revenue a session", lines),
        sections.table("Policies", ["policy", "value", "revenue", "minutes", "with an ad"], rows),
        sections.table("The same from the log", ["estimator", "value", "low", "high", "ESS share", "doubt"], said),
    ]
    note = f"True values on {len(judged.ids):,} sessions of {judged.split}, every action enumerated."
    run.section("ads", "Ad placement", parts, note)


def protocol(config: AdPlacementConfig) -> dict[str, Any]:
    """How it was judged, for results.json: runs that differ here do not compare."""
    return {"split": "time", "value": "exact, by enumeration", "dial": config.dial, "minute_value": config.minute_value}


def evaluate_checkpoint(config: Any, checkpoint_dir: Path, run: Any) -> None:
    """`recsysml eval` of ad placement: judge a checkpoint on `config.eval.split` of `config.data`."""
    tensors, found = checkpoint.load_weights(checkpoint_dir)
    described = found.get("model", {})
    if described.get("kind") != "ad_placement":
        raise ConfigError(f"{checkpoint_dir} holds a model of kind {described.get('kind')!r}, not ad placement")
    machine = device.prepare(device.resolve_device(config.device), "fp32", threads=config.threads, deterministic=True)
    log: AdLog = lazy.resolve(f"{DATA[config.data.kind]}:load_ads")(config.data)
    for key, names in (("features", log.feature_names), ("actions", log.action_names)):
        if described[key] != names:
            raise ConfigError(f"{log.name} has other {key} than what {checkpoint_dir} learnt from: {', '.join(names)}")
    built = AdPlacementConfig(**described["config"])
    if config.eval.dial is not None:
        assert built.method != "reinforce", "a dial that cannot be turned is refused where a command is composed"
        built.dial = config.eval.dial
    model = AdPlacement(built, len(log.feature_names), len(log.action_names))
    checkpoint.put_weights(model, tensors, checkpoint_dir)
    model.to(machine.device).eval()
    run.set_data(log.name, log.fingerprint, log.sizes)
    run.set_model(described["name"], described["kind"], sum(p.numel() for p in model.parameters()), 0)
    run.set_protocol(**protocol(built))
    run.set_environment(machine.describe())
    judged = judge(model, log, open_truth(config.data), config.eval.split)
    record(run, judged)
    logger.info("%s", sentence(judged))
    show(run, model, judged, config.eval.dials)
