"""What every test stands on: caches and outputs of its own, no tracker, one thread."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from recsysml import data, evals, models, trainers
from recsysml.errors import DataError

# read by torch when it is first imported: workers side by side, with threads of their own each, wait for one another
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder for the whole session: data is prepared once, and nobody's own cache is read or written."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(autouse=True)
def own_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run directories go to the test's own folder, and W&B nowhere."""
    folder = tmp_path / "outputs"
    monkeypatch.setenv("RECSYSML_OUTPUTS", str(folder))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("WANDB_API_KEY", "RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A trainer, an eval and data that do as a test tells them (`error`, `bad_file`) and remember what they were given
    (`configs`, `checkpoints`): runs without data or a model."""
    told = SimpleNamespace(error=None, bad_file=None, configs=[], checkpoints=[])
    module = ModuleType("stand_ins")

    def train(config: Any, run: Any) -> None:
        told.configs.append(config)
        run.log(0, {"val/loss": 3.0})
        error = told.error(config) if callable(told.error) else told.error
        if error is not None:
            raise error
        run.set_model(config.model.name, config.model.kind, 10, 10)
        value = 2 + abs(config.trainer.lr - 0.002)
        for name in ("val/loss", "val/bits_per_byte"):
            run.metric(name, value, stderr=0.1, n=3, better="lower")
        folder = run.path / "checkpoints" / "step-00000003"
        folder.mkdir(parents=True, exist_ok=True)
        described = {"kind": "gpt", "config": {"name": config.model.name, "n_layers": 1}, "vocab_size": 300}
        (folder / "checkpoint.json").write_text(json.dumps({"model": described}))
        if not (run.path / "checkpoints" / "last").exists():
            (run.path / "checkpoints" / "last").symlink_to(folder.name)

    def evaluate(config: Any, checkpoint: Path, run: Any) -> None:
        told.configs.append(config)
        told.checkpoints.append(checkpoint)
        run.metric("val/loss", 2.0, stderr=0.1, n=3, better="lower")

    def check(config: Any) -> None:
        if told.bad_file:
            raise DataError(told.bad_file)

    module.train, module.evaluate, module.check = train, evaluate, check  # type: ignore[attr-defined]
    module.resolve_size = lambda config, on_gpu: config  # type: ignore[attr-defined]
    module.check_initial = lambda config: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stand_ins", module)
    monkeypatch.setitem(trainers.KINDS, "language", "stand_ins:train")
    monkeypatch.setitem(evals.KINDS, "language", "stand_ins:evaluate")
    monkeypatch.setitem(data.KINDS, "python_text", "stand_ins")
    monkeypatch.setitem(models.KINDS, "gpt", "stand_ins:GPT")
    return told


@pytest.fixture(autouse=True)
def plain_torch() -> Iterator[None]:
    """What a run sets for its process is taken back."""
    torch = sys.modules.get("torch")
    if torch is None:  # some tests hold that it is not loaded
        yield
        return
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(before[0])
    torch.set_float32_matmul_precision(before[1])
