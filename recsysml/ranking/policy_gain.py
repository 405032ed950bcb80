"""What training to earn has gained over the supervised ranker that it started from, in a run's record and report."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from recsysml import sections
from recsysml.metrics.calibration import expected_calibration_error
from recsysml.metrics.ranking import log_loss

logger = logging.getLogger("recsysml")


def record_values(
    run: Any, split: str, policies: Mapping[str, np.ndarray], rewards: np.ndarray, mask: np.ndarray, ids: list[str]
) -> None:
    """True values by enumeration. policies: name -> (B, N) probabilities, `policy` and `supervised` among them; rewards
    (B, N): true expected; mask (B, N); ids (B,).

    The value's baseline is the supervised ranker's. `greedy_value` is that of always showing the best item: what is
    left of a gain when all policies are as sharp as can be. `gap_closed` is the way from the logging policy's value to
    the best there is.
    """
    values = {name: np.where(mask, pi * rewards, 0.0).sum(axis=1) for name, pi in policies.items()}
    best = np.where(mask, rewards, -np.inf).max(axis=1)
    rows = np.arange(len(ids))
    greedy = {name: rewards[rows, policies[name].argmax(axis=1)] for name in ("policy", "supervised")}
    means = {name: float(each.mean()) for name, each in values.items()}
    others = {name: value for name, value in means.items() if name not in ("policy", "supervised")}
    others |= {"optimum": float(best.mean())}
    pairs = {
        "value": (values["policy"], values["supervised"], others),
        "greedy_value": (greedy["policy"], greedy["supervised"], {}),
        "gain": (values["policy"] - values["supervised"], np.zeros(len(ids)), {}),
    }
    for name, (each, before, beside) in pairs.items():
        run.metric(
            f"{split}/policy/{name}", float(each.mean()), stderr=_error(each), n=len(ids), better="higher",
            baseline=float(before.mean()), baselines=beside,
        )  # fmt: skip
        run.add_examples(f"{split}/policy/{name}", ids, each)
    table = [["supervised", means["supervised"], float(greedy["supervised"].mean())]]
    table += [["trained", means["policy"], float(greedy["policy"].mean())]]
    table += [[name, value, None] for name, value in others.items()]
    start = others.get("logging")
    if start is not None and others["optimum"] > start:
        closed = {name: (means[name] - start) / (others["optimum"] - start) for name in ("policy", "supervised")}
        run.metric(
            f"{split}/policy/gap_closed", closed["policy"],
            stderr=_error(values["policy"] - values["logging"]) / (others["optimum"] - start), n=len(ids),
            better="higher", baseline=closed["supervised"],
        )  # fmt: skip
        for row in table[:2]:
            row.append(closed["policy" if row[0] == "trained" else "supervised"])
    columns = ["policy", "value", "value of its best item", "gap closed"]
    rows_shown = [[*row, *[None] * (len(columns) - len(row))] for row in table]
    parts = [
        sections.table("True values by enumeration", columns, rows_shown),
        sections.bars(
            "True value", "reward a request",
            [{"label": row[0], "value": row[1], "baseline": means["supervised"]} for row in table],
        ),
    ]  # fmt: skip
    gain = values["policy"] - values["supervised"]
    note = f"Training to earn gained {gain.mean():+.4f} ± {_error(gain):.4f} a request over the supervised ranker."
    run.section(f"policy_gain_{split}", f"What the policy earns: {split}", parts, note)
    logger.info(
        "%s/policy/value %.4f (supervised %.4f, %s); its best item alone %.4f (supervised %.4f)",
        split, means["policy"], means["supervised"],
        ", ".join(f"{name} {value:.4f}" for name, value in others.items()),
        greedy["policy"].mean(), greedy["supervised"].mean(),
    )  # fmt: skip


def record_rates(
    run: Any, split: str, policies: Mapping[str, np.ndarray], chances: Mapping[str, np.ndarray], ids: list[str]
) -> None:
    """How often each action truly follows, by enumeration: what a reward buys, and what it costs.

    policies: name -> (B, N), `policy` and `supervised` among them; chances: action -> (B, N) true probability.
    """
    names = ("policy", "supervised", *(name for name in ("logging", "uniform") if name in policies))
    rows = []
    for action, each in chances.items():
        rates = {name: np.where(policies[name] > 0, policies[name] * each, 0.0).sum(axis=1) for name in names}
        means = {name: float(rate.mean()) for name, rate in rates.items()}
        run.metric(
            f"{split}/{action}/rate", means["policy"], stderr=_error(rates["policy"]), n=len(ids),
            better="lower" if action in ("skip", "leave") else "higher", baseline=means["supervised"],
            baselines={name: means[name] for name in names[2:]},
        )  # fmt: skip
        run.add_examples(f"{split}/{action}/rate", ids, rates["policy"])  # so that `diff` pairs requests
        gain = rates["policy"] - rates["supervised"]
        rows.append([action, *means.values(), float(gain.mean()), _error(gain)])
    columns = ["action", "trained", *names[1:], "trained - supervised", "its stderr"]
    parts = [
        sections.table("Rates by enumeration", columns, rows),
        sections.bars(
            "True rate", "share of requests",
            [{"label": row[0], "value": row[1], "baseline": row[2]} for row in rows],
        ),
    ]  # fmt: skip
    note = "How often each action truly follows what the policy shows; the line is the supervised ranker."
    run.section(f"policy_rates_{split}", f"What is done with what it shows: {split}", parts, note)


def record_estimates(run: Any, split: str, policy: Any, supervised: Any, source: str, doubt: str | None) -> None:
    """Where no truth is known: the doubly robust estimate stands for the value, with the supervised ranker's beside.

    policy, supervised: estimates of metrics.policy. source: of the propensities. doubt: why neither is to be believed.
    """
    more: dict[str, Any] = {"estimated_by": "dr", "low": policy.low, "high": policy.high, "propensities": source}
    if doubt:
        more["unreliable"] = doubt
    run.metric(
        f"{split}/policy/value", policy.value, stderr=policy.stderr, n=len(policy.scores), better="higher",
        baseline=supervised.value, **more,
    )  # fmt: skip
    gain = policy.scores - supervised.scores
    logger.info(
        "%s/policy/value %.4f by doubly robust estimation (supervised %.4f; gain %+.4f ± %.4f)%s",
        split, policy.value, supervised.value, gain.mean(), _error(gain),
        "; not to be believed: " + doubt if doubt else "",
    )  # fmt: skip


def record_calibration(
    run: Any, split: str, tasks: list[str], logits: Mapping[str, np.ndarray], actions: np.ndarray
) -> None:
    """Log loss and calibration error of each task on what was shown on top; the supervised ranker's as baseline.

    logits: `policy` and `supervised` -> (B, T); actions (B, T).
    """
    for place, task in enumerate(tasks):
        own, before = logits["policy"][:, place], logits["supervised"][:, place]
        labels = actions[:, place].astype(np.float64)
        value, error = log_loss(own, labels)
        run.metric(
            f"{split}/{task}/logloss", value, stderr=error, n=len(labels), better="lower",
            baseline=log_loss(before, labels)[0],
        )  # fmt: skip
        ece, old = (expected_calibration_error(1 / (1 + np.exp(-z)), labels, 15, "mass") for z in (own, before))
        run.metric(
            f"{split}/{task}/ece", ece.value, stderr=ece.perfect_spread, n=len(labels), better="lower",
            baseline=old.value, perfect=ece.perfect, perfect_spread=ece.perfect_spread,
        )  # fmt: skip


def _error(each: np.ndarray) -> float:
    return float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else float("nan")
