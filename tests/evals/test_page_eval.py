"""eval=page through the command: every kind of page against the world's truth."""

import json
import math

import numpy as np
import pytest
from scipy.special import rel_entr

from recsysml.cli import main
from recsysml.config import compose
from recsysml.data.world import load_candidates, load_impressions
from recsysml.errors import ConfigError
from recsysml.evals.page import judge, truth_of
from recsysml.evals.splits import check_page
from recsysml.ranking.pages import make_pages
from recsysml.schemas.data import WorldConfig
from recsysml.schemas.evals import PAGES, PageEvalConfig

WORLD = ["data.users=150", "data.items=200", "data.events=6000", "device=cpu", "tracker.mode=disabled"]
SMALL = [
    "model.expert_widths=[8]", "model.tower_widths=[8]", "model.history=none", "model.d_embedding=4",
    "trainer.max_steps=20", "trainer.warmup_steps=2", "trainer.eval_every=20", "eval.baselines=[]",
]  # fmt: skip


def run_of(folder, command):
    path = max((folder / command).iterdir(), key=lambda path: path.stat().st_mtime)
    return path, json.loads((path / "results.json").read_text())


def test_pages_of_a_value_model_hold_what_they_promise(own_outputs, capsys):
    assert main(["train", "model=value_model", "model.expression=p_click", "eval.requests=80", *WORLD]) == 0
    path, trained = run_of(own_outputs, "train")
    knobs = ["eval.diversity=0.9", "eval.calibration=0.9", "eval.temperature=3", "eval.requests=80"]
    assert main(["eval", f"checkpoint={path}", "eval=page", *knobs]) == 0
    run, results = run_of(own_outputs, "eval")
    found = {name: entry["value"] for name, entry in results["metrics"].items()}
    assert found["test/page/order/value"] == pytest.approx(trained["metrics"]["test/page/value"]["value"])
    assert found["test/page/order/session"] == pytest.approx(trained["metrics"]["test/page/session"]["value"])
    assert found["test/page/mmr/similarity"] < found["test/page/order/similarity"] - 0.05
    assert found["test/page/calibrated/miscalibration"] < found["test/page/order/miscalibration"] - 0.1
    assert found["test/page/gumbel/coverage"] > found["test/page/order/coverage"]
    for page in ("order", "gumbel", "mmr", "calibrated"):
        entry = results["metrics"][f"test/page/{page}/value"]
        assert max(entry["value"], entry["baseline"] + 0.5) < entry["baselines"]["by_truth"]
    section = json.loads((run / "sections" / "pages.json").read_text())
    assert [row[0] for row in section["parts"][0]["rows"]][-2:] == ["as logged", "by truth"]

    assert main(["eval", f"checkpoint={path}", "eval=page", "eval.expression=p_like"]) != 0
    assert "has its own" in capsys.readouterr().err


def test_a_ranker_s_pages_are_by_an_expression_or_by_what_the_data_pays(own_outputs):
    assert main(["train", "model=mtml", *SMALL, *WORLD]) == 0
    path, _ = run_of(own_outputs, "train")
    for asked in ([], ["eval.expression=p_like / p_leave"]):
        words = ["eval", f"checkpoint={path}", "eval=page", "eval.pages=[order]", "eval.requests=40", *asked]
        assert main(words) == 0
        _, results = run_of(own_outputs, "eval")
        assert results["metrics"]["test/page/order/value"]["n"] == 40


@pytest.fixture(scope="module")
def offered():
    config = WorldConfig(users=150, items=100, events=6000)
    encoder = load_impressions(config).encoder
    return config, load_candidates(config, encoder, split="test", limit=40, length=8)


@pytest.mark.parametrize("page", PAGES)
def test_no_page_shows_what_was_not_offered_or_one_item_twice(offered, page):
    """Also where what is not offered is worth most."""
    _, candidates = offered
    assert not candidates.offered.all()
    values = np.where(candidates.offered, np.random.default_rng(0).random(candidates.items.shape), 9.0)
    how = PageEvalConfig(temperature=5.0, diversity=0.99, calibration=0.99)
    columns = make_pages(page, values, candidates, how, 0)
    assert columns.shape == (len(values), 8) and all(len(set(row)) == 8 for row in columns.tolist())
    assert np.take_along_axis(candidates.offered, columns, axis=1).all()


def test_what_a_page_brings_is_by_its_places(offered):
    """The best order of a page's items has no regret; the log's own page and the page turned round have more."""
    config, candidates = offered
    truth = truth_of(config, candidates, 8)
    best = judge(truth.best, candidates, truth)
    assert np.allclose(best["regret"], 0)
    turned = judge(truth.best[:, ::-1], candidates, truth)
    assert (turned["regret"] > best["regret"]).all() and turned["value"].mean() < best["value"].mean()
    logged = judge(candidates.logged, candidates, truth)
    for row, page in enumerate(candidates.logged.tolist()):
        gains, ideal = truth.rewards[row, page], sorted(truth.rewards[row], reverse=True)
        dcg, best_dcg = (sum(g / math.log2(k + 2) for k, g in enumerate(own[:8])) for own in (gains, ideal))
        assert logged["regret"][row] == pytest.approx(1 - dcg / best_dcg)
        tags = candidates.categories[row, page].mean(axis=0)
        taste = candidates.taste[row]
        assert logged["miscalibration"][row] == pytest.approx(rel_entr(taste, 0.99 * tags + 0.01 * taste).sum())


def test_pages_of_data_without_a_truth_are_refused():
    with pytest.raises(ConfigError, match="only data=world"):
        check_page(compose(["model=mtml", "data=kuairand", "eval=page"]))
