"""The experiments about ranking, tiny, from the command to the report: every claim has its table and its picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recsysml.cli import main
from recsysml.report.gather import gather
from recsysml.report.sweeps import sweeps_of

TINY = [
    "data.users=30", "data.items=100", "data.events=600", "device=cpu", "threads=1", "progress=never",
    "tracker.mode=disabled",
]  # fmt: skip
RANKER = [
    "trainer.max_steps=2", "trainer.warmup_steps=1", "trainer.eval_every=0", "trainer.batch_size=64",
    "model.d_embedding=4", "model.expert_widths=[8]", "model.tower_widths=[4]", "model.context_length=5",
    "model.tasks=[click]", "eval.baselines=[base_rate]",  # each task has two diagrams, which cost the most
]  # fmt: skip
# of each: what is added, two settings of what it sweeps (quoted as the experiment has them), and what the table shows
EXPERIMENTS = {
    "calibration_launch": ([*RANKER, "eval.value=p_click"], "trainer.listwise_weight=0.0,50.0", "test/true_reward"),
    "cohort_calibration": (
        [*RANKER, "model.calibrate_cohorts=true"], "model.calibration=none,platt", "test/ece",
    ),
    "user_representation_ranking": (RANKER, "model.user=id_table,mixture", "test/auc"),
    "retention_heads": (
        ["eval.requests=30"], 'model.expression="p_click","p_click + 0.1 * p_later_items"', "test/page/session",
    ),
    "reward_over_risk": (["eval.requests=30"], 'model.expression="p_click","p_click / p_leave"', "test/page/session"),
    "value_model_targets": (["eval.requests=30"], "trainer.measure=loo,regret", "test/importance_l1"),
}  # fmt: skip
# swept by the experiment beside that: one value each
ONE = {"value_model_targets": ["++model.importance={click:3,long_view:5}"]}


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_a_claim_goes_from_its_command_to_a_table_and_a_picture(name: str, own_outputs: Path, tmp_path: Path) -> None:
    words, swept, metric = EXPERIMENTS[name]
    world = name in ("retention_heads", "reward_over_risk", "value_model_targets")
    seed = "data.seed=1" if world else "seed=1"
    argv = ["train", f"experiment={name}", "-m", swept, *ONE.get(name, []), seed, *words, *TINY]
    assert main(argv) == 0
    (folder,) = (own_outputs / "sweep").iterdir()
    jobs = json.loads((folder / "sweep.json").read_text())["jobs"]
    assert [job["status"] for job in jobs] == ["ok", "ok"]
    (sweep,) = sweeps_of(gather([str(folder)]))
    column = sweep.table.columns.index(metric)
    values = [json.loads((folder / job["path"] / "results.json").read_text())["metrics"][metric] for job in jobs]
    assert [float(row[column].text) for row in sweep.table.rows] == pytest.approx(
        [value["value"] for value in values], rel=1e-2
    )
    assert (folder / "plots" / "sweep.png") in sweep.pictures
    if name == "cohort_calibration":  # the page is made alike of each
        assert main(["report", str(folder), "-o", str(tmp_path / "page.html")]) == 0
        page = (tmp_path / "page.html").read_text()
        assert f"Sweep {folder.name}" in page and metric in page and "data:image/png;base64," in page
