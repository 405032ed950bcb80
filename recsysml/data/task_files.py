"""Task definitions of lm_eval in YAML, read before anything is loaded: found, checked, their data files located.

lm_eval itself passes over a file that it cannot read and runs the code that one names. Here a broken file is named
with its line, and code in a user's folder is refused unless it is trusted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from recsysml.data import questions
from recsysml.data.download import reachable
from recsysml.errors import ConfigError, DataError
from recsysml.files import conf_dir, data_dir
from recsysml.schemas.checks import nearest

logger = logging.getLogger("recsysml")

# local formats of the `datasets` library: their files are ours to find
LOCAL = ("json", "csv", "parquet", "text")
# what a file that is broken elsewhere says of itself
_TASK_LINE = re.compile(r"""^\s*(?:task|group|tag):\s*["']?([\w.-]+)""", re.MULTILINE)
_TRAINING = ("training_split", "fewshot_split")
# of our own tasks, those whose questions the hub has as well, in the harness's task of that name
_ON_HUB = tuple(questions.CONVERTERS)


class Missing(DataError):
    """The questions of a task that are nowhere."""


@dataclass(frozen=True)
class TaskFile:
    """A task or group as its YAML says, `include` followed; functions are left as their names."""

    path: Path
    content: dict[str, Any]
    own: bool  # one of ours, not the user's


@dataclass(frozen=True)
class Located:
    """What a local task is told beside its YAML, and where its questions come from."""

    overrides: dict[str, Any]  # dataset_kwargs with absolute paths, splits that are not there set to None
    asked: list[Path]  # the files that hold the questions, in order
    sources: dict[str, str]  # original file -> sha256
    notes: list[str]


class _Reader(yaml.SafeLoader):
    """Safe YAML in which `!function x` is the text `x`."""


_Reader.add_constructor("!function", lambda loader, node: f"!function {node.value}")


def folders(task_folder: str | None) -> list[Path]:
    """Ours, then the user's, whose tasks replace ours of the same name. Raises ConfigError if it is not there."""
    own = conf_dir() / "task"
    if task_folder is None:
        return [own]
    path = Path(task_folder).expanduser()
    if not path.is_dir():
        raise ConfigError(f"eval.task_folder={task_folder}: there is no such folder.")
    return [own, path.resolve()]


def index(task_folder: str | None = None, *, trust: bool = False, wanted: Collection[str] = ()) -> dict[str, TaskFile]:
    """Every task and group by name. A broken file of the user's costs a warning, unless one of `wanted` needs it.

    Raises ConfigError for one that is needed, and for a file that holds code that is not trusted.
    """
    found: dict[str, TaskFile] = {}
    broken: dict[Path, ConfigError] = {}
    own = conf_dir() / "task"
    for folder in folders(task_folder):
        for path in sorted(folder.glob("**/*.yaml")):
            try:
                content = read(path)
            except ConfigError as error:
                if folder == own:
                    raise
                broken[path] = error
                continue
            name = content.get("task") if isinstance(content.get("task"), str) else content.get("group")
            if not isinstance(name, str):
                continue  # a part that others include
            if folder != own and not trust:
                _refuse_code(path, content)
            found[name] = TaskFile(path, content, folder == own)
    _pass_over(broken, found, wanted)
    return found


def expand(names: Sequence[str], known: Mapping[str, TaskFile]) -> list[str]:
    """The names, each once; a tag of the user's files is the tasks that have it, in the order of their files."""
    found: list[str] = []
    for name in names:
        tagged = [task for task, file in known.items() if not file.own and name in _named(file.content.get("tag"))]
        found += [name] if name in known or not tagged else tagged
    return list(dict.fromkeys(found))


def _pass_over(broken: dict[Path, ConfigError], found: dict[str, TaskFile], wanted: Collection[str]) -> None:
    """Warn of broken files. Raise the error of one that may be what is wanted, itself or as a member of a group."""
    members: set[str] = set()
    groups = list(wanted)
    while groups:
        file = found.get(groups.pop())
        fresh = set(_named(file.content.get("task"))) - members if file else set()
        members |= fresh
        groups += fresh
    for path, error in broken.items():
        names = {path.stem}
        with contextlib.suppress(OSError):
            names |= set(_TASK_LINE.findall(path.read_text(encoding="utf-8", errors="replace")))
        # lm_eval may read what cannot be read here, so a member that is nowhere may be any of them, code and all
        if names & {*wanted, *members} or members - found.keys():
            raise error
        _warn(f"passed over: {error}")


def _named(member: Any) -> Iterator[str]:
    """The names of what a group is made of, or of tags."""
    if isinstance(member, str):
        yield member
    elif isinstance(member, list | dict):
        parts = member if isinstance(member, list) else [member.get("group"), member.get("task")]
        for part in parts:
            yield from _named(part)


@cache
def _warn(text: str) -> None:
    """Once, however often the files are read."""
    logger.warning("%s", text)


def read(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML file with what it includes. Raises ConfigError with the line of what is broken."""
    if path in seen:
        raise ConfigError(f"{path}: it includes itself.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Reader)  # safe: see _Reader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path} line {line}: {error.problem}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} line 1: it holds no table of keys.")
    includes = content.pop("include", [])
    merged: dict[str, Any] = {}
    for name in includes if isinstance(includes, list) else [includes]:
        merged |= read((path.parent / str(name)).resolve(), (*seen, path))
    return merged | content


def _refuse_code(path: Path, content: dict[str, Any]) -> None:
    for text in _texts(content):
        if text.startswith("!function "):
            raise ConfigError(f"{path}: it runs code ({text}); if you trust it, add --trust.")
        if "{" in text and re.search(r"__|\battr\b", text):  # Jinja templates can reach Python's own objects
            raise ConfigError(f"{path}: a template reaches into Python ({text:.60}); if you trust it, add --trust.")
    if "class" in content:
        raise ConfigError(f"{path}: it is a task in Python (class); if you trust it, add --trust.")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(item)


def locate(name: str, file: TaskFile) -> Located | None:
    """Where the data files of a local task lie; None for a task whose data come from the hub.

    Relative names are looked for beside the YAML, among converted questions, in the working directory and in
    `$RECSYSML_DATA`. A training split may be missing: few-shot examples then come from the questions themselves.
    Raises Missing, which names what is missing, and DataError for a file that is damaged.
    """
    content = file.content
    kwargs = content.get("dataset_kwargs") or {}
    if content.get("dataset_path") not in LOCAL:
        return None
    if not kwargs.get("data_files"):  # `datasets` would read what lies in the working directory
        raise DataError(f"tasks={name}: {file.path} names no files of questions (dataset_kwargs.data_files)")
    files = kwargs["data_files"]
    files = dict(files) if isinstance(files, dict) else {"train": files}
    converted = questions.find(name)
    root = data_dir()
    beside = [file.path.parent, Path.cwd(), *([root] if root else [])]
    found: dict[str, str | list[str]] = {}
    missing: dict[str, str] = {}
    for split, names in files.items():
        if converted and split in converted.files:
            found[split] = str(converted.files[split])
            continue
        paths = [_first(beside, str(part)) for part in (names if isinstance(names, list) else [names])]
        if None in paths:
            missing[split] = str(names)
        else:
            found[split] = [str(path) for path in paths] if len(paths) > 1 else str(paths[0])
    splits = {key: content.get(key) for key in ("test_split", "validation_split", *_TRAINING)}
    asked = splits["test_split"] or splits["validation_split"]
    if asked is None:
        raise DataError(f"tasks={name}: {file.path} says neither test_split nor validation_split")
    if asked not in files:
        raise DataError(f"tasks={name}: {file.path} asks the split {asked}; its data_files are of {', '.join(files)}")
    if asked not in found:
        sought = missing[asked]
        where = f"under {root}" if root else "under $RECSYSML_DATA, which is not set"
        raise Missing(
            f"tasks={name}: its questions, {sought}, are not beside {file.path.name}, in the working directory or"
            f" {where}; set RECSYSML_DATA to the folder that holds {sought}"
        )
    gone: dict[str, Any] = {key: None for key, split in splits.items() if split is not None and split not in found}
    overrides = {"dataset_kwargs": {**kwargs, "data_files": found}, **gone}
    holding = found[str(asked)]
    holders = [Path(one) for one in ([holding] if isinstance(holding, str) else holding)]
    if not converted and content["dataset_path"] == "json":
        _check_rows(holders)
    return Located(overrides, holders, converted.sources if converted else {}, converted.notes if converted else [])


def check_metrics(file: TaskFile, known: Collection[str]) -> None:
    """Raise DataError that names a metric of the task which is not among `known`."""
    for entry in file.content.get("metric_list") or []:
        metric = entry.get("metric") if isinstance(entry, dict) else None
        if isinstance(metric, str) and metric not in known and not metric.startswith("!"):
            near = nearest(metric, known)
            hint = f" Did you mean: {near}?" if near else f" It is one of {', '.join(sorted(known))}."
            raise DataError(f"{file.path}: there is no metric {metric}.{hint}")


def _check_rows(paths: list[Path]) -> None:
    """Read files of JSON lines through, as `datasets` names neither file nor line of one that is broken."""
    for path in paths:
        if path.name.removesuffix(".gz").endswith(".jsonl") and not sum(1 for _ in questions.read_rows(path)):
            raise DataError(f"{path} holds no questions")


def check_hub_instead(name: str, file: TaskFile, missing: Missing) -> None:
    """Pass where the harness's own task, with the hub's questions, can take the place of ours; else raise `missing`."""
    if not (file.own and name in _ON_HUB):
        raise missing
    if not hub_reachable():
        raise Missing(f"{missing}; or go on where the Hugging Face hub, which has them, can be reached") from None


def _first(roots: Sequence[Path], name: str) -> Path | None:
    return next((path for root in roots if (path := (root / name).resolve()).is_file()), None)


@cache
def hub_reachable() -> bool:
    """Whether the Hugging Face hub answers. If not, its clients are told so, or they try for minutes."""
    offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    if offline or not reachable(os.environ.get("HF_ENDPOINT", "https://huggingface.co")):
        os.environ["HF_HUB_OFFLINE"] = "1"
        return False
    return True
