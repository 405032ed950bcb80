"""The pictures: made from what was logged, with what was logged in them."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from recsysml import plots


def log(folder, rows):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def colour_share(path, colour):
    """Share of pixels that have nearly this colour."""
    wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return (np.abs(imread(path)[..., :3] - wanted).max(-1) < 0.06).mean()


def test_loss_plot_shows_both_losses(tmp_path):
    rows = [
        {"step": s, "train/loss": 8 * math.exp(-s / 50) + 2, "lr": 1e-3, "tokens_per_second": 5e3} for s in range(200)
    ]
    rows += [{"step": s, "val/loss": 3.0 + s / 100, "val/bits_per_byte": 1.2 + s / 250} for s in range(0, 200, 50)]
    path = plots.loss_plot(log(tmp_path / "run", rows))
    assert path == tmp_path / "run" / "plots" / "loss.png"
    assert imread(path).shape[0] > 500
    assert colour_share(path, plots._BLUE) > 0.001
    assert colour_share(path, plots._ORANGE) > 0.001
    without = plots.loss_plot(log(tmp_path / "other", [row for row in rows if "val/loss" not in row]))
    assert colour_share(without, plots._ORANGE) == 0


def test_a_run_without_validation_loss_shows_its_first_metric_instead(tmp_path):
    rows = [{"step": s, "train/loss": 4.0, "events_per_second": 1e4 + s, "lr": 1e-3} for s in range(50)]
    rows += [{"step": s, "val/recall@20": s / 100} for s in (0, 25, 49)]
    path = plots.loss_plot(log(tmp_path / "run", rows))
    assert colour_share(path, plots._ORANGE) > 0.0005
    assert colour_share(path, plots._GREEN) > 0.0005  # the events a second


def test_vectors_are_drawn_also_where_they_have_collapsed(tmp_path):
    shares = {"users": np.array([0.6, 0.4, 0.0]), "items": np.array([1.0, 0.0, 0.0])}
    path = plots.vector_plot(tmp_path, "test", shares, {1: 0.5, 10: 2.0})
    assert path == tmp_path / "plots" / "vectors_test.png"
    assert colour_share(path, plots._BLUE) > 0.0005
    assert colour_share(path, plots._GREEN) > 0.01


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 0, "val/loss": 3.0}],
        [{"step": 1, "train/loss": None, "lr": 0.0}],
        [{"step": s, "train/loss": 1.0, "val/loss": -1.0, "val/bits_per_byte": 0.0} for s in range(3)],
    ],
)
def test_little_or_odd_rows_still_give_a_picture(tmp_path, rows):
    assert imread(plots.loss_plot(log(tmp_path / "run", rows))).ndim == 3


def test_smoothing_is_a_centred_mean_that_keeps_lines_straight():
    line = np.linspace(3, 1, 200)
    assert plots._smooth(line) == pytest.approx(line)
    values = np.random.default_rng(0).normal(size=200)
    smooth = plots._smooth(values)
    assert smooth[100] == pytest.approx(values[96:105].mean())
    assert smooth[0] == values[0]


def sweep(settings, values, statuses=None):
    statuses = statuses or ["ok"] * len(values)
    jobs = [
        {"status": status, "metrics": {"val/loss": {"value": value, "better": "lower"}} if status == "ok" else {}}
        for value, status in zip(values, statuses, strict=True)
    ]
    best = {"metric": "val/loss", "better": "lower"}
    return {"name": "grid", "jobs": jobs, "best": best}, settings


@pytest.mark.parametrize(
    "settings",
    [
        [["trainer.lr=1e-3"], ["trainer.lr=3e-3"], ["trainer.lr=1e-2"]],
        [["seed=1"], ["seed=2"], ["seed=3"]],
        [["model=gpt2"], ["model=gpt2_modern"], []],
        [["trainer.lr=0.1", "model=gpt2"], ["trainer.lr=0", "model=gpt2"], ["trainer.lr=0.1", "model=gpt2_modern"]],
        [[], [], []],
    ],
)
def test_sweep_plots(tmp_path, settings):
    plots.sweep_plot(*sweep(settings, [3.0, 2.9, 3.1]), tmp_path / "plots" / "sweep.png")
    assert colour_share(tmp_path / "plots" / "sweep.png", plots._BLUE) >= 0.0001


def test_a_setting_too_long_to_stand_beside_others_stands_below_them(tmp_path):
    """Its values then lie on one line across the picture, and no label reaches beyond it."""
    long = ['model.expression="(0.5 * p_click + p_long_view + p_like + 2 * p_share) / max(0.1, p_leave)"']
    plots.sweep_plot(*sweep([[*long, f"seed={seed}"] for seed in (1, 2, 3)], [3.0, 2.5, 2.0]), tmp_path / "a.png")
    picture = imread(tmp_path / "a.png")[..., :3]
    blue = picture[..., 2] - picture[..., 0] > 0.15
    rows, columns = np.nonzero(blue)
    assert np.ptp(rows) < 0.1 * len(picture) < np.ptp(columns)
    plots.sweep_plot(*sweep([["lr=1"], ["lr=1"], ["lr=1"]], [3.0, 2.5, 2.0]), tmp_path / "b.png")
    assert picture.shape[1] < 1.1 * imread(tmp_path / "b.png").shape[1]


def test_the_axis_is_the_numeric_key_with_most_values_and_never_the_seed():
    settings = [{"a": "1", "b": str(i), "c": f"x{i}", "seed": str(i)} for i in range(3)]
    assert plots.x_axis(["a", "c", "b", "seed"], settings) == "b"
    assert plots.x_axis(["seed"], settings) == "seed"
    assert plots.x_axis([], [{}]) is None


def test_failed_jobs_are_left_out_and_an_empty_sweep_draws_nothing(tmp_path):
    content, settings = sweep([["lr=1"], ["lr=2"]], [1.0, 2.0], ["ok", "failed"])
    plots.sweep_plot(content, settings, tmp_path / "one.png")
    assert (tmp_path / "one.png").exists()
    content, settings = sweep([["lr=1"], ["lr=2"]], [1.0, 2.0], ["interrupted", "failed"])
    plots.sweep_plot(content, settings, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_jobs_of_another_metric_have_a_panel_of_their_own(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: drawn.append(figure))
    settings = [["model=gpt2", f"lr={lr}", f"seed={seed}"] for lr in (1, 2) for seed in (1, 2)]
    content, changed = sweep(settings * 2, [3.0, 2.0, 4.0, 6.0, 0.1, 0.3, 0.5, 0.5])
    for row in content["jobs"][4:]:
        row["metrics"] = {"val/ndcg@20": {"value": row["metrics"]["val/loss"]["value"], "better": "higher"}}
    changed[4:] = [[word.replace("gpt2", "sasrec") for word in words] for words in changed[4:]]
    plots.sweep_plot(content, changed, tmp_path / "sweep.png")
    upper, lower = drawn[0].axes
    assert (upper.get_ylabel(), lower.get_ylabel()) == (
        "val/loss (lower is better)",
        "val/ndcg@20 (higher is better)",
    )
    assert upper.get_title(loc="left") == "sweep grid model=gpt2" and lower.get_xlabel() == "lr"
    # of each panel the first line is the means over seeds
    assert [axes.lines[0].get_xydata().tolist() for axes in (upper, lower)] == [
        [[1, 2.5], [2, 5.0]],
        [[1, pytest.approx(0.2)], [2, 0.5]],
    ]


def test_importing_plots_loads_no_matplotlib():
    code = "import sys, recsysml.plots; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
