"""The config of a run that exists, used again: to go on with it, or to judge its checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from recsysml import catalogue, lazy
from recsysml import config as configs
from recsysml.errors import ConfigError
from recsysml.files import outputs_dir
from recsysml.schemas import SCHEMAS
from recsysml.schemas.run import RunConfig

# what a resumed run may be given: it changes no number of the run
RESUME_KEYS = ("tracker.", "progress", "trainer.log_every")


def with_choices_of_run(overrides: list[str], config_dir: Path | None) -> list[str]:
    """The overrides of `eval`, and before them the model and data of the checkpoint they mean, so that what fits it is
    the default. They stand as they are where no run is found, or a model, tasks or an eval for something else were
    typed. A policy that is no model needs no run: model=policy_ranker stands for what fits it."""
    from recsysml.runs import read_json, resolve_checkpoint

    typed = {text.partition("=")[0].lstrip("+"): text.partition("=")[2] for text in overrides}
    family, kinds = _judged(typed["eval"], config_dir) if "eval" in typed else (None, ())
    if {"model", "tasks"} & set(typed) or ("eval" in typed and family is None):
        return overrides
    if typed.get("eval.policy", "model") != "model" and "checkpoint" not in typed:
        return ["model=policy_ranker", *overrides]
    root = Path(typed["outputs"]).expanduser() if typed.get("outputs") else outputs_dir()
    try:
        found = resolve_checkpoint(typed.get("checkpoint", "last"), root, kinds=kinds, family=family)
        model = read_json(found / "checkpoint.json")["model"]
        home = found.resolve().parent.parent
        data = dataclasses.asdict(configs.read_run(home).data) if (home / "config.yaml").is_file() else {}
    except (ConfigError, KeyError) as error:
        if family is not None and isinstance(error, ConfigError):
            raise  # the default model is none that this eval judges: its refusal would name a model nobody asked for
        return overrides  # said once the config is whole, with what kind of model is wanted
    chosen = []
    for group, label, kind in (
        ("model", model["config"].get("name"), model["kind"]),
        ("data", data.get("name"), data.get("kind")),
    ):
        of_kind = [
            name for name, file in catalogue.choices(group, config_dir).items() if catalogue.kind_of(file) == kind
        ]
        if of_kind and group not in typed:  # a name of the user's own, or of a variant, is no choice
            chosen.append(f"{group}={label if label in of_kind else of_kind[0]}")
    return [*chosen, *overrides]


def _judged(eval_name: str, config_dir: Path | None) -> tuple[str | None, tuple[str, ...]]:
    """Of what an eval judges models of, and of which kinds (none: of all); None where there is no such eval, or it is
    for text, whose default fits all."""
    file = catalogue.choices("eval", config_dir).get(eval_name)
    if file is None:
        return None, ()
    schema = lazy.resolve(SCHEMAS["eval"][str(catalogue.kind_of(file))])
    return None if schema.family == "text" else schema.family, getattr(schema, "judges", ())


def merge(asked: RunConfig, made_with: RunConfig | None, model: dict[str, Any], overrides: list[str]) -> RunConfig:
    """The checkpoint's own model, data and trainer, with what was typed on top.

    made_with: the config of the run the checkpoint lies in, or None for a checkpoint without one.
    model: the `model` entry of its checkpoint.json.
    """
    typed = [text.partition("=")[0].lstrip("+") for text in overrides]
    for key in typed:
        if key.partition(".")[0] == "model":
            raise ConfigError(
                f"{key}: the model comes from the checkpoint; only data, eval and the root's keys are chosen."
            )
    tree = dataclasses.asdict(asked)
    if made_with is not None:
        before = dataclasses.asdict(made_with)
        if asked.device.partition(":")[0] not in ("auto", made_with.device.partition(":")[0]):
            before["trainer"]["precision"] = "auto"  # what was fast where it was trained may be slow or absent here
        for group in ("data", "trainer", "eval"):
            if group not in typed:
                for key in typed:
                    if key.startswith(f"{group}."):
                        _take(key.split("."), tree, before)
                tree[group] = before[group]
    tree["model"] = {**model["config"], "kind": model["kind"]}
    return configs.from_dict(tree)


def _take(way: list[str], source: dict[str, Any], into: dict[str, Any]) -> None:
    """What stands at `way` in one tree, into the other; what the first has not stays."""
    for step in way[:-1]:
        source, into = source.get(step, {}), into.setdefault(step, {})
        if not isinstance(source, dict):
            raise ConfigError(f"{'.'.join(way)}: a list is given whole, such as {'.'.join(way[:-1])}=[a,b].")
    if way[-1] in source:
        into[way[-1]] = source[way[-1]]


def with_allowed(config: RunConfig, run: Path, overrides: list[str]) -> RunConfig:
    """A resumed run's config with the overrides it may be given. Raises ConfigError for any other."""
    tree = dataclasses.asdict(config)
    for text in overrides:
        key, _, value = text.partition("=")
        if not key.startswith(RESUME_KEYS):
            raise ConfigError(
                f"{text}: a resumed run keeps its config (only tracker.*, progress and trainer.log_every may change)."
                f" For other or longer training start a new run from its weights: recsysml train"
                f" model.init_from={run} {text}"
            )
        *way, leaf = key.split(".")
        node: Any = tree
        for step in way:
            node = node.get(step) if isinstance(node, dict) else None
        if not isinstance(node, dict) or leaf not in node:
            raise ConfigError(f"{key}: there is no such key.")
        node[leaf] = None if value == "null" else value  # from_dict gives it its type
    return configs.from_dict(tree)


def find_run(name: str) -> Path:
    """A run directory by path, or by its id below the outputs folder. Raises ConfigError with the newest runs."""
    from recsysml.runs import iter_runs

    path = Path(name).expanduser()
    if (path / "results.json").is_file():
        return path
    runs = list(iter_runs(outputs_dir(), "train"))
    for run in runs:
        if run.id == name:
            return run.path
    newest = ", ".join(str(run.path) for run in runs[:3]) or f"none under {outputs_dir()}"
    raise ConfigError(f"{name}: it is not a run directory (no results.json). Newest runs: {newest}.")


def run_of(path: str | None) -> list[str]:
    """The id of the run that a path of weights (`model.init_from`) lies in, as a list of one; empty where in none."""
    place = Path(path).expanduser().resolve() if path else None
    # a run directory, its checkpoints folder, or one checkpoint in it
    folders = [place, *place.parents[:2]] if place else []
    return [folder.name for folder in folders if (folder / "results.json").is_file()][:1]


def show_config(overrides: list[str], config_dir: Path | None, run: str | None = None) -> str:
    """The composed, checked config as YAML, `auto` left as it is; or the resolved one of a run. Imports no torch.

    A comment at the top says what is left to the machine that runs it.
    """
    import yaml

    left = ""
    if run is not None:
        if overrides:
            raise ConfigError(f"--from {run}: it is printed as it was; overrides do not belong to it.")
        config = configs.read_run(find_run(run))
    else:
        config = configs.compose(overrides, config_dir)
        left = _left_to_the_machine(config)
    return left + yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)


def _left_to_the_machine(config: RunConfig) -> str:
    """A comment that names the keys whose value a run settles at its start, such as device=auto; "" without any."""
    values = {
        "device": config.device,
        "threads": config.threads,
        "model.size": getattr(config.model, "size", "") if getattr(config.model, "size_decides", False) else "",
        "trainer.precision": getattr(config.trainer, "precision", ""),
        "trainer.deterministic": getattr(config.trainer, "deterministic", ""),
    }
    keys = [key for key, value in values.items() if value in ("auto", None)]
    if not keys:
        return ""
    return (
        f"# A run settles these at its start, by its machine: {', '.join(keys)}.\n"
        "# `recsysml config --from RUN` prints what it settled on.\n"
    )
