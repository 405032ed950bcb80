"""What a retrieval run leaves behind, worked out again from the file of events in plain Python: how it was judged, each
user's scores, their means, and the pairs that two runs are compared by."""

import json
import math
import statistics

import numpy as np
import pytest
from scipy import stats

from recsysml.cli import main
from recsysml.diff import compare
from recsysml.examples import read_examples

K = 3


def write(path, seed):
    """Of 40 users, on the same few items often and again: most are as popular as others, and some are met twice."""
    rng = np.random.default_rng(seed)
    rows = [(f"u{rng.integers(40)}", f"i{rng.integers(25)}", time) for time in range(500)]
    path.write_text("user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    return rows


def split(rows, how):
    """train, val and test as lists of (user, item), in order of time."""
    if how == "time":
        pairs = [(user, item) for user, item, _ in rows]
        return pairs[:400], pairs[400:450], pairs[450:]
    parts = [], [], []
    for position, (user, item, _) in enumerate(rows):
        later = sum(other == user for other, _, _ in rows[position + 1 :])
        whole = sum(other == user for other, _, _ in rows)
        parts[2 - later if later < 2 and whole >= 3 else 0].append((user, item))
    return parts


def by_hand(rows, how, *, mask_seen, fit_range):
    """User -> what popularity gets for its test: recall, ndcg, hit rate at K, and 1 / rank of the best. And how many
    targets were left out."""
    train, val, test = split(rows, how)
    learnt = train + val if fit_range == "train_val" else train
    catalogue = {item for _, item, _ in rows}
    count = {item: sum(other == item for _, other in learnt) for item in catalogue}
    found, left_out = {}, 0
    for user in {user for user, _ in test}:
        seen = {item for other, item in train + val if other == user} if mask_seen else set()
        targets = {item for other, item in test if other == user}
        left_out += len(targets & seen)
        targets -= seen
        ranks = []
        for target in targets:
            others = [count[item] for item in catalogue - seen - {target}]
            above = sum(other > count[target] for other in others)
            ranks.append(1 + above + sum(other == count[target] for other in others) / 2)
        if targets:
            inside = [rank for rank in ranks if rank <= K]
            best = sum(1 / math.log2(2 + place) for place in range(min(K, len(targets))))
            found[user] = {
                f"recall@{K}": len(inside) / len(targets),
                f"ndcg@{K}": sum(1 / math.log2(1 + rank) for rank in inside) / best,
                f"hit_rate@{K}": float(bool(inside)),
                "mrr": 1 / min(ranks),
            }
    return found, left_out


def run(command, folder, *choices):
    """The directory of a run."""
    before = set((folder / command).glob("*"))
    assert main([command, f"eval.ks=[{K}]", "eval.baselines=[popularity]", "device=cpu", *choices]) == 0
    (path,) = set((folder / command).glob("*")) - before
    return path


def results(path):
    return json.loads((path / "results.json").read_text())


JUDGED = [
    {"how": "time", "mask_seen": True, "fit_range": "train"},
    {"how": "time", "mask_seen": False, "fit_range": "train_val"},
    {"how": "last_out", "mask_seen": True, "fit_range": "train_val"},
]


@pytest.mark.parametrize("judged", JUDGED, ids=lambda judged: "-".join(map(str, judged.values())))
def test_every_users_scores_and_how_they_came_to_be(tmp_path, own_outputs, judged):
    file = tmp_path / "events.csv"
    rows = write(file, seed=JUDGED.index(judged))
    choices = [
        *("model=popularity", "data=interactions", f"data.path={file}", f"data.split={judged['how']}"),
        *(f"data.mask_seen={judged['mask_seen']}".lower(), f"data.fit_range={judged['fit_range']}"),
    ]
    path = run("train", own_outputs, *choices)
    record, examples = results(path), read_examples(path / "examples.parquet")
    expected, left_out = by_hand(rows, **judged)
    for name in (f"recall@{K}", f"ndcg@{K}", f"hit_rate@{K}", "mrr"):
        ids, values = examples[f"test/{name}"]
        own = dict(zip(ids.tolist(), values.tolist(), strict=True))
        assert own == pytest.approx({user: scores[name] for user, scores in expected.items()})
        metric = record["metrics"][f"test/{name}"]
        assert metric["value"] == pytest.approx(statistics.mean(own.values()))
        assert metric["stderr"] == pytest.approx(statistics.stdev(own.values()) / math.sqrt(len(own)))
        assert metric["n"] == len(expected)
        assert metric["baseline"] == pytest.approx(metric["value"])  # it is popularity itself
    assert 0 < record["metrics"][f"test/recall@{K}"]["value"] < 1
    protocol = record["protocol"]
    assert protocol.pop("left_out")["test"] == left_out
    assert protocol.pop("in_batch")["test"] <= len(rows)
    told = {"split": judged["how"], "mask_seen": judged["mask_seen"], "fit_range": judged["fit_range"]}
    assert protocol == told | {"ties": "mid-rank", "candidates": "full"}


def test_two_retrievers_and_an_eval_are_compared_user_by_user(tmp_path, own_outputs):
    file = tmp_path / "events.csv"
    write(file, seed=7)
    choices = ["data=interactions", f"data.path={file}"]
    first, second = (run("train", own_outputs, f"model={model}", *choices) for model in ("popularity", "seq_knn"))
    pairs = {}
    for path in (first, second):
        for name, (ids, values) in read_examples(path / "examples.parquet").items():
            pairs.setdefault(name, []).append(dict(zip(ids.tolist(), values.tolist(), strict=True)))
    compared = {row.name: row for row in compare(first, second).metrics}
    for name in ("test/mrr", f"test/ndcg@{K}", "val/mrr"):
        a, b = pairs[name]
        users = sorted(a)
        theirs = stats.ttest_rel([b[user] for user in users], [a[user] for user in users])
        row = compared[name]
        assert (row.test, row.n) == ("paired t", len(users))
        assert row.effect == pytest.approx(statistics.mean(b[user] - a[user] for user in users))
        assert row.p == pytest.approx(theirs.pvalue)

    again = run("eval", own_outputs, f"checkpoint={first}")
    assert results(again)["model"] == results(first)["model"] | {"trainable": 0}
    compared = {row.name: row for row in compare(first, again).metrics}
    assert compared["test/mrr"].verdict == "within noise"
    assert (compared["test/mrr"].test, compared["test/mrr"].effect) == ("paired t", 0)
    unmasked = run("eval", own_outputs, f"checkpoint={first}", "data.mask_seen=false")
    (row,) = [row for row in compare(first, unmasked).metrics if row.name == "test/mrr"]
    assert row.verdict == "cannot be compared"
    assert row.reason.startswith("different protocol: mask_seen True against False")
