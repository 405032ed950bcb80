"""W&B as a copy: the mode, a broken wandb in every place it can break, and one real offline run."""

import logging
import sys
import threading
import time
import types

import pytest

from recsysml import tracking
from recsysml.tracking import Tracker, has_key, resolve_mode


@pytest.fixture(autouse=True)
def no_account(tmp_path, monkeypatch):
    """No key and no wish of whoever runs the tests."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")  # the tracker sets it: here it is taken back
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


class FakeRun:
    def __init__(self):
        self.dir = "/nowhere/wandb/offline-run-x/files"
        self.rows, self.summary, self.ended = [], {}, None

    def define_metric(self, *_, **__):
        pass

    def log(self, row):
        self.rows.append(row)

    def finish(self, exit_code):
        self.ended = exit_code


@pytest.fixture
def fake(monkeypatch):
    """A stand-in for wandb that remembers how it was called."""
    module = types.ModuleType("wandb")
    module.run = FakeRun()
    module.calls = []
    module.Settings = dict

    def init(**settings):
        module.calls.append(settings)
        return module.run

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def start(tmp_path, mode="offline"):
    return Tracker.start(mode, "project", None, ["tag"], tmp_path, "run-1", {"seed": 1})


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- mode -------------------------------------------------------------------------------------------------------------


def test_auto_is_online_only_with_a_key(tmp_path, monkeypatch):
    assert resolve_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert resolve_mode("auto") == "online"
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password " + "0" * 40)
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://own.example")  # a key for another server is no key
    assert not has_key()
    (tmp_path / "netrc").write_text("not a netrc file {{{")
    assert not has_key()


def test_auto_follows_the_users_wandb_mode(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    for wish, mode in {"offline": "offline", "disabled": "disabled", "dryrun": "offline", "bogus": "online"}.items():
        monkeypatch.setenv("WANDB_MODE", wish)
        assert resolve_mode("auto") == mode
    monkeypatch.setenv("WANDB_MODE", "online")
    assert resolve_mode("disabled") == "disabled"  # what the config says outright wins
    monkeypatch.delenv("WANDB_API_KEY")
    assert resolve_mode("auto") == "offline"


def test_online_without_a_key_never_asks(caplog):
    assert resolve_mode("online") == "offline"
    assert "no key" in warnings_of(caplog)[0]


def test_disabled_loads_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would raise
    tracker = start(tmp_path, "disabled")
    tracker.log(1, {"a": 1.0})
    tracker.finish("ok", {})


# --- what is handed over ----------------------------------------------------------------------------------------------


def test_everything_arrives_in_order(tmp_path, fake):
    tracker = start(tmp_path)
    for step in range(100):
        tracker.log(step, {"train/loss": 1.0 * step, "lr": None})
    tracker.finish("ok", {"val/loss": 3.0})
    assert fake.run.rows == [{"step": step, "train/loss": 1.0 * step} for step in range(100)]
    assert fake.run.summary == {"status": "ok", "val/loss": 3.0}
    assert fake.run.ended == 0
    (call,) = fake.calls
    assert call["id"] == "run-1"
    assert call["mode"] == "offline"
    assert call["dir"] == str(tmp_path)
    assert call["config"] == {"seed": 1}


def test_online_resumes_under_the_same_id(tmp_path, fake, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "own"))
    start(tmp_path, "auto").finish("failed", {})
    (call,) = fake.calls
    assert (call["id"], call["resume"], call["mode"]) == ("run-1", "allow", "online")
    assert call["dir"] == str(tmp_path / "own")
    assert fake.run.ended == 1


# --- broken in every place --------------------------------------------------------------------------------------------


def use(tracker):
    for step in range(50):
        tracker.log(step, {"train/loss": 1.0})
        time.sleep(0.001)
    tracker.finish("ok", {"val/loss": 1.0})


def refuse(*_, **__):
    raise RuntimeError("no W&B today\nand a second line")


def leave(*_, **__):
    sys.exit(1)


@pytest.mark.parametrize("breakage", [refuse, leave])
@pytest.mark.parametrize("place", ["init", "log", "finish", "define_metric", "Settings"])
def test_any_failure_is_one_warning(tmp_path, fake, caplog, place, breakage):
    setattr(fake if place in ("init", "Settings") else fake.run, place, breakage)
    use(start(tmp_path))
    (warning,) = warnings_of(caplog)
    assert "W&B is off for this run" in warning
    assert "\n" not in warning


def test_a_wandb_that_cannot_be_imported_is_one_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    use(start(tmp_path))
    (warning,) = warnings_of(caplog)
    assert "W&B is off" in warning


def test_a_hanging_wandb_holds_up_no_step_and_not_the_end(tmp_path, fake, caplog, monkeypatch):
    monkeypatch.setitem(tracking.FINISH_SECONDS, "offline", 0.2)
    release = threading.Event()
    for place in ("init", "finish"):
        caplog.clear()
        monkeypatch.setattr(fake if place == "init" else fake.run, place, lambda **_: release.wait(30) and fake.run)
        began = time.monotonic()
        tracker = start(tmp_path)
        for step in range(1000):
            tracker.log(step, {"train/loss": 1.0})
        assert time.monotonic() - began < 1
        tracker.finish("ok", {})
        assert time.monotonic() - began < 3
        (warning,) = warnings_of(caplog)
        assert "left behind" in warning
        release.set()
        tracker._thread.join(10)
        release.clear()
        monkeypatch.setattr(fake, "init", lambda **_: fake.run)


def test_a_real_offline_run(tmp_path, caplog):
    """The real library, no network: W&B's file holds the run's id and the last number that was logged."""
    pytest.importorskip("wandb")
    caplog.set_level(logging.INFO, logger="recsysml")
    tracker = start(tmp_path)
    for step in range(20):
        tracker.log(step, {"train/loss": 5.0 - step / 10})
    tracker.finish("ok", {"val/loss": 3.0})
    assert warnings_of(caplog) == []
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-run-1.wandb")
    until = time.monotonic() + 30  # W&B's own process writes it, and on a busy machine not at once
    while b"val/loss" not in file.read_bytes() and time.monotonic() < until:
        time.sleep(0.2)
    content = file.read_bytes()
    assert b"train/loss" in content
    assert b"3.1" in content
    assert b"val/loss" in content
    assert f"wandb sync {file.parent}" in caplog.text
