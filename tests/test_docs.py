"""Documentation that is made from the code, or that the code can check."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from recsysml import config

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def _trained() -> list[str]:
    """Every `recsysml train` that a page shows, whole; sweeps, resumed runs and own YAML are other tests' matter."""
    text = "\n".join(page.read_text() for page in PAGES).replace("\\\n", " ")
    lines = re.findall(r"^ +(?:\$ )?recsysml train (.*)$", text, flags=re.MULTILINE)
    others = ("--resume", "--config-dir", "-m")
    return sorted({line.partition(" #")[0].strip() for line in lines if not any(word in line for word in others)})


def _anchor(heading: str) -> str:
    """The name that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_the_config_reference_is_current() -> None:
    spec = importlib.util.spec_from_file_location("config_reference", ROOT / "scripts" / "config_reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "config.md").read_text() == module.render(), "run `make docs`"


def test_every_choice_in_conf_is_documented() -> None:
    pages = "\n".join(page.read_text() for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    for group in ("model", "data", "trainer", "eval", "experiment"):
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            assert path.stem in pages, f"conf/{group}/{path.name} is named on no page"


def test_the_map_of_the_house_names_every_room() -> None:
    page = (ROOT / "README.md").read_text()
    drawn = page[page.index("## The map of the house") : page.index("## A model in three files")]
    for path in (ROOT / "recsysml").iterdir():
        if path.is_dir() and any(path.glob("*.py")):
            assert f"`{path.name}/`" in drawn, f"recsysml/{path.name}/ is on no map"
        elif path.suffix == ".py" and not path.name.startswith("__"):
            assert f"`{path.name}`" in drawn, f"recsysml/{path.name} is on no map"


def test_the_readme_names_all_that_a_run_directory_holds() -> None:
    """What the code writes below a run's path, by its literals."""
    room = ROOT / "recsysml"
    files = [file for name in ("results", "trainers/*", "ranking/*", "evals/*") for file in room.glob(f"{name}.py")]
    code = "\n".join(file.read_text() for file in files)
    held = set(re.findall(r'\bpath / "([\w.-]+)"', code))
    assert {"results.json", "checkpoints", "plots", "index"} <= held
    page = (ROOT / "README.md").read_text()
    said = page[page.index("A run is a directory") : page.index("The same config and seed")]
    assert not {name for name in held if f"`{name}`" not in said and f"`{name}/`" not in said}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE)
            assert anchor in {_anchor(heading) for heading in headings}, link


@pytest.mark.parametrize("words", _trained())
def test_every_training_command_shown_composes(words: str) -> None:
    config.compose(shlex.split(words))
