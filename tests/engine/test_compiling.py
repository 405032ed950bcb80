"""A compiler that fails in one process of several: the others must not wait for gradients that never come."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import datetime, json, sys
import torch
import torch.distributed as dist
from recsysml.engine import device
from recsysml.engine.compiling import compile_loss
from recsysml.engine.distributed import World

rank, broken, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
wait = datetime.timedelta(seconds=20)  # a process that waits for the other one's gradients fails after it
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=wait)
world, machine = World(rank, 2), device.Machine(torch.device("cpu"), "fp32")
torch.manual_seed(0)
model = torch.nn.Linear(3, 1)
forward = world.wrap(model, machine.device)

def loss(x):
    return forward(x).square().mean(), {}

def compiler(function, **settings):
    def call(*batch):
        if rank == broken:
            raise RuntimeError("no compiler here")
        return function(*batch)
    return call

torch.compile = compiler
compute = compile_loss(loss, forward, (torch.ones(2, 3),), machine, world)
assert all(p.grad is None for p in model.parameters())
compute(torch.full((2, 3), float(rank)))[0].backward()
print(json.dumps({"compiled": compute is not loss, "gradient": model.weight.grad.tolist()}))
dist.destroy_process_group()
"""


@pytest.mark.parametrize("broken", [0, 1, None])
def test_all_processes_go_on_alike(tmp_path: Path, broken: int | None) -> None:
    words = [str(-1 if broken is None else broken), str(tmp_path / "store")]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )
        for rank in (0, 1)
    ]  # fmt: skip
    said = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    found = [json.loads(output.splitlines()[-1]) for output, _ in said]
    assert [each["compiled"] for each in found] == [broken is None] * 2
    assert found[0]["gradient"] == found[1]["gradient"]  # averaged from then on
