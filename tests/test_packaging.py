"""The wheel, installed away from the checkout, finds its own conf/."""

from __future__ import annotations

import ast
import importlib.metadata
import itertools
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as `pip install` lays it out, built from a wheel."""
    pytest.importorskip("hatchling", reason="hatchling builds the wheel; `make test` installs it")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)],
        check=True,
        capture_output=True,
    )
    return folder / "site"


def run(installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, "-m", "recsysml", *words],
        cwd=installed.parent,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_the_installed_package_composes_from_its_own_conf(installed: Path) -> None:
    done = run(installed, "config", "model=gpt2", "trainer.lr=0.5")
    assert done.returncode == 0, done.stderr
    assert "lr: 0.5" in done.stdout
    where = subprocess.run(
        [sys.executable, "-c", "from recsysml.config import conf_dir; print(conf_dir())"],
        cwd=installed.parent,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()) == installed / "recsysml" / "conf"


def test_every_library_that_is_imported_is_declared_and_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    declared = {normal(re.split(r"[<>=\[]", line)[0]) for line in wanted}
    pinned = {normal(line.split("==")[0]) for line in (ROOT / "requirements.lock").read_text().splitlines()}
    assert declared <= pinned
    found = set()
    for path in (ROOT / "recsysml").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    distributions = importlib.metadata.packages_distributions()
    foreign = found - set(sys.stdlib_module_names) - {"recsysml"}
    undeclared = {name for name in foreign if not {normal(d) for d in distributions.get(name, [name])} & declared}
    assert not undeclared


def test_the_lock_pins_all_that_comes_along_and_torch_first() -> None:
    """Not only what is asked for: also what that needs, whole; and `make` installs torch by the lock's version."""
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0].startswith("torch==")
    assert f" {lines[0]}\n" in (ROOT / "Makefile").read_text()
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+", line) for line in lines), "each line is one exact version"
    pinned = {normal(line.split("==")[0]) for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    seen: set[str] = set()
    while waiting:
        wanted = Requirement(waiting.pop())
        if str(wanted) in seen:
            continue
        seen.add(str(wanted))
        assert normal(wanted.name) in pinned, f"{wanted} comes along and is not in requirements.lock"
        try:
            needs = importlib.metadata.requires(wanted.name) or []
        except importlib.metadata.PackageNotFoundError:  # an extra that is not installed
            continue
        extras = [{"extra": extra} for extra in ("", *wanted.extras)]
        waiting += [
            text for text in needs
            if not (marker := Requirement(text).marker) or any(marker.evaluate(extra) for extra in extras)
        ]  # fmt: skip


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def test_the_wheel_carries_every_yaml_and_nothing_foreign(installed: Path) -> None:
    (wheel,) = installed.parent.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"recsysml/conf/{path.relative_to(ROOT / 'conf')}" in names
    assert all(name.startswith(("recsysml/", "recsysml-")) for name in names)
