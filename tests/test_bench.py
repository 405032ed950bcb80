"""The benchmarks compare what they say they compare: the same steps on the same weights. Speed itself is not tested."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCH = Path(__file__).parents[1] / "scripts" / "bench"


@pytest.fixture
def contenders(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The contenders of the training step, on a model of a few thousand parameters."""
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    monkeypatch.syspath_prepend(BENCH)
    module = importlib.import_module("contenders")
    for name, value in {"LAYERS": 2, "WIDTH": 32, "HEADS": 4, "CONTEXT": 16, "ROWS": 3}.items():
        monkeypatch.setattr(module, name, value)
    yield module
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(before[0])
    torch.set_float32_matmul_precision(before[1])
    for name in ("contenders", "duel", "plain_gpt"):
        sys.modules.pop(name, None)


def test_our_step_is_the_plain_models_step_loss_by_loss(contenders: ModuleType) -> None:
    plain, ours = contenders.plain(300), contenders.ours(300, {"compile": "false", "precision": "fp32"})
    losses = [(plain(i), ours(i)) for i in range(41)]  # the eight batches again and again
    assert losses[40][0] < losses[0][0] - 0.1  # both learn, or agreeing would say little
    for theirs, own in losses:
        assert own == pytest.approx(theirs, abs=1e-3)  # GELU's tanh form against the exact one


def test_the_peers_step_begins_at_the_loss_of_an_even_guess(contenders: ModuleType) -> None:
    pytest.importorskip("transformers")
    for make in (contenders.plain, contenders.transformers):
        assert make(300)(0) == pytest.approx(torch.tensor(300.0).log().item(), abs=0.1)


def test_every_benchmark_can_be_imported_and_the_losses_steps_are_read_right() -> None:
    """What `make bench` runs, up to the clock; and the first step that is as good as the other arm's end."""
    code = (
        "import run, policy, loss\n"
        "curve = [(0, 5.0), (10, 2.0), (20, 1.5), (30, 1.6)]\n"
        "assert [loss.reached(curve, target) for target in (9, 1.5, 1.55, 1)] == [0, 20, 20, None]\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{BENCH.parents[1]}:{BENCH}"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
