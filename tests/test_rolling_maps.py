"""Maps fitted again and again, against a logistic regression of scikit-learn on the rows before each part."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

_SPEC = importlib.util.spec_from_file_location(
    "rolling_maps", Path(__file__).parents[1] / "scripts" / "rolling_maps.py"
)
assert _SPEC is not None and _SPEC.loader is not None
rolling = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(rolling)


@pytest.mark.parametrize("seed", [0, 1])
def test_each_part_is_mapped_by_the_window_before_it_and_by_no_answer_of_its_own(seed):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(460, 2))
    y = (rng.random(z.shape) < expit(1.5 * z - 0.5 + np.linspace(0, 1, 460)[:, None])).astype(float)
    found = rolling.again("platt", z, y, 300, 200, 50)
    assert found.shape == (160, 2)
    for place, at in enumerate((300, 350, 400, 450)):
        for task in range(2):
            model = LogisticRegression(C=1e10, tol=1e-8).fit(z[at - 200 : at, [task]], y[at - 200 : at, task])
            expected = model.decision_function(z[at : at + 50, [task]])
            np.testing.assert_allclose(found[place * 50 : place * 50 + 50, task], expected, atol=1e-3)
    later = y.copy()
    later[350:] = 1 - later[350:]
    changed = rolling.again("platt", z, later, 300, 200, 50)
    assert np.array_equal(changed[:100], found[:100]) and not np.allclose(changed[100:], found[100:], atol=0.1)
