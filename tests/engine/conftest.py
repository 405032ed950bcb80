"""Stand-ins small enough to check a loop by hand: a model, batches from a seed, a run that remembers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from recsysml.engine import device, seeds
from recsysml.engine.distributed import World
from recsysml.engine.loop import Task, fit
from recsysml.schemas.trainers import LanguageTrainerConfig

VOCAB, WIDTH, LENGTH = 13, 8, 6


class TinyModel(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        self.head.weight = self.embedding.weight  # two names, one tensor

    def hidden_matrices(self) -> list[nn.Parameter]:
        return [self.hidden.weight]

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        x = x + self.dropout(torch.relu(self.hidden(self.norm(x))))
        return functional.cross_entropy(self.head(x).flatten(0, 1), targets.flatten(), ignore_index=-100)


class TinyBatches:
    """Batch i is a function of (seed, i); some targets are left out, so that micro-batches weigh differently."""

    def __init__(self, rows: int = 8, seed: int = 1, rank: int = 0, size: int = 1) -> None:
        self.rows, self.seed, self.rank, self.size = rows, seed, rank, size

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 10_007 + i)
        tokens = torch.randint(VOCAB, (self.rows, LENGTH + 1), generator=generator)
        targets = (tokens[:, :-1] * 3 + 1) % VOCAB  # something to learn
        targets[torch.rand(targets.shape, generator=generator) < 0.3] = -100
        return tokens[self.rank :: self.size, :-1], targets[self.rank :: self.size]


class FakeRun:
    def __init__(self, path) -> None:
        self.path, self.rows = path, []

    def log(self, step, values) -> None:
        self.rows.append({"step": step, **values})

    def column(self, name):
        return {row["step"]: row[name] for row in self.rows if name in row}


@pytest.fixture
def tiny(tmp_path):
    def config(**changes):
        plain = {"max_steps": 6, "batch_size": 8, "lr": 0.02, "warmup_steps": 2, "compile": False, "precision": "fp32"}
        return LanguageTrainerConfig(**{**plain, "eval_every": 3, "checkpoint_every": 2, **changes})

    def loss(forward, tokens, targets):
        value = forward(tokens, targets)
        return value, {"train/loss": value}

    def train(settings, run=None, *, model=None, batches=None, world=None, resume=None, seed=1, task=None, **changes):
        """Train the stand-in and return (model, run, fitted)."""
        machine = device.prepare("cpu", settings.precision, threads=1, deterministic=True)
        seeds.seed_everything(seed)
        model = model or TinyModel(dropout=0.1)
        run = run or FakeRun(tmp_path / "run")
        held_out = TinyBatches(seed=99)[0]

        def evaluate(step):
            with torch.no_grad():
                return {"val/loss": model(*held_out).item()}

        parts = {
            "loss": loss,
            "weight": lambda batch: int((batch[1] != -100).sum()),
            "evaluate": evaluate,
            "flops_per_target": 6.0 * 1000,
        }
        fitted = fit(
            model,
            batches or TinyBatches(),
            task or Task(**{**parts, **changes}),
            settings,
            run,
            machine=machine,
            world=world or World(),
            metadata={"model": {"kind": "tiny", "config": {}, "vocab_size": VOCAB}},
            resume=resume,
            progress="never",
        )
        return model, run, fitted

    return SimpleNamespace(config=config, train=train, Model=TinyModel, Batches=TinyBatches, Run=FakeRun, loss=loss)
