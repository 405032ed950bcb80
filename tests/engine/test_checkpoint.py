import errno
import json
import multiprocessing
import os
import resource
from pathlib import Path

import pytest
import torch

from recsysml.engine import checkpoint, seeds
from recsysml.errors import JobError
from recsysml.files import sha256


def write(root, step, *, keep=2, is_best=False, value=1.0, size=4):
    tensors = {"a": torch.full((size,), value * step), "b": torch.arange(3)}
    return checkpoint.save(
        root, step, tensors, {"step": step, "list": [1, None, "x"], "t": torch.ones(2)}, {"model": {"kind": "tiny"}},
        keep=keep, is_best=is_best,
    )  # fmt: skip


def test_what_is_saved_comes_back(tmp_path):
    path = write(tmp_path, 100, is_best=True)
    assert path.name == "step-00000100"
    assert sorted(p.name for p in path.iterdir()) == ["checkpoint.json", "model.safetensors", "state.pt"]
    loaded = checkpoint.load(tmp_path / "best")
    assert torch.equal(loaded.tensors["a"], torch.full((4,), 100.0))
    assert loaded.state["list"] == [1, None, "x"]
    assert loaded.step == 100
    metadata = json.loads((path / "checkpoint.json").read_text())
    assert metadata["format"] == 1
    assert metadata["model"] == {"kind": "tiny"}
    assert set(metadata["files"]) == {"model.safetensors", "state.pt"}
    assert os.readlink(tmp_path / "last") == "step-00000100"


def test_a_tied_tensor_is_written_once_and_read_into_both_names(tiny, tmp_path):
    model, other = tiny.Model(), tiny.Model()
    tensors = checkpoint.weights(model)
    assert "head.weight" not in tensors
    checkpoint.save(tmp_path, 1, tensors, {}, {}, keep=1, is_best=False)
    checkpoint.put_weights(other, checkpoint.load_weights(tmp_path / "last")[0], tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    assert other.head.weight is other.embedding.weight


def test_weights_that_do_not_fit_are_named(tiny, tmp_path):
    tensors = checkpoint.weights(tiny.Model())
    tensors["more"] = tensors.pop("hidden.bias")
    tensors["norm.weight"] = torch.ones(5)
    with pytest.raises(JobError) as caught:
        checkpoint.put_weights(tiny.Model(), tensors, Path("there"))
    for part in ("there", "hidden.bias is missing", "more is unknown", "norm.weight is (5,), expected (8,)"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "checkpoint.json"])
@pytest.mark.parametrize("how", ["flip", "truncate", "remove"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(tmp_path, caplog, name, how):
    write(tmp_path, 1)
    file = write(tmp_path, 2) / name
    content = bytearray(file.read_bytes())
    if how == "remove":
        file.unlink()
    elif how == "truncate":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
    with pytest.raises(JobError, match=name):
        checkpoint.load(file.parent)
    assert checkpoint.latest_good(tmp_path).step == 1
    assert str(file) in caplog.text
    (tmp_path / "step-00000001" / "state.pt").unlink()
    with pytest.raises(JobError, match="every checkpoint"):
        checkpoint.latest_good(tmp_path)


class Surprise:
    def __reduce__(self):
        return (print, ("this ran",))


def test_a_state_that_could_run_code_is_refused(tmp_path, capsys):
    """Its checksum is right: whoever wrote it wrote that too."""
    path = write(tmp_path, 1)
    torch.save({"step": 1, "more": Surprise()}, path / "state.pt")
    metadata = json.loads((path / "checkpoint.json").read_text())
    metadata["files"]["state.pt"] = sha256(path / "state.pt")
    (path / "checkpoint.json").write_text(json.dumps(metadata))
    with pytest.raises(JobError, match=r"state\.pt holds more than tensors"):
        checkpoint.load(path)
    assert "this ran" not in capsys.readouterr().out


def test_nothing_saved_yet_is_no_error(tmp_path):
    assert checkpoint.latest_good(tmp_path / "none") is None
    (tmp_path / ".writing-step-00000003-1").mkdir()  # a crash while writing the first
    assert checkpoint.latest_good(tmp_path) is None


def test_retention_and_leftovers_of_a_crash(tmp_path):
    write(tmp_path, 1, is_best=True)
    (tmp_path / ".writing-step-00000002-99").mkdir()
    for step in (2, 3, 4):
        write(tmp_path, step)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best", "last", "step-00000001", "step-00000003", "step-00000004"
    ]  # fmt: skip
    write(tmp_path, 4, is_best=True, value=7.0)  # the same step again, as after a resume
    assert checkpoint.load(tmp_path / "last").tensors["a"][0] == 28.0
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_disk_that_fills_while_any_file_is_written_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch, nth):
    write(tmp_path, 1, is_best=True)
    before = {p: p.read_bytes() for p in (tmp_path / "step-00000001").iterdir()}
    count = 0

    def full(handle):
        nonlocal count
        count += 1
        if count == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(JobError, match=r"step-00000002: .*No space left on device.*step-00000001"):
        write(tmp_path, 2, is_best=True)
    monkeypatch.undo()
    assert {p: p.read_bytes() for p in (tmp_path / "step-00000001").iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best", "last", "step-00000001"]
    assert checkpoint.load(tmp_path / "best").step == 1


def _write_with_small_files(root, result):
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the kernel's refusal becomes an error
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        write(root, 2, size=1_000_000)
    except JobError as error:
        result.put(str(error))


def test_a_file_the_kernel_refuses_to_grow_leaves_the_old_checkpoint_whole(tmp_path):
    write(tmp_path, 1)
    context = multiprocessing.get_context("fork")
    result = context.Queue()
    process = context.Process(target=_write_with_small_files, args=(tmp_path, result))
    process.start()
    process.join(60)
    assert "step-00000002" in result.get(timeout=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last", "step-00000001"]
    assert checkpoint.latest_good(tmp_path).step == 1


def test_random_states_come_back_in_every_library(tmp_path):
    import random

    import numpy as np

    seeds.seed_everything(3)
    random.gauss(0, 1)  # leaves half of a pair behind
    np.random.randn(3)  # noqa: NPY002
    torch.save(seeds.state(), tmp_path / "state.pt")
    draw = lambda: (random.gauss(0, 1), random.random(), np.random.randn(3).tolist(), torch.rand(3).tolist())  # noqa: E731, NPY002
    first = draw()
    seeds.seed_everything(99)
    seeds.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == first


def test_other_weights_in_a_checkpoint_leave_the_rest_as_it_is(tmp_path):
    for step in (1, 2):
        checkpoint.save(
            tmp_path, step, {"w": torch.full((2,), float(step))}, {"step": step}, {"a": 1}, keep=2, is_best=step == 1
        )
    checkpoint.replace_weights(tmp_path / "best", {"w": torch.full((2,), 9.0)})
    found = checkpoint.load(tmp_path / "best")  # its checksums fit
    assert found.tensors["w"].tolist() == [9.0, 9.0]
    assert found.state == {"step": 1} and found.metadata["a"] == 1
    assert checkpoint.load(tmp_path / "last").tensors["w"].tolist() == [2.0, 2.0]
    assert [path.name for path in sorted(tmp_path.glob("*"))] == ["best", "last", "step-00000001", "step-00000002"]
