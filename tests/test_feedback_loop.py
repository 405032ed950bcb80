"""A deployed policy is logged as it acts, and the world answers it by its laws."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from recsysml.config import compose
from recsysml.data import world
from recsysml.data.world_truth import top_chances

_PATH = Path(__file__).parents[1] / "scripts" / "feedback_loop.py"
_SPEC = importlib.util.spec_from_file_location("feedback_loop", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
loop = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(loop)

SMALL = ["data.users=200", "data.items=200", "data.events=12000"]


def test_what_a_deployed_policy_shows_and_gets_is_drawn_by_its_probabilities_and_the_laws():
    config = compose(["model=policy_ranker", *SMALL]).data
    log = world.load_slates(config)
    random = np.random.default_rng(0)
    policy = np.where(log.mask, random.random(log.mask.shape) ** 4, 0.0)
    policy /= policy.sum(axis=1, keepdims=True)
    chances, rows, n = top_chances(config, config.actions), np.arange(len(log)), 25
    counts, done, expected = np.zeros(log.mask.shape), np.zeros(len(log.tasks)), np.zeros(len(log.tasks))
    for seed in range(n):
        found = loop.deployed(log, policy, config, np.random.default_rng(seed))
        assert found.propensity == pytest.approx(policy[rows, found.shown]) and found.slate is None
        assert found.fingerprint != log.fingerprint and found.mask[rows, found.shown].all()
        counts[rows, found.shown] += 1
        done += found.actions.mean(axis=0) / n
        expected += np.array([chances[task][rows, found.shown].mean() for task in log.tasks]) / n
        clicked = found.actions[:, 0] == 1
        assert next(iter(log.tasks)) == "click" and (found.actions[~clicked][:, 1:4] == 0).all()
    spread = (n * policy * (1 - policy)).sum()  # of binomial counts
    assert ((counts - n * policy) ** 2).sum() == pytest.approx(spread, rel=0.05) and (counts[~log.mask] == 0).all()
    np.testing.assert_allclose(done, expected, atol=4 * 0.5 / np.sqrt(n * len(log)))


def test_a_round_learns_from_what_the_round_before_has_shown(tmp_path, capsys, monkeypatch):
    more = ["threads=1", "trainer.supervised_steps=50", "trainer.supervised_lrs=[1e-1]", "trainer.max_steps=10",
            "trainer.reward_model_steps=50", "trainer.eval_every=5", "eval.folds=2"]  # fmt: skip
    argv = ["feedback_loop.py", "--seeds", "2", "--rounds", "2", "--outputs", str(tmp_path), *SMALL, *more]
    monkeypatch.setattr("sys.argv", argv)
    kept = world.load_slates
    loop.main()
    assert world.load_slates is kept
    said = capsys.readouterr().out
    assert said.count("round 2:") == 4 and "| supervised | 2 |" in said
    runs = sorted((tmp_path / "train").iterdir())
    prints = {loop.json.loads((run / "results.json").read_text())["data"]["fingerprint"] for run in runs}
    assert len(runs) == 8 and len(prints) == 6  # both rankers begin with the same log, of each seed
    (record,) = (tmp_path / "eval").iterdir()
    assert (record / "sections" / "feedback_loop.json").is_file()
