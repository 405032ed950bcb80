"""Writes docs/config.md from the dataclasses in recsysml/schemas: `python scripts/config_reference.py`."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCHEMAS = ROOT / "recsysml" / "schemas"
# file in schemas/ -> what its keys begin with on the command line
PAGES = [
    ("run", ""),
    ("models", "model."),
    ("retrievers", "model."),
    ("rankers", "model."),
    ("policies", "model."),
    ("data", "data."),
    ("impressions", "data."),
    ("slates", "data."),
    ("trainers", "trainer."),
    ("policy_trainers", "trainer."),
    ("evals", "eval."),
]
HEAD = """# Config reference

Made from the dataclasses in `recsysml/schemas/` by `make docs`; a test holds the two together.
`recsysml config model=gpt2_modern` prints one composed config; any key below is set by `key=value`.
`null` in the column *default* means that the value is derived, as the description says; a YAML in
`conf/` may choose another default than its class (`gpt2_modern` does).
"""


def fields(source: str, node: ast.ClassDef) -> list[tuple[str, str, str, str]]:
    """(name, type, default, description) of each field; the description is the comment above it."""
    lines = source.splitlines()
    rows = []
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or "ClassVar" in ast.unparse(item.annotation):
            continue
        comment: list[str] = []
        row = item.lineno - 2
        while row >= 0 and lines[row].strip().startswith("#"):
            comment.insert(0, lines[row].strip().lstrip("# "))
            row -= 1
        default = ast.unparse(item.value) if item.value else ""
        default = {"None": "null", "True": "true", "False": "false"}.get(default, default)
        if "default_factory" in default:
            default = {"list": "[]", "dict": "{}"}.get(default.split("=")[1].rstrip(")"), "see below")
        assert isinstance(item.target, ast.Name)
        rows.append((item.target.id, ast.unparse(item.annotation), default.strip("'"), " ".join(comment)))
    return rows


def inherited(node: ast.ClassDef, found: dict[str, tuple[str, ast.ClassDef]]) -> list[tuple[str, ast.ClassDef]]:
    """(source, class) of all that a class stands on, the nearest first."""
    direct = [found[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in found]
    return direct + [each for _, base in direct for each in inherited(base, found)]


def render() -> str:
    parts = [HEAD]
    sources = {path: (SCHEMAS / f"{path}.py").read_text() for path, _ in PAGES}
    trees = {
        path: [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
        for path, text in sources.items()
    }
    found = {node.name: (sources[path], node) for path, nodes in trees.items() for node in nodes}
    for path, prefix in PAGES:
        for node in trees[path]:
            name = node.name
            if name.endswith("Fields"):
                continue  # shared fields are listed with each class that has them
            rows = fields(sources[path], node)
            for source, base in inherited(node, found):
                own = {row[0]: row for row in rows}
                shared = fields(source, base)
                # a field with another default is listed once, where its class has it, in the words of the shared one
                words = {field: text for field, _, _, text in shared}
                rows = [(*row[:3], row[3] or words.get(row[0], "")) for row in rows]
                rows += [row for row in shared if row[0] not in own]
            kind = next((default for field, _, default, _ in rows if field == "kind"), None)
            key = {"TrackerConfig": "tracker.", "SweepConfig": "sweep."}.get(name, prefix)
            parts.append(f"## `{key.rstrip('.') or 'the root'}`" + (f" of kind `{kind}`" if kind else ""))
            parts.append(ast.get_docstring(node) or "")
            table = ["| key | type | default | |", "| --- | --- | --- | --- |"]
            table += [
                f"| `{key}{field}` | `{kind_}` | `{default}` | {text} |".replace(" | None`", " or null`")
                for field, kind_, default, text in rows
                if field != "kind"
            ]
            parts.append("\n".join(table))
    return "\n\n".join(part for part in parts if part).replace("\n\n\n", "\n\n") + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "config.md").write_text(render())
