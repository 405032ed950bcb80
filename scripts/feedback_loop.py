"""Deploy a ranker, log what it shows and what comes of it, learn from that log, deploy again: does it get better?

    python scripts/feedback_loop.py [OVERRIDES] [--seeds 3] [--rounds 5] [--losses none dr] [--exploration 0]

Round 1 learns from the log of the world's own policy. Its policy then shows one item on top of each request, drawn by
its probabilities, which are logged; the world's laws say what is done with it; and round 2 learns from that log alone.
With --exploration a share of the requests is shown any of the candidates, and the logged probabilities say so.
Every round is a run of `recsysml train model=policy_ranker`, judged by the true value of its policy on the test
requests, by enumeration. With --losses none dr this is done by a supervised ranker and by one that is trained to earn.
The requests, and what else is known of them, are those of the world's own log: what a policy shows changes what is
learnt next, not who comes back. A last run holds the rounds side by side, for `recsysml report OUTPUTS`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recsysml import job, sections
from recsysml.config import compose
from recsysml.data import world
from recsysml.data.slates import LoggedSlates
from recsysml.data.world_laws import Moment
from recsysml.data.world_truth import Truth, open_truth
from recsysml.ranking.policies import log_probabilities, open_policy
from recsysml.results import Run
from recsysml.schemas.data import WorldConfig

COLUMNS = ("value", "value of its best item", "candidates", "items")
WORDS = {"none": "supervised"}


def moments(truth: Truth) -> Moment:
    """The moments of all requests, in order of time."""
    parts = [behind.moment for behind in truth]
    joined = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(Moment)
    }
    order = np.argsort(joined["times"], kind="stable")
    return Moment(**{name: values[order] for name, values in joined.items()})


def deployed(log: LoggedSlates, policy: np.ndarray, config: WorldConfig, random: np.random.Generator) -> LoggedSlates:
    """The log of the same requests, had `policy` (R, N) drawn what stands on top."""
    truth = open_truth(config)
    rows = np.arange(len(log))
    edges = np.cumsum(np.where(log.mask, policy, 0.0), axis=1)
    shown = (random.random((len(log), 1)) * edges[:, -1:] >= edges).sum(axis=1)
    laws = truth.responses(moments(truth), log.candidates[rows, shown][:, None])
    luck = random.random((6, len(log)))
    chance = {name: getattr(laws, name)[:, 0] for name in ("click", "long_view", "like", "share", "skip")}
    done = {"click": luck[0] < chance["click"]}
    done |= {
        name: done["click"] & (luck[place] < chance[name])
        for place, name in enumerate(("long_view", "like", "share"), 1)
    }
    done["skip"] = ~done["click"] & (luck[4] < chance["skip"])
    passed = np.where(done["skip"], laws.leave_after_skip[:, 0], laws.leave_after_pass[:, 0])
    done["leave"] = luck[5] < np.where(done["click"], laws.leave_after_click[:, 0], passed)
    logging = np.where(log.mask, policy, 0.0) / edges[:, -1:]
    return dataclasses.replace(
        log, shown=shown, propensity=logging[rows, shown], logging=logging,
        actions=np.stack([done[task] for task in log.tasks], axis=1).astype(np.float32),
        slate=None, slate_propensity=None, slate_actions=None,
    )  # fmt: skip


def top_alone(log: LoggedSlates) -> LoggedSlates:
    """The log without what stood below the top, so that the first round has no more to learn from than the others."""
    return dataclasses.replace(log, slate=None, slate_propensity=None, slate_actions=None)


def trained(overrides: Sequence[str], log: LoggedSlates, root: Path) -> Path:
    """The run that has learnt from `log` in the place of the world's own."""
    config = job.resolve(compose(["model=policy_ranker", "tracker.mode=disabled", *overrides]))
    run = Run.create(root, "train", "policy_ranker", argv=[], config=job.to_dict(config), overrides=list(overrides))
    kept = world.load_slates
    world.load_slates = lambda _: log  # type: ignore[assignment]
    try:
        job.run(config, run)
    finally:
        world.load_slates = kept
    return run.path


def figures(run: Path, log: LoggedSlates) -> tuple[np.ndarray, list[float]]:
    """Of a run: the probabilities of its policy (R, N), and COLUMNS on the test requests."""
    metrics = json.loads((run / "results.json").read_text())["metrics"]
    log_pi, _ = log_probabilities(
        open_policy(run / "checkpoints" / "best").model, log, np.arange(len(log)), batch_size=1024
    )
    pi, rows = np.exp(log_pi), np.arange(*log.bounds["test"])
    entropy = -(pi * np.where(pi > 0, log_pi, 0.0))[rows].sum(axis=1)
    shown = np.bincount(log.candidates[rows].ravel(), (pi[rows] * log.mask[rows]).ravel(), len(log.items)) / len(rows)
    spread = -(shown[shown > 0] * np.log(shown[shown > 0])).sum()
    values = [metrics[f"test/policy/{name}"]["value"] for name in ("value", "greedy_value")]
    return pi, [*values, float(np.exp(entropy).mean()), float(np.exp(spread))]


def record(root: Path, found: dict[str, np.ndarray], overrides: Sequence[str]) -> None:
    """The rounds side by side. found: loss -> (seeds, rounds, COLUMNS)."""
    config = job.to_dict(compose(["model=policy_ranker", *overrides]))
    run = Run.create(root, "eval", "feedback_loop", argv=[], config=config, overrides=list(overrides))
    rows: list[list[Any]] = []
    for loss, numbers in found.items():
        mean, error = numbers.mean(axis=0), numbers.std(axis=0, ddof=1) / len(numbers) ** 0.5
        rows += [[WORDS.get(loss, loss), place + 1, *each, error[place, 0]] for place, each in enumerate(mean)]
        run.metric(
            f"test/policy/value_{loss}",
            mean[-1, 0],
            stderr=error[-1, 0],
            n=len(numbers),
            better="higher",
            baseline=mean[0, 0],
        )
    rounds = np.arange(1, numbers.shape[1] + 1)
    parts = [
        sections.curves(
            f"{name}, mean over the seeds", "round", name,
            {WORDS.get(loss, loss): (rounds, each[:, :, place].mean(axis=0)) for loss, each in found.items()},
        )
        for place, name in enumerate(COLUMNS)
    ]  # fmt: skip
    parts.append(sections.table("Rounds", ["ranker", "round", *COLUMNS, "stderr of the value"], rows))
    note = "candidates, items: exp of the entropy of what is shown, at a request and over all of them."
    run.section("feedback_loop", "Deploy, log, learn, deploy again", parts, note)
    run.finish("ok")
    print(f"{run.path}\n")
    print(f"| | round | {' | '.join(COLUMNS)} |\n| --- | --- |{' --- |' * len(COLUMNS)}")
    for loss, numbers in found.items():
        mean, spread = numbers.mean(axis=0), numbers.std(axis=0, ddof=1)
        for place in range(numbers.shape[1]):
            cells = [
                f"{m:.3f} ± {s:.3f}" if c < 2 else f"{m:.1f} ± {s:.1f}"
                for c, (m, s) in enumerate(zip(mean[place], spread[place], strict=True))
            ]
            print(f"| {WORDS.get(loss, loss)} | {place + 1} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--losses", nargs="+", default=["none", "dr"])
    parser.add_argument("--exploration", type=float, default=0.0, help="share of requests that are shown any candidate")
    parser.add_argument("--outputs", type=Path, default=Path("outputs/feedback_loop"))
    parser.add_argument("overrides", nargs="*")
    asked = parser.parse_args()
    found = {loss: np.zeros((asked.seeds, asked.rounds, len(COLUMNS))) for loss in asked.losses}
    for seed in range(1, asked.seeds + 1):
        common = [f"seed={seed}", f"data.seed={seed}", "progress=never", *asked.overrides]
        own = top_alone(world.load_slates(compose(["model=policy_ranker", *common]).data))
        for loss in asked.losses:
            log, random = own, np.random.default_rng([seed, 11])
            for number in range(asked.rounds):
                overrides = [*common, f"trainer.policy_loss={loss}"]
                run = trained(overrides, log, asked.outputs)
                pi, found[loss][seed - 1, number] = figures(run, log)
                pi = (1 - asked.exploration) * pi + asked.exploration * log.mask / log.mask.sum(axis=1, keepdims=True)
                log = deployed(log, pi, compose(["model=policy_ranker", *common]).data, random)
                said = ", ".join(
                    f"{name} {value:.4f}" for name, value in zip(COLUMNS, found[loss][seed - 1, number], strict=True)
                )
                print(f"seed {seed}, {WORDS.get(loss, loss)}, round {number + 1}: {said}", flush=True)
    record(asked.outputs, found, asked.overrides)


if __name__ == "__main__":
    main()
