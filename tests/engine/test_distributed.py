"""Several processes as one: what a GPU's process is told, and that one stops no earlier than the other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from recsysml.engine import distributed
from recsysml.engine.distributed import World

HERE = Path(__file__).parent


def test_a_gpus_process_averages_on_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is needed for it: what torch would be asked is looked at."""
    asked: list[Any] = []
    monkeypatch.setattr(distributed, "DistributedDataParallel", lambda model, device_ids: asked.append(device_ids))
    model = nn.Linear(1, 1)
    for device in ("cuda:1", "cpu"):
        World(1, 2).wrap(model, torch.device(device))
    assert asked == [[1], None]
    assert World().wrap(model, torch.device("cpu")) is model


@pytest.mark.parametrize(("device", "backend"), [("cuda:1", "cpu:gloo,cuda:nccl"), ("cpu", "gloo")])
def test_counts_travel_between_cpus_also_beside_gpus(
    monkeypatch: pytest.MonkeyPatch, device: str, backend: str
) -> None:
    """`World.total` and `any` sum tensors of the CPU, which nccl cannot."""
    asked: list[str] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    monkeypatch.setattr(dist, "init_process_group", asked.append)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: asked.append("left"))
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    with distributed.world(torch.device(device)) as world:
        assert (world.rank, world.size, world.main) == (1, 2, False)
    assert asked == [backend, "left"]


PROGRAM = """
import datetime, importlib.util, json, os, signal, sys
from pathlib import Path
import torch
import torch.distributed as dist
from recsysml.engine import device
from recsysml.engine.distributed import World
from recsysml.engine.loop import Task, fit
from recsysml.errors import Interrupted
from recsysml.schemas.trainers import LanguageTrainerConfig

rank, store, folder, stand_ins = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4]
spec = importlib.util.spec_from_file_location("stand_ins", stand_ins)
parts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(parts)
wait = datetime.timedelta(seconds=20)  # a process that goes on alone fails after it
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=wait)
calls = []

def loss(forward, tokens, targets):
    calls.append(1)
    if rank == 1 and len(calls) == 3:
        os.kill(os.getpid(), signal.SIGTERM)  # as a cluster may send it to one of them first
    value = forward(tokens, targets)
    return value, {"train/loss": value}

settings = LanguageTrainerConfig(
    max_steps=9, batch_size=8, warmup_steps=1, compile=False, precision="fp32", eval_every=0, checkpoint_every=0
)
try:
    fit(
        parts.TinyModel(), parts.TinyBatches(rank=rank, size=2),
        Task(loss=loss, weight=lambda batch: 1, evaluate=lambda step: {"val/loss": 1.0}),
        settings, parts.FakeRun(folder) if rank == 0 else None,
        machine=device.prepare("cpu", "fp32", threads=1), world=World(rank, 2),
        metadata={"model": {}}, progress="never",
    )
except Interrupted as stop:
    print(json.dumps({"stop": str(stop), "steps": len(calls)}))
dist.destroy_process_group()
"""


def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path: Path) -> None:
    words = [str(tmp_path / "store"), str(tmp_path / "run"), str(HERE / "conftest.py")]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=HERE.parents[1],
        )
        for rank in (0, 1)
    ]  # fmt: skip
    said = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    found = [json.loads(output) for output, _ in said]
    assert found == [{"stop": "stopped after step 3 of 9; the checkpoint is saved", "steps": 3}] * 2
    assert (tmp_path / "run" / "checkpoints" / "last").resolve().name == "step-00000003"
