"""Documentation that is made from the code, or that the code can check."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


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
