"""What the report says of a sweep: means over seeds by hand, and the folder's picture in the page."""

from __future__ import annotations

import base64
import json
import statistics

import pytest

from recsysml.report.gather import gather
from recsysml.report.page import render
from recsysml.report.sweeps import sweeps_of
from recsysml.results import Run


@pytest.fixture(autouse=True)
def quick_environment(monkeypatch):
    monkeypatch.setattr("recsysml.results.environment", lambda: {"python": "3"})


@pytest.fixture
def folder(tmp_path):
    """A sweep of two settings over three seeds; its last job failed."""
    jobs = []
    for number, (setting, seed) in enumerate([(s, k) for s in ("p_like", "p_like / p_leave") for k in (1, 2, 3)]):
        run = Run.create(tmp_path, "train", "mtml", argv=[], config={}, overrides=[], sweep="grid")
        run.metric("val/ne", 0.9 + number / 100, stderr=0.1, n=5, better="lower")
        run.metric("test/ne", 0.8 + number**2 / 100, stderr=0.1, n=5, better="lower")
        run.finish("ok" if number < 5 else "failed")
        words = ["model=value_model", f'++model.expression="{setting}"', f"seed={seed}"]
        status = run.record["run"]["status"]
        jobs.append({"overrides": words, "run": run.id, "status": status, "metrics": {"val/ne": {}}})
    place = run.path.parent
    (place / "sweep.json").write_text(json.dumps({"name": "grid", "jobs": jobs}))
    (place / "plots").mkdir()
    (place / "plots" / "sweep.png").write_bytes(b"picture")
    return place


def test_a_setting_is_a_row_with_means_over_its_seeds(folder):
    runs = gather([str(folder)])
    (sweep,) = sweeps_of(runs)
    assert sweep.table.columns == ["model.expression", "runs", "val/ne", "test/ne"]
    first, second = sweep.table.rows
    assert [cell.text for cell in first[:2]] == ["p_like", "3"]
    assert [cell.text for cell in second[:2]] == ["p_like / p_leave", "2"]
    values = [0.8 + number**2 / 100 for number in (3, 4)]
    assert float(second[3].text) == pytest.approx(statistics.mean(values), abs=1e-4)
    assert second[3].remark == f"± {statistics.stdev(values):.2g} over 2"
    page = render(runs)
    assert "Sweep grid" in page and base64.b64encode(b"picture").decode() in page


def test_a_single_run_or_a_damaged_sweep_is_shown_without_it(folder, caplog):
    whole = json.loads((folder / "sweep.json").read_text())
    paths = [str(run.path) for run in gather([str(folder)]) if run.results["run"]["status"] == "ok"]
    assert sweeps_of(gather(paths[:1])) == [] and not caplog.records
    words = [{**job, "overrides": [number]} for number, job in enumerate(whole["jobs"])]
    ids = [{**job, "run": []} for job in whole["jobs"]]
    odd = [json.dumps(whole | {"jobs": each}) for each in (words, ids, "ok")]
    for content in ("{", "garbage", "[]", '{"jobs": 3}', "{}", *odd):
        caplog.clear()
        (folder / "sweep.json").write_text(content)
        assert sweeps_of(gather(paths[:1])) == [] and not caplog.records  # nor is it asked for
        assert sweeps_of(gather(paths)) == []
        (record,) = caplog.records
        assert str(folder / "sweep.json") in record.getMessage() and "damaged" in record.getMessage()
    assert "Sweep" not in render(gather([str(run) for run in folder.iterdir() if (run / "results.json").is_file()]))
