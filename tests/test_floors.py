"""The floors of the house: a room imports only from rooms below it, and a few libraries have one door each."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "recsysml"
FLOORS = [
    {"errors", "exits", "files", "lazy", "schemas"},
    {"nn"},
    {"losses"},
    {"metrics"},
    {"data", "models"},
    {
        "results",
        "examples",
        "harness_files",
        "environment",
        "rows",
        "runlog",
        "tracking",
        "plots",
        "plots_calibration",
        "plots_rounds",
        "plots_trade_off",
        "diff_sides",
        "runs",
        "sections",
    },
    {"engine"},
    {"retrieval", "ranking"},
    {"evals"},
    {"trainers"},
    {"job", "serving", "diff", "report", "doctor", "catalogue"},
    {"sweep", "hints", "config", "datasets", "reuse", "launch", "multirun", "judging", "recommending"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
KEEP_APART = [("data", "models")]  # same floor, and never each other
ALONE = {"trainers", "evals"}  # files of these rooms do not import one another
DOORS = {"wandb": {"tracking"}, "hydra": {"config", "launch", "multirun"}, "lm_eval": {"evals/lm_harness"}}


def imports(path: Path) -> list[str]:
    """Every module a file imports, also inside functions."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_rooms_below(path: Path) -> None:
    here = path.relative_to(PACKAGE).with_suffix("").parts[0]
    assert here in LEVEL, f"{here} has no floor: add it to FLOORS where it belongs"
    for module in imports(path):
        library = module.split(".")[0]
        door = {here, path.relative_to(PACKAGE).with_suffix("").as_posix()}
        assert door & DOORS.get(library, door), f"{path.name} imports {library}; only {DOORS[library]} may"
        if library != "recsysml" or room(module) not in LEVEL:
            continue
        there = room(module)
        assert LEVEL[there] <= LEVEL[here], f"{path.name} ({here}) imports {module}, which stands above it"
        for pair in KEEP_APART:
            assert not (here in pair and there in pair and here != there), f"{here} and {there} never import each other"
        if here in ALONE and there == here:
            own = path.relative_to(PACKAGE).with_suffix("").parts[-1]
            assert module.count(".") < 2 or own == module.split(".")[2], f"{path.name} imports its neighbour {module}"


def test_the_check_sees_a_wrong_import(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from recsysml.cli import main\n")
    assert "recsysml.cli" in imports(wrong)
    assert LEVEL["cli"] > LEVEL["nn"]


def test_files_stay_small() -> None:
    long = {str(path.relative_to(PACKAGE)): n for path in FILES if (n := len(path.read_text().splitlines())) > 360}
    assert not long, f"files that probably do two things: {long}"


def test_nothing_loaded_from_disk_can_run_code() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec"}, f"{path.name}:{node.lineno}"
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert keywords.get("weights_only") == "True", f"{path.name}:{node.lineno}"
        assert not {"pickle", "dill", "cloudpickle", "joblib"} & {m.split(".")[0] for m in imports(path)}, path.name
