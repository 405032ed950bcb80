"""What a report says of a sweep: seeds together, settings apart, and its pictures."""

import base64
import json

import numpy as np
import pytest

from recsysml.report.gather import gather
from recsysml.report.page import render
from recsysml.report.sweeps import sweeps
from recsysml.results import Run

PICTURE = b"\x89PNG a picture"


def make(folder, jobs):
    """jobs: overrides and metrics of each. Returns the runs' names."""
    rows = []
    for overrides, metrics in jobs:
        run = Run.create(folder.parents[1], "train", "m", sweep=folder.name, argv=[], config={"seed": 1}, overrides=[])
        for name, value in metrics.items():
            run.metric(name, value, stderr=0.25, n=9, better="higher")
        run.finish("ok")
        headline = {name: {"value": value} for name, value in metrics.items() if name.startswith("val/")}
        rows.append({"overrides": overrides, "path": run.path.name, "metrics": headline})
    content = {"schema": "recsysml.sweep/1", "name": folder.name, "jobs": rows, "best": None}
    (folder / "sweep.json").write_text(json.dumps(content))
    (folder / "plots").mkdir()
    (folder / "plots" / "sweep.png").write_bytes(PICTURE)
    return [row["path"] for row in rows]


def cells(table):
    return [[(cell.text, cell.remark) for cell in row] for row in table.rows]


@pytest.mark.parametrize("seed", range(3))
def test_jobs_that_differ_in_their_seeds_alone_are_a_row(tmp_path, seed):
    values = np.random.default_rng(seed).normal(size=(3, 2, 2))
    jobs = []
    for number, of_seed in enumerate(values[:2, 0]):
        metrics = {"val/ndcg@20": of_seed[0], "test/ndcg@20": of_seed[1], "test/other": 1.0}
        jobs.append((["a=1", "model=x", f"seed={number}"], metrics))
    jobs.append((["a=1", "model=y", "seed=0"], {"val/loss": values[2, 0, 0]}))
    make(tmp_path / "sweep" / "grid", jobs)
    (found,) = sweeps(gather([str(tmp_path)]))
    assert found.table.columns == ["setting", "runs", "val/ndcg@20", "test/ndcg@20", "val/loss"]
    first, second = cells(found.table)
    assert [text for text, _ in first[:2]] == ["model=x", "2"] and [text for text, _ in second[:2]] == ["model=y", "1"]
    for column, own in zip(first[2:4], values[:2, 0].T, strict=True):
        assert column == (f"{own.mean():.4g}", f"± {own.std(ddof=1):.2g} between 2 runs")
    assert first[4][0] == second[2][0] == "-"
    assert second[4] == (f"{values[2, 0, 0]:.4g}", "± 0.25, its standard error")


def test_the_page_holds_the_sweeps_table_and_picture(tmp_path):
    make(tmp_path / "sweep" / "grid", [([f"lr={n}"], {"val/ndcg@20": n}) for n in (1, 2)])
    page = render(gather([str(tmp_path / "sweep" / "grid")]))
    assert base64.b64encode(PICTURE).decode() in page and "sweep grid" in page and "lr=2" in page


def test_a_run_alone_and_a_damaged_sweep_have_no_section(tmp_path):
    names = make(tmp_path / "sweep" / "grid", [([f"lr={n}"], {"val/ndcg@20": n}) for n in (1, 2)])
    assert sweeps(gather([str(tmp_path / "sweep" / "grid" / names[0])])) == []
    for content in ("{}", "{", '{"jobs": [{}]}', "[]"):
        (tmp_path / "sweep" / "grid" / "sweep.json").write_text(content)
        assert sweeps(gather([str(tmp_path / "sweep" / "grid")])) == []
    assert 'id="sweep"' not in render(gather([str(tmp_path / "sweep" / "grid")]))
