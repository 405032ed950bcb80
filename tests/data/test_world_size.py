"""A world that cannot fit is refused before anything is made; what the bound says is less than what it takes."""

import subprocess
import sys
from pathlib import Path

import pytest

from recsysml.cli import main
from recsysml.data import world_size
from recsysml.errors import ConfigError
from recsysml.schemas.data import WorldConfig

LOADS = {"interactions": "load", "impressions": "load_impressions", "slates": "load_slates"}
STATUS = Path("/proc/self/status")


def least(config, family, monkeypatch):
    """The bytes that the bound asks for: the largest memory at which it refuses, and one more."""
    low, high = 0, 1 << 50
    while high - low > 1:
        middle = (low + high) // 2
        monkeypatch.setattr(world_size, "memory", lambda middle=middle: middle)
        try:
            world_size.check(config, family)
            high = middle
        except ConfigError:
            low = middle
    return high


@pytest.mark.skipif(not STATUS.is_file(), reason="needs the peak of a process's memory, which /proc has")
@pytest.mark.parametrize(
    ("family", "sizes"),
    [(family, {"events": 300_000 if family == "interactions" else 100_000}) for family in LOADS]
    + [("interactions", {"users": 20_000}), ("interactions", {"items": 50_000})],
)
def test_the_bound_is_below_what_a_world_takes_and_not_far(family, sizes, monkeypatch):
    config = WorldConfig(**{"users": 100, "items": 200, "events": 1000, **sizes})
    code = f"""
import polars
from recsysml.data import world
from recsysml.schemas.data import WorldConfig
def told(name):
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(name))) * 1024
kept = world.{LOADS[family]}(WorldConfig(users=100, items=200, events=1000))
before = told("VmRSS")
kept = world.{LOADS[family]}({config!r})
print(told("VmHWM") - before)
"""
    took = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert took / 4 < least(config, family, monkeypatch) < took


def test_what_cannot_fit_says_what_it_would_take(monkeypatch):
    monkeypatch.setattr(world_size, "memory", lambda: 24 * 10**9)
    for family, sizes, said in (
        ("impressions", {"events": 10**9}, r"data\.events=1000000000: such a world takes 700 GB .* has 24; give"),
        ("interactions", {"events": 10**9}, "takes 50 GB"),
        ("slates", {"events": 10**7}, "takes 25 GB"),
        ("interactions", {"users": 10**8}, r"data\.users=100000000: such a world takes 500 GB"),
    ):
        with pytest.raises(ConfigError, match=said):
            world_size.check(WorldConfig(**sizes), family)
    world_size.check(WorldConfig(events=10**8), "interactions")  # 5 GB
    monkeypatch.setattr(world_size, "memory", lambda: None)
    world_size.check(WorldConfig(events=10**9), "slates")


@pytest.mark.parametrize("more", [[], ["-m", "seed=1,2"]])
def test_it_is_found_before_there_is_a_run(own_outputs, capsys, monkeypatch, more):
    monkeypatch.setattr(world_size, "memory", lambda: 10**6)
    small = ["data.users=300", "data.items=100", "data.events=1000", "eval.baselines=[]", "device=cpu"]
    assert main(["train", "model=popularity", "data=world", *small, *more]) == 2
    error = capsys.readouterr().err
    assert "error: data.users=300: such a world takes" in error and error.count("\n") == 1
    assert not own_outputs.exists()


def test_the_machine_says_its_memory():
    assert world_size.memory() is None or world_size.memory() > 10**8
