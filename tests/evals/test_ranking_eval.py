"""A ranker judged for users of whom little is known and much: against a count of each user's rows by hand."""

from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from recsysml.data.world import load_impressions
from recsysml.evals import ranking as evals
from recsysml.examples import read_examples
from recsysml.results import Run
from recsysml.schemas.data import WorldConfig


class Metrics:
    """A run as far as it takes metrics."""

    def __init__(self) -> None:
        self.found: dict[str, dict] = {}

    def metric(self, name: str, value: float, **more: object) -> None:
        self.found[name] = {"value": value, **more}


@pytest.mark.parametrize("seed", [1, 2])
def test_groups_are_those_of_the_users_rows_in_train(seed):
    config = WorldConfig(users=300, items=150, events=4000, seed=seed)
    table = load_impressions(config)
    rows = table.bounds["test"]
    tasks = ["click", "skip"]
    scores = np.random.default_rng(seed).normal(size=(rows[1] - rows[0], 2))
    run = Metrics()
    evals.record_by_history(run, "test", scores, table, tasks)

    users = table.cohort("user")
    counts = Counter(users[slice(*table.bounds["train"])].tolist())
    counts[0] = 0
    known = np.array([counts[user] for user in users[slice(*rows)].tolist()])
    held = 0
    for name, low, high in (
        ("0", 0, 0),
        ("1_to_4", 1, 4),
        ("5_to_9", 5, 9),
        ("10_to_49", 10, 49),
        ("50_up", 50, 10**9),
    ):
        own = (known >= low) & (known <= high)
        held += own.sum()
        wanted = []
        for place, task in enumerate(tasks):
            labels = evals.labels_of(table, rows, task)[own]
            if 0 < labels.sum() < len(labels):
                wanted.append(roc_auc_score(labels, scores[own, place]))
        if wanted:
            entry = run.found[f"test/history_{name}/auc"]
            assert entry["value"] == pytest.approx(np.mean(wanted), abs=1e-9)
            assert entry["n"] == own.sum()
        else:
            assert f"test/history_{name}/auc" not in run.found
    assert held == len(known)
    assert len([name for name in run.found if name.endswith("/ne")]) >= 3


def test_two_rankers_are_paired_row_by_row(tmp_path):
    """The error of a difference in AUC, from what each row adds, is that of a bootstrap of the rows."""
    table = load_impressions(WorldConfig(users=150, items=150, events=5000))
    rows, rng = table.bounds["test"], np.random.default_rng(0)
    labels = evals.labels_of(table, rows, "click")
    first = labels + rng.normal(0, 1.5, len(labels))
    both = [first, first + rng.normal(0, 0.5, len(labels))]
    found = []
    for scores in both:
        run = Run.create(tmp_path, "train", "mtml", argv=[], config={}, overrides=[])
        judged = evals.judge(scores[:, None], table, rows, ["click"])
        evals.record(run, "test", scores[:, None], judged, {}, table, ["click"])
        run.finish("ok")
        examples = read_examples(run.path / "examples.parquet")
        for name in ("test/click/auc", "test/click/ne", "test/auc", "test/ne"):
            assert examples[name][1].mean() == pytest.approx(run.record["metrics"][name]["value"])
        found.append(examples["test/click/auc"][1])
    paired = found[1] - found[0]
    draws = (rng.integers(0, len(labels), len(labels)) for _ in range(300))
    gaps = [roc_auc_score(labels[d], both[1][d]) - roc_auc_score(labels[d], both[0][d]) for d in draws]
    assert paired.std(ddof=1) / np.sqrt(len(paired)) == pytest.approx(np.std(gaps), rel=0.2)
