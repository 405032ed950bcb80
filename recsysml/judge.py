"""What `recsysml eval` may be asked, and the config that judges a checkpoint."""

from __future__ import annotations

from typing import Any

from recsysml import catalogue
from recsysml import config as configs
from recsysml.errors import ConfigError
from recsysml.schemas.checks import nearest
from recsysml.schemas.run import RunConfig


def check_tasks(tasks: list[str]) -> None:
    """Raise ConfigError for a name that no task has, with the nearest; and, in this version, for any task."""
    if not tasks:
        return
    names = catalogue.task_names()
    for task in tasks:
        if task not in names:
            near = nearest(task, names)
            hint = f"Did you mean: {near}?" if near else "See: recsysml list tasks."
            raise ConfigError(f"tasks={task}: there is no such task. {hint}")
    raise ConfigError(
        f"tasks={','.join(tasks)}: this version cannot run tasks; without them `eval` gives loss and bits per byte."
    )


def merge(asked: RunConfig, made_with: RunConfig | None, model: dict[str, Any], overrides: list[str]) -> RunConfig:
    """The checkpoint's own model, data and trainer, with what was typed on top.

    made_with: the config of the run the checkpoint lies in, or None for a checkpoint without one.
    model: the `model` entry of its checkpoint.json.
    """
    from recsysml.job import to_dict

    typed = [text.partition("=")[0].lstrip("+") for text in overrides]
    for key in typed:
        if key.partition(".")[0] == "model":
            raise ConfigError(f"{key}: the model comes from the checkpoint; only data, eval and the root's keys are chosen.")
    tree = to_dict(asked)
    if made_with is not None:
        before = to_dict(made_with)
        if asked.device.partition(":")[0] not in ("auto", made_with.device.partition(":")[0]):
            before["trainer"]["precision"] = "auto"  # what was fast where it was trained may be slow or absent here
        for group in ("data", "trainer", "eval"):
            if group not in typed:
                for key in typed:
                    name, _, field = key.partition(".")
                    if name == group:
                        before[group][field] = tree[group][field] if field in tree[group] else before[group].get(field)
                tree[group] = before[group]
    tree["model"] = {**model["config"], "kind": model["kind"]}
    return configs.from_dict(tree)
