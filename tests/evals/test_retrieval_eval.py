"""Judging a retriever: a small world judged by hand, groups, baselines, the record."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from recsysml import sections
from recsysml.data.features import no_features
from recsysml.data.interaction_data import Interactions, InteractionSplit
from recsysml.evals import retrieval as evals
from recsysml.metrics import retrieval as metrics
from recsysml.models.popularity import Popularity
from recsysml.retrieval.questions import questions, training
from recsysml.schemas.retrievers import EaseConfig, PopularityConfig


def world(seed=0, n_users=40, n_items=30):
    rng = np.random.default_rng(seed)
    users, times = np.repeat(np.arange(n_users), 9), np.tile(np.arange(9.0), n_users)
    items = np.concatenate(
        [rng.choice(n_items, 9, replace=False, p=rng.dirichlet(np.ones(n_items) * 2)) for _ in range(n_users)]
    )
    place = np.tile(np.arange(9), n_users)
    splits = {
        name: InteractionSplit(users[part], items[part], times[part])
        for name, part in (("train", place < 7), ("val", place == 7), ("test", place == 8))
    }
    ids = [f"u{i}" for i in range(n_users)], [f"i{i}" for i in range(n_items)]
    return Interactions("w", "0" * 64, *ids, splits, no_features(n_users), no_features(n_items))


class Vectors:
    """Fixed vectors of users and items."""

    def __init__(self, n_users, n_items, seed=0):
        rng = np.random.default_rng(seed)
        self.n_items = n_items
        self.users, self.items = rng.normal(size=(n_users, 5)), rng.normal(size=(n_items, 5))

    def scores(self, histories):
        return (self.users[histories.users] @ self.items.T).astype(np.float32)

    def user_vectors(self, histories):
        return self.users[histories.users]

    def item_vectors(self):
        return self.items


class Record:
    def __init__(self, path):
        self.metrics, self.examples = {}, {}
        self.path, self.artifacts, self.sections = path, [], {}

    def metric(self, name, value, **more):
        assert math.isfinite(value)
        self.metrics[name] = SimpleNamespace(value=value, **more)

    def artifact(self, name, relative):
        self.artifacts.append((name, relative))

    def section(self, name, title, parts, note):
        sections.write(self.path / f"{name}.json", title, parts, note)
        self.sections[name] = sections.read(self.path / f"{name}.json")

    def add_examples(self, name, ids, values):
        self.examples[name] = (ids, values)


@pytest.mark.parametrize("mask_seen", [True, False])
@pytest.mark.parametrize("batch_size", [7, 100])
def test_values_are_those_of_sorting_each_users_candidates(mask_seen, batch_size):
    data = world()
    model, asked = Vectors(40, 30), questions(data, "test", mask_seen=mask_seen)
    judged = evals.judge(model, asked, mask_seen=mask_seen, ks=[5, 3], batch_size=batch_size, whole=True)
    shown = set()
    for r in range(len(asked.histories)):
        part = asked.histories.part(r, r + 1)
        seen = set(part.items.tolist()) if mask_seen else set()
        order = [i for i in np.argsort(-model.scores(part)[0]).tolist() if i not in seen]
        rank = order.index(asked.targets[r]) + 1
        assert judged.users["recall@5"][r] == (rank <= 5)
        assert judged.users["ndcg@3"][r] == pytest.approx(1 / math.log2(1 + rank) if rank <= 3 else 0)
        assert judged.users["mrr"][r] == pytest.approx(1 / rank)
        shown |= set(order[:3])
    assert judged.coverage["coverage@3"] == len(shown) / 30


def test_in_batch_hits_are_those_of_one_batch_of_all_pairs_when_there_are_few():
    data = world()
    model, asked = Vectors(40, 30), questions(data, "val", mask_seen=True)
    judged = evals.judge(model, asked, mask_seen=True, ks=[5], batch_size=16, whole=True)
    scores = model.scores(asked.histories)[:, asked.targets]
    assert sorted(judged.in_batch) == sorted(metrics.in_batch_hits(scores, asked.targets))


def test_in_batch_hits_are_of_whole_batches_of_1024(monkeypatch):
    sizes = []
    hits = metrics.in_batch_hits
    monkeypatch.setattr(
        metrics, "in_batch_hits", lambda scores, items: sizes.append(scores.shape) or hits(scores, items)
    )
    asked = questions(world(n_users=2100), "val", mask_seen=True)
    judged = evals.judge(Vectors(2100, 30), asked, mask_seen=True, ks=[5], batch_size=512, whole=True)
    assert sizes == [(1024, 1024)] * 2 and len(judged.in_batch) == 2048


def test_rows_can_be_asked_for_again_and_in_any_order():
    asked = questions(world(), "val", mask_seen=True)
    rows = np.array([3, 0, 3])
    found = evals.rows_of(asked.histories, rows)
    for i, row in enumerate(rows):
        assert found.part(i, i + 1).items.tolist() == asked.histories.part(row, row + 1).items.tolist()


def test_the_record_has_baselines_groups_and_a_score_for_each_user(tmp_path):
    data = world()
    asked = {"test": questions(data, "test", mask_seen=True)}
    how = {"mask_seen": True, "ks": [5], "batch_size": 16}
    names = ["popularity", "seq_knn", "ease"]
    simple = evals.baselines(names, data, asked, **how)["test"]
    by_hand = Popularity(PopularityConfig(), 30)
    by_hand.fit(training(data))
    expected = evals.judge(by_hand, asked["test"], **how).users["recall@5"].mean()
    judged = evals.judge(Vectors(40, 30), asked["test"], **how, whole=True)
    run = Record(tmp_path)
    evals.record(run, "test", judged, simple, asked["test"], data)
    found = run.metrics["test/recall@5"]
    assert found.baseline == expected
    assert set(found.baselines) == {"seq_knn", "ease"}
    assert found.stderr == pytest.approx(judged.users["recall@5"].std(ddof=1) / math.sqrt(40))
    ids, values = run.examples["test/ndcg@5"]
    assert ids == data.user_ids
    assert values.mean() == pytest.approx(run.metrics["test/ndcg@5"].value)
    deciles = [m for name, m in run.metrics.items() if "popularity_decile" in name]
    counts = np.bincount(data.splits["train"].items, minlength=30)
    targets = metrics.popularity_deciles(counts)[asked["test"].targets].tolist()
    found_in = {name: m.n for name, m in run.metrics.items() if "popularity_decile" in name}
    assert found_in == {f"test/popularity_decile_{d}/recall@5": targets.count(d) for d in set(targets)}
    assert sum(m.n for m in deciles) == 40
    assert sum(m.n * m.value for m in deciles) / 40 == pytest.approx(found.value)  # one target a user
    assert run.metrics["test/history_5_to_9/recall@5"].value == pytest.approx(found.value)
    assert {"test/item_effective_rank", "test/alignment", "test/user_uniformity"} <= set(run.metrics)
    assert run.artifacts == [("plots", "plots/vectors_test.png")]
    assert (tmp_path / "plots" / "vectors_test.png").read_bytes()[:4] == b"\x89PNG"
    by_decile, by_history, _, spectra, lengths = run.sections["retrieval_test"]["parts"]
    assert [bar["value"] for bar in by_decile["bars"]] == [m.value for m in deciles]
    assert by_history["bars"][0]["label"] == "5_to_9"
    assert by_history["bars"][0]["baseline"] == pytest.approx(expected)
    shares = [p["y"] for p in spectra["points"] if p["curve"] == "items"]
    values = np.linalg.svd(Vectors(40, 30).items, compute_uv=False)
    assert shares == pytest.approx(values / values.sum())
    assert sum(bar["value"] for bar in lengths["bars"]) > 0


def test_a_baseline_the_catalogue_is_too_large_for_is_left_out_with_a_warning(monkeypatch, caplog):
    monkeypatch.setattr(EaseConfig.__init__, "__defaults__", ("ease", "ease", 200.0, 10))  # max_items
    data = world()
    asked = {"val": questions(data, "val", mask_seen=True)}
    found = evals.baselines(["popularity", "ease"], data, asked, mask_seen=True, ks=[5], batch_size=16)
    assert list(found["val"]) == ["popularity"]
    assert "ease is left out" in caplog.text
