"""One real run, as small as it can be: text in, a record out, nothing of Hydra."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from recsysml import job
from recsysml.config import compose
from recsysml.errors import ConfigError
from recsysml.results import Run
from recsysml.schemas.run import RunConfig

TINY = [
    "data=text", "data.tokenizer=bytes", "data.val_fraction=0.2", "data.test_fraction=0.2", "tracker.mode=disabled",
    "model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.context_length=16", "trainer.max_steps=4",
    "trainer.batch_size=4", "trainer.warmup_steps=1", "trainer.compile=false", "trainer.eval_every=2",
    "trainer.checkpoint_every=2", "trainer.sample_tokens=2", "device=cpu", "threads=1", "progress=never",
]  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    (tmp_path / "text.txt").write_text("".join(f"line {i} of a small text, {i * i}\n" for i in range(200)))
    return compose([*TINY, f"data.path={tmp_path / 'text.txt'}"])


def start(config: RunConfig, outputs: Path) -> Run:
    return Run.create(outputs, "train", "tiny", argv=["test"], config=job.to_dict(config), overrides=[])


def test_resolve_leaves_no_auto_and_its_input_alone(config: RunConfig) -> None:
    config.device = "auto"
    resolved = job.resolve(config)
    assert resolved.device != "auto"
    assert resolved.model.size in ("nano", "small")
    assert resolved.trainer.precision in ("fp32", "bf16")
    assert resolved.trainer.deterministic is resolved.device.startswith("cpu")
    assert (config.device, config.model.size, config.trainer.precision) == ("auto", "auto", "auto")
    assert resolved.model.d_model == 16  # a number of its own is kept
    said = job.what_auto_became(config, resolved)
    assert f"device=auto is {resolved.device}" in said
    assert "size" not in said  # every dimension has a number of its own
    assert "attention" not in said or "attention=auto is" in said
    assert job.resolve(resolved) == resolved
    assert job.what_auto_became(resolved, resolved) == ""


@pytest.mark.parametrize("open_dimension", ["n_layers", "n_heads", "d_model", "context_length"])
def test_a_size_is_said_where_it_decides_something(config: RunConfig, open_dimension: str) -> None:
    setattr(config.model, open_dimension, None)
    resolved = job.resolve(config)
    assert f"model.size=auto is {resolved.model.size}" in job.what_auto_became(config, resolved)


def test_a_device_that_is_not_there(config: RunConfig) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    config.device = "cuda"
    with pytest.raises(ConfigError, match="device=cuda"):
        job.resolve(config)


def test_train_then_evaluate_then_the_record(config: RunConfig, own_outputs: Path) -> None:
    resolved = job.resolve(config)
    run = start(resolved, own_outputs)
    job.run(resolved, run)
    record = json.loads((run.path / "results.json").read_text())
    assert record["run"]["status"] == "ok"
    assert {"val/loss", "val/bits_per_byte", "test/loss"} <= set(record["metrics"])
    assert record["model"]["name"] == config.model.name
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "val/loss" in row] == [0, 2, 4]

    evaluation = Run.create(own_outputs, "eval", "tiny", argv=[], config=job.to_dict(resolved), overrides=[])
    job.run(resolved, evaluation, run.path / "checkpoints" / "best")
    judged = json.loads((evaluation.path / "results.json").read_text())
    assert judged["run"]["status"] == "ok"
    assert judged["metrics"]["val/loss"]["value"] == pytest.approx(record["metrics"]["val/loss"]["value"], rel=1e-5)
    assert judged["model"] == record["model"] | {"trainable": 0}
    for part in ("data", "protocol"):  # else `diff` could not compare a training with its evaluation
        assert judged[part] == record[part]


def test_same_in_same_out(config: RunConfig, own_outputs: Path) -> None:
    resolved = job.resolve(config)
    rows = []
    for _ in range(2):
        run = start(resolved, own_outputs)
        job.run(resolved, run)
        lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
        rows.append([{k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second")} for row in lines])
    assert rows[0] == rows[1]


def test_job_knows_nothing_of_hydra() -> None:
    tree = ast.parse(Path(job.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert not {name for name in names if name.split(".")[0] in ("hydra", "omegaconf")}
