"""A value model through the whole command: tuned on the simulated world, judged, opened again."""

import json

import numpy as np
import pytest

from recsysml.cli import main
from recsysml.data.world import load_impressions
from recsysml.data.world_impressions import read
from recsysml.data.world_log import open_world
from recsysml.engine.checkpoint import load_weights
from recsysml.evals.value import labelled
from recsysml.models.value_model import losses, shares, solve
from recsysml.ranking.task_probabilities import open_probabilities
from recsysml.schemas.data import WorldConfig

WORLD = ["data=world", "data.users=150", "data.items=200", "data.events=6000", "device=cpu", "tracker.mode=disabled"]


def run_of(folder, command):
    (path,) = (folder / command).iterdir()
    return path, json.loads((path / "results.json").read_text())


def test_weights_are_found_judged_and_judged_again(own_outputs, capsys):
    asked = ["+model.importance.click=3", "+model.importance.long_view=5", "+model.importance.like=2"]
    assert main(["train", "model=value_model", *asked, *WORLD]) == 0
    path, results = run_of(own_outputs, "train")
    metrics = results["metrics"]
    assert metrics["val/importance_l1"]["value"] < 0.01 < metrics["val/importance_l1"]["baseline"]
    assert metrics["test/importance_l1"]["value"] < metrics["test/importance_l1"]["baseline"]
    assert {"test/click/ndcg", "test/long_view/ndcg", "test/like/ndcg"} <= set(metrics)
    assert all(0 < metrics[f"test/{task}/ndcg"]["value"] <= 1 for task in ("click", "long_view", "like"))
    section = json.loads((path / "sections" / "value_model.json").read_text())
    assert [row[0] for row in section["parts"][0]["rows"]] == ["click", "long_view", "like"]
    assert section["parts"][1]["bars"][0]["baseline"] == pytest.approx(0.3)
    capsys.readouterr()

    assert main(["eval", f"checkpoint={path}", *WORLD]) == 0
    _, again = run_of(own_outputs, "eval")
    for name in ("test/importance_l1", "test/like/ndcg"):
        assert again["metrics"][name]["value"] == pytest.approx(metrics[name]["value"])
    capsys.readouterr()

    assert main(["eval", f"checkpoint={path}", "eval=ranking", "tracker.mode=disabled"]) == 2
    assert "holds a model of kind value_model; this needs kind mtml" in capsys.readouterr().err
    assert main(["eval", "eval=true_reward", "tracker.mode=disabled"]) == 2  # `last` is one that fits, of which is none
    assert "no finished or interrupted train run of kind mtml" in capsys.readouterr().err
    run_of(own_outputs, "eval")  # and neither left a run behind


@pytest.mark.parametrize("split", ["val", "test"])
def test_weights_are_those_that_val_gives_as_asked_and_what_cannot_be_had_is_said(own_outputs, capsys, split):
    """Regret of tasks that go together: the nearest point, by a search of the test's own over val and over test."""
    asked = ["++model.importance={click:8,long_view:1,like:1}", "trainer.measure=regret", "trainer.tolerance=0.02"]
    assert main(["train", "model=value_model", *asked, "trainer.max_steps=3", "eval.requests=20", *WORLD]) == 0
    path, results = run_of(own_outputs, "train")
    data, tasks = WorldConfig(users=150, items=200, events=6000), ["click", "long_view", "like"]
    target = np.array([0.8, 0.1, 0.1])
    table, probabilities = open_probabilities(None, data, tasks, batch_size=4096)
    slates, _ = labelled(table, probabilities, split, tasks)
    found = solve("regret", slates, target, 0.02, 3)
    kept = load_weights(path / "checkpoints" / "best")[0]["weights"].numpy()
    assert np.allclose(kept, found.weights) == (split == "val")
    assert not found.reached
    if split == "val":
        assert results["metrics"]["val/importance_l1"]["value"] == pytest.approx(found.error)
        said = f"cannot be had here: the nearest found is click {found.shares[0]:.3f}, long_view {found.shares[1]:.3f}"
        assert said in json.loads((path / "sections" / "value_model.json").read_text())["note"]
        assert said in capsys.readouterr().err
    else:
        reached = shares("regret", losses("regret", slates, kept).mean(axis=0))
        assert results["metrics"]["test/importance_l1"]["value"] == pytest.approx(np.abs(reached - target).sum())


def test_an_expression_is_judged_and_a_mistake_in_it_costs_no_run(own_outputs, capsys):
    assert main(["train", "model=value_model", "model.expression=p_long_view / p_leave", *WORLD]) == 0
    _, results = run_of(own_outputs, "train")
    ndcg = {f"{s}/{t}/ndcg" for s in ("val", "test") for t in ("long_view", "leave")}
    assert set(results["metrics"]) == ndcg | {"test/page/value", "test/page/session"}
    page = results["metrics"]["test/page/value"]
    assert page["value"] < page["baselines"]["by_truth"]
    assert results["metrics"]["test/page/session"]["value"] > page["value"]
    assert main(["train", "model=value_model", "model.expression=p_long_vew / p_leave", *WORLD]) == 2
    assert "Did you mean: p_long_view" in capsys.readouterr().err
    assert len(list((own_outputs / "train").iterdir())) == 1


@pytest.mark.parametrize(
    ("model", "eval_"), [("value_model", "ranking"), ("value_model", "true_reward"), ("mtml", "value")]
)
def test_an_eval_of_another_model_is_refused_before_anything_is_trained(own_outputs, capsys, model, eval_):
    assert main(["train", f"model={model}", f"eval={eval_}", *WORLD]) == 2
    assert f"eval={eval_} does not fit model={model}; evals that fit" in capsys.readouterr().err
    assert not (own_outputs / "train").exists()


def test_a_head_that_counts_what_follows_can_be_a_part_of_the_value(own_outputs):
    asked = ["data.retention=[items]", "model.expression=p_click + 0.1 * p_later_items", "eval.requests=50"]
    assert main(["train", "model=value_model", *asked, *WORLD]) == 0
    _, results = run_of(own_outputs, "train")
    assert results["metrics"]["test/page/value"]["n"] == 50
    assert results["metrics"]["test/later_items/ndcg"]["value"] < 1


def test_real_labels_are_gains_in_their_own_unit():
    data = WorldConfig(users=150, items=200, events=6000, retention=["conversions"])
    table, raw = load_impressions(data), read(data, open_world(data))
    start, stop = table.bounds["test"]
    tasks = ["click", "later_conversions"]
    _, found = labelled(table, lambda _, rows: np.zeros((rows[1] - rows[0], 2)), "test", tasks)
    for task in tasks:
        np.testing.assert_allclose(found[task], raw.labels[task][start:stop], rtol=1e-3, atol=1e-4)
    assert ((found["later_conversions"] == 0) == (raw.labels["later_conversions"][start:stop] == 0)).all()


def test_the_top_by_another_expression_and_what_is_unwanted_go_through_the_command(own_outputs, capsys):
    asked = ["+model.weights.click=1", "+model.weights.share=-2", "model.top_expression=p_like / p_leave"]
    assert main(["train", "model=value_model", *asked, "model.top_places=2", "eval.requests=50", *WORLD]) == 0
    path, results = run_of(own_outputs, "train")
    better = {task: results["metrics"][f"test/{task}/ndcg"]["better"] for task in ("click", "share", "like", "leave")}
    assert better == {"click": "higher", "share": "lower", "like": "higher", "leave": "lower"}
    assert "The first 2 places go by" in json.loads((path / "sections" / "value_model.json").read_text())["note"]
    assert main(["eval", f"checkpoint={path}", "tracker.mode=disabled"]) == 0
    judged_path, judged = run_of(own_outputs, "eval")
    assert (judged_path / "sections" / "value_model.json").is_file()
    for name in ("test/page/value", "test/like/ndcg"):
        assert judged["metrics"][name]["value"] == pytest.approx(results["metrics"][name]["value"])
    assert main(["train", "model=value_model", *asked[:2], "eval.requests=50", *WORLD]) == 0
    other = max((own_outputs / "train").iterdir(), key=lambda run: run.stat().st_mtime)
    rest = json.loads((other / "results.json").read_text())["metrics"]["test/page/value"]["value"]
    assert rest != pytest.approx(results["metrics"]["test/page/value"]["value"])
