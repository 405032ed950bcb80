"""What a run shows of a task's calibration: metrics against the first curve, a picture, a section that can be read."""

import numpy as np

from recsysml import sections
from recsysml.ranking.calibration_report import record_calibration
from recsysml.results import Run


def test_it_is_in_the_record_the_plots_and_the_report(tmp_path):
    rng = np.random.default_rng(0)
    p = rng.beta(1, 4, 5000)
    y = (rng.random(5000) < p).astype(float)
    cohorts = {"device": rng.integers(0, 3, 5000)}
    raw = np.where(cohorts["device"] == 2, np.sqrt(p), p)
    run = Run.create(tmp_path, "train", "mtml", argv=[], config={}, overrides=[])
    record_calibration(run, "test", "click", {"raw": raw, "calibrated": p}, y, cohorts)
    run.finish("ok")
    found = run.record["metrics"]
    ece = found["test/click/ece"]
    assert ece["value"] < 0.03 < 0.05 < ece["baseline"]
    assert abs(ece["z"]) < 3 and ece["perfect"] > 0
    assert found["test/click/mce"]["p_value"] > 0.001 and found["test/click/mce"]["segments"] == 4
    assert found["test/click/mce"]["value"] < found["test/click/mce"]["baseline"] / 5
    assert (run.path / "plots" / "reliability_test_click.png").is_file()
    section = sections.read(run.path / "sections" / "calibration_test_click.json")
    diagram, numbers, table = section["parts"]
    assert {each["curve"] for each in diagram["bins"]} == {"raw", "calibrated"}
    assert [row[0] for row in numbers["rows"]] == ["raw", "calibrated"]
    assert {row[0] for row in table["rows"]} == {"device=0", "device=1", "device=2"}


def test_raw_alone_names_the_cohort_that_is_off(tmp_path):
    rng = np.random.default_rng(1)
    p = rng.beta(2, 4, 4000)
    y = (rng.random(4000) < p).astype(float)
    device = rng.integers(0, 3, 4000)
    run = Run.create(tmp_path, "train", "mtml", argv=[], config={}, overrides=[])
    record_calibration(run, "val", "like", {"raw": np.where(device == 1, p / 2, p)}, y, {"device": device})
    run.finish("ok")
    worst = run.record["metrics"]["val/like/mce"]
    assert worst["segment"] == "device=1" and worst["p_value"] < 1e-6 and worst["baseline"] is None
    section = sections.read(run.path / "sections" / "calibration_val_like.json")
    assert section["parts"][2]["rows"][0][0] == "device=1"
