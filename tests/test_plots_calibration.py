"""The reliability diagram: a picture with a line for each curve, and little or odd bins."""

import numpy as np
from matplotlib.image import imread

from recsysml import plots
from recsysml.metrics.calibration import reliability
from recsysml.plots_calibration import reliability_plot


def colour_share(path, colour):
    wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return (np.abs(imread(path)[..., :3] - wanted).max(-1) < 0.06).mean()


def test_each_curve_is_drawn(tmp_path):
    rng = np.random.default_rng(0)
    p = rng.beta(1, 5, 4000)
    y = (rng.random(4000) < p).astype(float)
    curves = {"before": (np.sqrt(p), reliability(np.sqrt(p), y)), "after": (p, reliability(p, y))}
    path = reliability_plot(tmp_path / "plots" / "click.png", "click, test", curves)
    assert imread(path).shape[0] > 700
    assert colour_share(path, plots._BLUE) > 0.001 and colour_share(path, plots._ORANGE) > 0.001
    alone = reliability_plot(tmp_path / "one.png", "click", {"after": curves["after"]})
    assert colour_share(alone, plots._ORANGE) == 0


def test_the_spread_of_the_predictions_stands_below(tmp_path):
    """Of the same bins: predictions of which nearly all are low colour the left of the lower panel."""
    bins = reliability(np.array([0.1, 0.9]), np.array([0.0, 1.0]), 2)
    low = np.concatenate([np.full(990, 0.1), np.full(10, 0.9)])
    share = []
    for name, p in (("low", low), ("high", 1 - low)):
        picture = imread(reliability_plot(tmp_path / f"{name}.png", "", {"model": (p, bins)}))
        below = picture[int(0.78 * len(picture)) :, :, :3]
        blue = (below[..., 2] - below[..., 0]) > 0.08
        share.append(blue[:, : blue.shape[1] // 2].sum() / blue.sum())
    assert share[0] > share[1] + 0.15


def test_one_bin_no_positive_and_no_curve_still_give_a_picture(tmp_path):
    p = np.full(3, 0.2)
    assert imread(reliability_plot(tmp_path / "a.png", "", {"model": (p, reliability(p, np.zeros(3), 1))})).ndim == 3
    assert imread(reliability_plot(tmp_path / "b.png", "", {})).ndim == 3
