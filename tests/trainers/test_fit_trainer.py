"""Counted models through the whole command: trained, judged, opened again."""

import json

import numpy as np
import polars as pl
import pytest

from recsysml.cli import main
from recsysml.retrieval.opening import open_retriever


@pytest.fixture
def events(tmp_path):
    """Users walk round a ring of 20 items: what comes next is what came after it before."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(30):
        start = rng.integers(20)
        rows += [(f"u{user}", f"i{(start + step) % 20:02d}", 100 * step + user) for step in range(12)]
    file = tmp_path / "events.csv"
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(file)
    return file


def run_of(folder, command):
    (path,) = (folder / command).iterdir()
    return path, json.loads((path / "results.json").read_text())


def test_seq_knn_learns_the_ring_and_popularity_cannot(events, own_outputs, capsys):
    choices = ["data=interactions", f"data.path={events}", "data.split=last_out", "eval.ks=[1,3]", "device=cpu"]
    assert main(["train", "model=seq_knn", "model.age_decay=0.1", *choices]) == 0
    path, results = run_of(own_outputs, "train")
    found = results["metrics"]["test/recall@1"]
    assert found["value"] == 1.0
    assert found["baseline"] < 0.5
    assert set(found["baselines"]) == {"recent_popularity", "seq_knn", "ease"}
    assert results["protocol"]["ties"] == "mid-rank"
    assert results["protocol"]["mask_seen"] is True
    assert results["artifacts"]["checkpoint"] == "checkpoints/best"
    opened = open_retriever(path / "checkpoints" / "best")
    assert opened.item_ids == [f"i{i:02d}" for i in range(20)]

    assert main(["eval", "checkpoint=last", "data.split=last_out"]) == 0
    _, again = run_of(own_outputs, "eval")
    assert again["metrics"] == {k: v for k, v in results["metrics"].items() if k.startswith("test/")}


@pytest.mark.parametrize("model", ["popularity", "recent_popularity", "ease"])
def test_the_other_counted_models_run(events, own_outputs, model):
    choices = ["data=interactions", f"data.path={events}", "eval.baselines=[popularity]", "device=cpu"]
    assert main(["train", f"model={model}", *choices]) == 0
    _, results = run_of(own_outputs, "train")
    assert results["run"]["status"] == "ok"
    assert 0 <= results["metrics"]["val/ndcg@20"]["value"] <= 1
    assert results["model"]["kind"] == model


@pytest.mark.parametrize("model", ["bpr", "als"])
def test_the_models_of_implicit_run_and_stand_beside_others(events, own_outputs, model, capsys):
    pytest.importorskip("implicit", reason="the extra `implicit` is not installed")
    choices = ["data=interactions", f"data.path={events}", "eval.baselines=[popularity,bpr,als]", "device=cpu"]
    assert main(["train", f"model={model}", "model.factors=4", "seed=3", *choices]) == 0
    path, results = run_of(own_outputs, "train")
    assert results["config"]["model"]["seed"] == 3
    assert set(results["metrics"]["test/recall@20"]["baselines"]) == {"bpr", "als"}
    capsys.readouterr()
    assert main(["recommend", str(path), "--history", "i03,i04", "-k", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_other_ids_than_the_checkpoint_learnt_are_refused(events, own_outputs, tmp_path, capsys):
    choices = ["data=interactions", f"data.path={events}", "device=cpu"]
    assert main(["train", "model=popularity", "eval.baselines=[]", *choices]) == 0
    other = tmp_path / "other.csv"
    other.write_text(events.read_text().replace("i07", "new"))
    assert main(["eval", f"data.path={other}"]) == 1
    assert "other users or items" in capsys.readouterr().err


def test_a_name_with_a_comma_is_quoted_and_what_counts_has_no_vectors(events, own_outputs, tmp_path, capsys):
    events.write_text(pl.read_csv(events).with_columns(pl.col("item_id").str.replace("i", "i,")).write_csv())
    choices = ["data=interactions", f"data.path={events}", "data.split=last_out", "eval.baselines=[]", "device=cpu"]
    assert main(["train", "model=seq_knn", *choices]) == 0
    path, _ = run_of(own_outputs, "train")
    capsys.readouterr()
    assert main(["recommend", str(path), "--history", '"i,03","i,04"', "-k", "1"]) == 0
    assert capsys.readouterr().out.split()[2] == "i,05"
    assert main(["export", str(path), str(tmp_path / "out")]) == 2
    assert "seq_knn has no vectors to export: two_tower, sasrec" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_recommendation_stands_beside_its_own_title(events, own_outputs, tmp_path, capsys):
    titles = tmp_path / "items.csv"
    titles.write_text("item_id,name\n" + "".join(f"i{i:02d},The {i}th of them\n" for i in range(20) if i != 6))
    choices = ["data=interactions", f"data.path={events}", f"data.items_path={titles}", "data.title_column=name"]
    assert main(["train", "model=seq_knn", "eval.baselines=[]", "device=cpu", *choices]) == 0
    path, _ = run_of(own_outputs, "train")
    for asked in (["--history", "i03,i04"], ["--user", "u3"]):
        capsys.readouterr()
        assert main(["recommend", str(path), *asked, "-k", "9"]) == 0
        rows = [line.split(maxsplit=3)[2:] for line in capsys.readouterr().out.splitlines()]
        assert len(rows) > 5
        for item, *title in rows:
            assert title == ([] if item == "i06" else [f"The {int(item[1:])}th of them"])
