"""What there is to choose, read from folder names and first comment lines: no Hydra, no torch."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path

from recsysml.errors import ConfigError
from recsysml.files import cache_dir, conf_dir, write_json

# what `recsysml list` is asked for, and the config group it stands for
GROUPS = {
    "models": "model", "data": "data", "trainers": "trainer", "evals": "eval", "trackers": "tracker",
    "experiments": "experiment",
}  # fmt: skip
LISTS = (*GROUPS, "tasks", "runs")


def folders(config_dir: Path | None = None) -> list[Path]:
    """Where YAML is looked for, first found first taken. Raises ConfigError where `config_dir` is no folder."""
    if config_dir is not None and not config_dir.is_dir():
        raise ConfigError(f"--config-dir {config_dir}: there is no such folder.")
    return [*([config_dir] if config_dir is not None else []), conf_dir()]


def choices(group: str, config_dir: Path | None = None) -> dict[str, Path]:
    """Name -> file of every choice of a group, sorted; a user's file hides ours of the same name.

    A file in a folder below is named with it: `gpt2_with/rope`.
    """
    found: dict[str, Path] = {}
    for folder in folders(config_dir):
        for file in (folder / group).glob("**/*.yaml"):
            found.setdefault(file.relative_to(folder / group).with_suffix("").as_posix(), file)
    return dict(sorted(found.items()))


def groups(config_dir: Path | None = None) -> list[str]:
    """The config groups: the folders that hold YAML."""
    names = {entry.name for folder in folders(config_dir) for entry in folder.iterdir() if entry.is_dir()}
    return sorted(name for name in names - {"task", "hydra"} if choices(name, config_dir))


def description(file: Path) -> str:
    """The first comment of a YAML file, `@package` lines aside."""
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.lstrip("#").strip()
        if not line.startswith("#"):
            return ""
        if text and not text.startswith("@"):
            return text
    return ""


def kind_of(file: Path) -> str | None:
    """The `kind:` a YAML file names."""
    found = re.search(r"^kind:\s*(\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else None


def keys(config_dir: Path | None = None) -> list[str]:
    """Every key that can stand before `=`: group names, root keys, `group.field`; a reading by lines, for hints."""
    found = set(groups(config_dir))
    for folder in folders(config_dir):
        for file in folder.glob("config.yaml"):
            found.update(_fields(file) - {"defaults", "hydra", "sweep"})
    found.add("sweep.name")
    for group in found & set(groups(config_dir)) - {"experiment"}:
        for file in choices(group, config_dir).values():
            found.update(f"{group}.{field}" for field in _fields(file) - {"defaults", "kind"})
    return sorted(found)


def _fields(file: Path) -> set[str]:
    return set(re.findall(r"^(\w+):", file.read_text(encoding="utf-8"), re.MULTILINE))


def complete(words: list[str], incomplete: str, config_dir: Path | None = None) -> list[str]:
    """Completions of one override. `words` are the ones before it.

    zsh and fish give the whole word (`model=gp`); bash cuts it at `=` and gives only what stands behind.
    """
    key, equals, value = incomplete.partition("=")
    if not equals and words:
        before = words[-2] if words[-1] == "=" and len(words) > 1 else words[-1]
        before = before.removesuffix("=")
        if before in groups(config_dir):
            return [name for name in choices(before, config_dir) if name.startswith(incomplete)]
    if equals:
        names = choices(key, config_dir) if key in groups(config_dir) else {}
        return [f"{key}={name}" for name in names if name.startswith(value)]
    return [f"{name}=" for name in keys(config_dir) if name.startswith(incomplete)]


def check_tasks(tasks: Sequence[str], task_folder: str | None = None) -> None:
    """Raise ConfigError for a name that no task has, with the nearest."""
    from recsysml.schemas.checks import nearest

    own = {file.stem for file in Path(task_folder).expanduser().glob("**/*.yaml")} if task_folder else set()
    own |= _scan_tasks(Path(task_folder).expanduser()) if task_folder else set()
    names: list[str] = []
    for task in tasks:
        if task in own or (conf_dir() / "task" / f"{task}.yaml").is_file():
            continue
        names = names or sorted(own.union(task_names()))
        if task not in names:
            near = nearest(task, names)
            hint = f"Did you mean: {near}?" if near else "See: recsysml list tasks."
            raise ConfigError(f"tasks={task}: there is no such task. {hint}")


def task_names() -> list[str]:
    """Names of our own tasks (conf/task) and of lm_eval's.

    lm_eval's own index takes seconds and imports torch; its files are read once, by line, and the names are kept in
    the cache folder for the installed version.
    """
    own = {file.stem for file in (conf_dir() / "task").glob("**/*.yaml")}
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        return sorted(own)
    cache = cache_dir() / f"lm_eval_tasks-{importlib.metadata.version('lm_eval')}.json"
    try:
        return sorted(own.union(json.loads(cache.read_text())))
    except (OSError, ValueError):
        pass
    theirs = _scan_tasks(Path(spec.origin).parent / "tasks")
    with contextlib.suppress(OSError):  # a read-only cache folder costs seconds, not the answer
        write_json(cache, sorted(theirs))
    return sorted(own | theirs)


def _scan_tasks(folder: Path) -> set[str]:
    """The values of `task`, `group` and `tag` in every YAML file, single or listed."""
    names: set[str] = set()
    single = re.compile(r"""^\s*["']?(?:task|group|tag)["']?:[ ]*["']?([^\s"'\[\]]+)""", re.MULTILINE)
    listed = re.compile(r"""^\s*["']?(?:task|group|tag)["']?:[ ]*(?:#.*)?\n((?:[ ]*(?:-|#).+\n?)+)""", re.MULTILINE)
    for file in folder.glob("**/*"):  # files that others include have no suffix
        if file.suffix not in (".yaml", "") or not file.is_file():
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        names.update(single.findall(text))
        for block in listed.findall(text):
            names.update(re.findall(r"""^[ ]*-[ ]*["']?([^\s"':]+)["']?[ ]*(?:#.*)?$""", block, re.MULTILINE))
    return {name for name in names if not name.startswith(("!", "#", "-"))}


def lines(what: str | None, config_dir: Path | None = None) -> list[str]:
    """What `recsysml list` prints: `name  description`, one line each; None is everything but tasks and runs."""
    if what is not None and what not in LISTS:
        from recsysml.schemas.checks import choices_hint

        raise ConfigError(f"list {what}: {choices_hint(what, LISTS)}")
    if what is None:
        blocks: list[str] = []
        for name in GROUPS:
            rows = lines(name, config_dir)
            if rows:
                blocks += ([""] if blocks else []) + [f"{name}:"] + [f"  {row}" for row in rows]
        return blocks
    if what == "tasks":
        said = {file.stem: description(file) for file in choices("task", config_dir).values()}
        users = _scan_tasks(config_dir / "task") if config_dir is not None else set()
        return [f"{name}  {said.get(name, '')}".rstrip() for name in sorted(users.union(said, task_names()))]
    assert what in GROUPS, "runs are a table of their own: recsysml.runs.table"
    found = choices(GROUPS[what], config_dir)
    width = max(map(len, found), default=0)
    return [f"{name:<{width}}  {description(file)}".rstrip() for name, file in found.items()]
