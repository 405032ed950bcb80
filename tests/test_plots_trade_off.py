"""The trade-off of a run and of a sweep as pictures."""

import numpy as np
from matplotlib.image import imread

from recsysml.plots_trade_off import sweep_curves, sweep_trade_off_plot, trade_off_plot

PAIR = ("test/minutes", "test/revenue")


def sweep(points, statuses=None):
    rows = [
        {"status": status, "metrics": {name: {"value": value} for name, value in zip(PAIR, point, strict=True)}}
        for point, status in zip(points, statuses or ["ok"] * len(points), strict=True)
    ]
    return {"name": "grid", "jobs": rows}


def test_seeds_are_averaged_and_a_curve_follows_what_was_swept():
    settings = [(method, dial, seed) for method in ("a", "b") for dial in ("2", "0", "10") for seed in ("1", "2")]
    changed = [[f"model.method={m}", f"model.dial={d}", f"data.seed={s}"] for m, d, s in settings]
    points = [(float(d) + float(s), (m == "b") - float(d)) for m, d, s in settings]
    curves = sweep_curves(sweep(points), changed, PAIR)
    assert list(curves) == ["model.method=a", "model.method=b"]
    np.testing.assert_allclose(curves["model.method=a"], [[1.5, 0], [3.5, -2], [11.5, -10]])
    np.testing.assert_allclose(curves["model.method=b"], [[1.5, 1], [3.5, -1], [11.5, -9]])


def test_what_failed_is_left_out(tmp_path):
    changed = [["model.dial=1"], ["model.dial=2"], []]
    curves = sweep_curves(sweep([(1, 1), (2, 2), (3, 3)], ["ok", "failed", "ok"]), changed, PAIR)
    np.testing.assert_allclose(curves["by model.dial"], [[1, 1], [3, 3]])
    sweep_trade_off_plot(sweep([(1, 1)], ["failed"]), [[]], PAIR, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_curves_and_points_are_drawn(tmp_path):
    curves = {"line": np.array([[0, 1.0], [1, 0.5], [2, 0]]), "point": np.array([[1, 0.2]])}
    picture = imread(trade_off_plot(tmp_path / "plots" / "trade.png", "title", curves))
    for wanted in ((0x2F, 0x6F, 0xB3), (0xD9, 0x62, 0x2B)):
        assert (np.abs(picture[..., :3] - np.array(wanted) / 255).max(-1) < 0.06).mean() > 0.0001
