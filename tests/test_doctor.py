"""The doctor against machines that are not well."""

import shutil
import socket

import pytest
import torch
from rich.console import Console

from recsysml import doctor
from recsysml.doctor import FAIL, OK, WARN, collect, render


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("RECSYSML_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "RECSYSML_DATA", "CXX"):
        monkeypatch.delenv(name, raising=False)


def by_name():
    return {check.name: check for check in collect()}


def test_a_healthy_machine_passes_without_the_network_and_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    checks = by_name()
    assert not [check for check in checks.values() if check.status == FAIL]
    assert torch.__version__ in checks["torch"].found
    assert f"torch threads: {torch.get_num_threads()}," in checks["threads"].found
    assert all(check.mend for check in checks.values() if check.status == WARN)
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_written_fail(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RECSYSML_OUTPUTS", str(tmp_path / "file" / "outputs"))
    check = by_name()["outputs"]
    assert check.status == FAIL
    assert "RECSYSML_OUTPUTS" in check.mend
    assert doctor.main() == 1
    assert "FAIL" in capsys.readouterr().out


def test_a_missing_compiler_and_a_full_disk_are_warnings(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=2**30))
    checks = by_name()
    assert checks["compiler"].status == WARN
    assert "g++" in checks["compiler"].mend
    assert checks["disk"].status == WARN
    assert "1.0 GiB" in checks["disk"].found


def test_keys_are_reported_and_never_shown(monkeypatch):
    assert "no key" in by_name()["W&B"].found
    monkeypatch.setenv("WANDB_API_KEY", "secret" * 7)
    check = by_name()["W&B"]
    assert "auto is online" in check.found
    assert "secret" not in str(check)


def test_data_and_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYSML_DATA", str(tmp_path / "gone"))
    assert by_name()["data"].status == WARN
    monkeypatch.setenv("RECSYSML_DATA", str(tmp_path))
    (tmp_path / "cache" / "recsysml").mkdir(parents=True)
    (tmp_path / "cache" / "recsysml" / "tokens").write_bytes(b"x" * 3 * 2**20)
    checks = by_name()
    assert checks["data"].status == OK
    assert "3.0 MiB" in checks["cache"].found
    assert checks["gpt2 tokenizer"].status == WARN


def test_a_check_that_breaks_is_a_finding(monkeypatch):
    def broken():
        raise RuntimeError("no driver\nand more")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    check = by_name()["device"]
    assert (check.status, check.found) == (FAIL, "RuntimeError: no driver")


def test_rendering_shows_what_to_do():
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    render([doctor.Check("disk", WARN, "[1] GiB", "free some")], console)
    assert "warn" in (text := console.export_text())
    assert "[1] GiB" in text
    assert "-> free some" in text
