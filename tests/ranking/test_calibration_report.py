"""What a run shows of a task's calibration: metrics against the first curve, a picture, a section that can be read."""

import numpy as np
import pytest

from recsysml import sections
from recsysml.data.impressions import load_impressions
from recsysml.ranking.calibration_report import record_calibration, record_calibrations, write_section
from recsysml.results import Run
from recsysml.schemas.impressions import ImpressionsConfig


def test_it_is_in_the_record_the_plots_and_the_report(tmp_path):
    rng = np.random.default_rng(0)
    p = rng.beta(1, 4, 5000)
    y = (rng.random(5000) < p).astype(float)
    cohorts = {"device": rng.integers(0, 3, 5000)}
    raw = np.where(cohorts["device"] == 2, np.sqrt(p), p)
    run = Run.create(tmp_path, "train", "mtml", argv=[], config={}, overrides=[])
    of_click = record_calibration(run, "test", "click", {"raw": raw, "calibrated": p}, y, cohorts)
    of_like = record_calibration(
        run, "test", "like", {"raw": p, "calibrated": p}, (rng.random(5000) < p) * 1.0, cohorts
    )
    write_section(run, "test", {"click": of_click, "like": of_like})
    run.finish("ok")
    found = run.record["metrics"]
    ece = found["test/click/ece"]
    assert ece["value"] < 0.03 < 0.05 < ece["baselines"]["raw"] and ece["baseline"] is None
    assert abs(ece["z"]) < 3 and ece["perfect"] > 0
    assert found["test/click/mce"]["p_value"] > 0.001 and found["test/click/mce"]["segments"] == 4
    assert found["test/click/mce"]["value"] < found["test/click/mce"]["baselines"]["raw"] / 5
    assert (run.path / "plots" / "reliability_test_click.png").is_file()
    section = sections.read(run.path / "sections" / "calibration_test.json")
    diagram, other, whole, numbers, table = section["parts"]
    assert (diagram["title"], other["title"]) == ("click", "like")
    assert {each["curve"] for each in diagram["bins"]} == {"raw", "calibrated"} and len(diagram["bins"]) == 30
    assert [row[0] for row in whole["rows"]] == ["click", "like"]
    assert whole["rows"][0][3] == ece["baselines"]["raw"] and whole["rows"][0][4] == ece["value"]
    assert [row[:2] for row in numbers["rows"][:2]] == [["click", "raw"], ["click", "calibrated"]]
    assert {tuple(row[:2]) for row in table["rows"]} == {
        (t, f"device={d}") for t in ("click", "like") for d in range(3)
    }
    sigmas = [abs(row[-1]) for row in table["rows"]]
    assert sigmas == sorted(sigmas, reverse=True)


def test_raw_alone_names_the_cohort_that_is_off(tmp_path):
    rng = np.random.default_rng(1)
    p = rng.beta(2, 4, 4000)
    y = (rng.random(4000) < p).astype(float)
    device = rng.integers(0, 3, 4000)
    run = Run.create(tmp_path, "train", "mtml", argv=[], config={}, overrides=[])
    curves = {"raw": np.where(device == 1, p / 2, p)}
    for words, name in ((None, "device=1"), ({"device": ["other", "phone", "tv"]}, "device=phone")):
        found = record_calibration(run, "val", "like", curves, y, {"device": device}, words)
        worst = run.record["metrics"]["val/like/mce"]
        assert worst["segment"] == name and worst["p_value"] < 1e-6 and not worst["baselines"]
        assert found.cohorts[0][0] == name
    run.finish("ok")


def test_a_hashed_cohort_is_named_by_its_bucket(tmp_path):
    rng = np.random.default_rng(3)
    country, shown = rng.integers(0, 40, 2500), rng.random(2500) < 0.4
    like = rng.random(2500) < 0.1
    rows = [f"{c},{c % 3},{int(y)},{int(z)}" for c, y, z in zip(country, shown, like, strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join(["country,device,click,like", *rows]))
    config = ImpressionsConfig(
        path=str(tmp_path / "rows.csv"), sparse=["country", "device"], cohorts=["country", "device"],
        hashed={"country": 5}, labels={"click": "binary", "like": "binary"},
    )  # fmt: skip
    table = load_impressions(config)
    start, stop = table.bounds["test"]
    run = Run.create(tmp_path, "train", "mtml", argv=[], config={}, overrides=[])
    served, raw = rng.normal(size=(2, stop - start, 2))
    record_calibrations(run, "test", served - [0, 2], raw - [0, 3], table, ["click", "like"])
    run.finish("ok")
    metrics = run.record["metrics"]
    mean, click, like_ = (metrics[f"test/{name}ece"] for name in ("", "click/", "like/"))
    for found, name in ((mean["value"], "value"), (mean["baselines"]["perfect"], "perfect")):
        assert found == pytest.approx((click[name] + like_[name]) / 2) != pytest.approx(click[name], rel=0.02)
    assert mean["stderr"] == pytest.approx(np.hypot(click["stderr"], like_["stderr"]) / 2)
    for place, task in enumerate(("click", "like")):  # bin by bin, in a loop of its own
        labels, p = table.labels[start:stop, place], 1 / (1 + np.exp(-(raw - [0, 3])[:, place]))
        gaps = [abs((p - labels)[(p >= k / 15) & (p < (k + 1) / 15)].sum()) for k in range(15)]
        wanted = sum(gaps) / (stop - start)
        assert metrics[f"test/{task}/ece"]["baselines"]["uncalibrated"] == pytest.approx(wanted)
    both = [metrics[f"test/{task}/ece"]["baselines"]["uncalibrated"] for task in ("click", "like")]
    assert mean["baselines"]["uncalibrated"] == pytest.approx(np.mean(both)) != pytest.approx(mean["value"], rel=0.05)
    table_of = sections.read(run.path / "sections" / "calibration_test.json")["parts"][-1]
    named = {row[1] for row in table_of["rows"]}
    assert {f"device={d}" for d in range(3)} < named and any(name.startswith("country=") for name in named)


def test_a_rare_task_has_few_bins(tmp_path):
    rng = np.random.default_rng(2)
    p = np.full(3000, 0.015) * rng.uniform(0.5, 1.5, 3000)
    y = (rng.random(3000) < p).astype(float)
    run = Run.create(tmp_path, "train", "mtml", argv=[], config={}, overrides=[])
    (bins,) = record_calibration(run, "test", "share", {"served": p}, y, {}).bins.values()
    run.finish("ok")
    assert 3 <= len(bins) == y.sum() // 10 < 7
