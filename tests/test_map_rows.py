"""How many rows a map needs: the script's numbers against the world's own laws, loops and SciPy, on a tiny world."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from recsysml.data.world import load_impressions
from recsysml.data.world_log import open_world
from recsysml.data.world_truth import open_truth
from recsysml.models.mtml import MTML
from recsysml.schemas.data import WorldConfig
from recsysml.schemas.rankers import MTMLConfig

_SPEC = importlib.util.spec_from_file_location("map_rows", Path(__file__).parents[1] / "scripts" / "map_rows.py")
assert _SPEC is not None and _SPEC.loader is not None
map_rows = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(map_rows)


def test_the_truth_of_each_row_is_the_worlds_and_the_table_is_printed(capsys, monkeypatch):
    config = WorldConfig(users=60, items=150, events=1200, seed=1)
    small = {"d_embedding": 4, "expert_widths": [8], "tower_widths": [4], "context_length": 5}
    shape = load_impressions(config).shape
    torch.manual_seed(0)
    model = MTML(MTMLConfig(tasks=["click", "leave"], **small), shape).eval()
    monkeypatch.setattr(map_rows.configs, "read_run", lambda path: SimpleNamespace(data=config))
    monkeypatch.setattr(map_rows, "open_ranker", lambda path: SimpleNamespace(model=model, encoder=None))
    rows = map_rows.of_run(Path("run"))
    assert rows.z.shape == rows.y.shape == rows.p.shape and rows.test.stop == len(rows.z)
    assert rows.fits[0].stop == rows.fits[1].stop == rows.test.start and rows.fits[1].start == 0

    # one impression after another, by the laws of its slate, newest last
    world, truth, wanted = open_world(config), open_truth(config), []
    for index in range(len(world)):
        (requests, shown), laws = world.slice(index), truth.behind(index).slate
        for row, (r, k) in enumerate(zip(shown.requests, shown.positions, strict=True)):
            after = laws.leave_after_skip if shown.skip[row] else laws.leave_after_pass
            leave = (laws.leave_after_click if shown.click[row] else after)[r, k]
            key = (requests.times[r], requests.ids[r], k)
            wanted.append((key, laws.click[r, k], leave, shown.click[row], shown.leave[row]))
    wanted = np.array([values for _, *values in sorted(wanted)])[-len(rows.z) :]
    np.testing.assert_allclose(rows.p, wanted[:, :2])
    np.testing.assert_array_equal(rows.y, wanted[:, 2:])

    monkeypatch.setattr("sys.argv", ["map_rows.py", "run", "run", "--maps", "none", "--draws", "1"])
    map_rows.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        *(f"| {task}: {name}" for task in ("click", "leave") for name in
          ("labels", "by chance", "drift", "perfect, beyond", "perfect, largest z")),
        *(f"| none: {name}" for name in ("ECE", "z", "NE", "within")),
    ]  # fmt: skip
    assert all("| +0.0000 [+0.0000, +0.0000] |" in line for line in lines[-4:])  # no map, no rows


@pytest.mark.parametrize("seed", [0, 1])
def test_gaps_maps_and_intervals_are_those_of_loops_and_of_other_libraries(seed, capsys):
    rng = np.random.default_rng(seed)
    p = rng.beta(2, 3, (900, 2))
    y, z = (rng.random(p.shape) < p).astype(float), logit(p) * 0.5 + rng.normal(size=2)
    fits, test = (slice(200, 400), slice(0, 400)), slice(400, 900)
    rows = map_rows.Rows(["a", "b"], z, y, p, fits, test)
    found = map_rows.gaps(rows)
    for place, fit in enumerate(fits):
        for task in range(2):
            own = range(fit.start, fit.stop)
            assert found["labels"][place, task] == pytest.approx(abs(np.mean([y[i, task] - p[i, task] for i in own])))
            drawn = (rng.random((4000, len(own))) < p[fit, task]).mean(axis=1) - p[fit, task].mean()
            assert found["by chance"][place, task] == pytest.approx(np.abs(drawn).mean(), rel=0.05)
            lacks = [np.mean([p[i, task] - expit(z[i, task]) for i in span]) for span in (own, range(400, 900))]
            assert found["drift"][place, task] == pytest.approx(abs(lacks[1] - lacks[0]))
            model = LogisticRegression(C=1e10, tol=1e-8).fit(z[fit, [task]], y[fit, task])
            q = model.predict_proba(z[test, [task]])[:, 1]
            bins = np.minimum((q * 15).astype(int), 14)
            ece = sum(abs((q - y[test, task])[bins == b].sum()) for b in range(15)) / 500
            assert map_rows.judged("platt", z, y, fit, test)[task, 0] == pytest.approx(ece, abs=2e-4)

    drawn = map_rows.perfect(rows, 3, np.random.default_rng(seed))
    assert drawn.shape == (2, 3, 2)
    labels = (np.random.default_rng(seed).random(p.shape) < p).astype(float)
    for place, fit in enumerate(fits):
        np.testing.assert_array_equal(drawn[place, 0], map_rows.judged("platt", logit(p), labels, fit, test)[:, 1])

    values = rng.normal(size=(6, 2))
    ends = stats.ttest_rel(values[:, 1], values[:, 0]).confidence_interval()
    cells = map_rows.line("x", values).split(" | ")
    assert cells[1] == f"{values[:, 0].mean():.4f} ± {values[:, 0].std(ddof=1):.4f}"
    difference = np.diff(values).mean()
    assert cells[3] == f"{difference:+.4f} [{ends.low:+.4f}, {ends.high:+.4f}] |"
