"""`recsysml eval`: a checkpoint or a model of `transformers`, judged by its own metrics or by tasks; one or several.

All that can be wrong is found before a run directory exists: task names first, then task files, then the model.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsysml import config as configs
from recsysml import job
from recsysml.errors import ConfigError
from recsysml.files import conf_dir
from recsysml.launch import Command, begin, do, outputs, start
from recsysml.multirun import expand
from recsysml.reuse import merge, with_choices_of_run
from recsysml.runlog import logger
from recsysml.runs import describe_checkpoint
from recsysml.schemas.run import RunConfig

# what the table of several evals shows, where a task gives it
_SHOWN = ("acc", "acc_norm", "exact_match", "perplexity", "bits_per_byte")


# where what is judged is no model
NO_CHECKPOINT = Path(os.devnull)


@dataclass(frozen=True)
class Prepared:
    """One eval that can start."""

    config: RunConfig
    command: Command
    checkpoint: Path  # a checkpoint folder, a folder of transformers, or NO_CHECKPOINT
    parents: list[str]


def run(command: Command, *, multirun: bool = False, rerun: bool = False, trust: bool = False) -> int:
    """The command: one model, or with `multirun` every combination."""
    if rerun and not multirun:
        raise ConfigError("--rerun: it belongs to several evals (-m); a single one is always new.")
    return sweep(command, trust=trust, rerun=rerun) if multirun else evaluate(command, trust=trust)


def evaluate(command: Command, *, trust: bool = False) -> int:
    """Judge one model in a run directory of its own. Returns the exit code; raises ConfigError for a mistake."""
    ready = prepare(command, trust=trust)
    if ready.checkpoint != NO_CHECKPOINT:
        print(f"checkpoint: {describe_checkpoint(ready.checkpoint)}")
    if _asks_first(ready.config):
        job.check(ready.config)  # a missing text is said before the model has worked
        code, scores = _judged(command, trust=trust)
        if code:
            return code
        ready.config.eval.scores = str(scores)
    return start(ready.config, ready.command, "eval", ready.checkpoint, ready.parents)


def _asks_first(config: RunConfig) -> bool:
    """Whether the scores that `eval=contamination` splits are still to be had."""
    return config.eval.kind == "contamination" and bool(config.tasks) and config.eval.scores is None


def _judged(command: Command, *, trust: bool) -> tuple[int, Path | None]:
    """The tasks of `eval=contamination` asked, in a run of its own: its exit code and directory. Answers that the
    cache has cost nothing again."""
    theirs = ("eval.task_folder", "eval.trust")
    typed = [(text.partition("=")[0].lstrip("+"), text) for text in command.overrides]
    words = [text for key, text in typed if key in theirs or key.partition(".")[0] != "eval"]
    ready = prepare(dataclasses.replace(command, overrides=words), trust=trust)
    config, run = begin(ready.config, ready.command, "eval", ready.checkpoint, ready.parents)
    return do(config, run, ready.command, ready.checkpoint), run.path if run else None


def prepare(command: Command, *, trust: bool = False) -> Prepared:
    """Compose and check one eval. Writes nothing."""
    command = dataclasses.replace(command, overrides=with_tasks(command, trust))
    words = with_choices_of_run(command.overrides, command.config_dir)
    # what is typed of a run's data means something only beside the rest of it: `merge` checks both together
    of_run = any(text.startswith("data=") for text in words[: len(words) - len(command.overrides)])
    part = of_run and any(text.lstrip("+").startswith("data.") for text in command.overrides)
    try:
        asked = configs.compose(words, command.config_dir, whole=not part)
    except ConfigError as error:
        if not part or any(text.startswith("checkpoint=") for text in command.overrides):
            raise
        taken = ", ".join(words[: len(words) - len(command.overrides)])
        raise ConfigError(f"{error} ({taken}: those of the newest run; checkpoint=RUN takes another.)") from None
    policy = getattr(asked.eval, "policy", "model")
    no_run = policy != "model" and not any(text.startswith("checkpoint=") for text in command.overrides)
    if part and (asked.model.kind == "hf" or no_run):
        asked = configs.compose(words, command.config_dir)  # what needs no run is merged with none
    check_tasks(asked)  # before a checkpoint is looked for
    if asked.model.kind == "hf":
        if asked.eval.kind not in ("lm_harness", "rag"):
            raise ConfigError(
                f"eval={asked.eval.kind}: it reads no model of transformers; give tasks=..., or eval=rag."
            )
        return Prepared(_named(asked), command, find_folder(asked.model.path), [])

    if no_run:
        asked.model.name = policy
        return Prepared(asked, command, NO_CHECKPOINT, [])

    from recsysml.runs import read_json, resolve_checkpoint

    kinds = getattr(asked.eval, "judges", ())
    checkpoint = resolve_checkpoint(asked.checkpoint, outputs(asked), kinds=kinds, family=asked.eval.family)
    home = checkpoint.resolve().parent.parent  # <run>/checkpoints/<step>
    made_with = configs.read_run(home) if (home / "config.yaml").is_file() else None
    if made_with is None and (home / "results.json").is_file():
        logger.warning("%s is missing: data and eval are the defaults, not what the run had", home / "config.yaml")
    model = read_json(checkpoint / "checkpoint.json")["model"]
    config = merge(asked, made_with, model, command.overrides)
    if policy != "model":  # of the run it has the data and the reward
        config.model.name, checkpoint = policy, NO_CHECKPOINT
    elif made_with is not None:
        _warn_of_another_cut(config.data, made_with.data)
    return Prepared(config, command, checkpoint, [home.name] if made_with else [])


def _warn_of_another_cut(data: Any, before: Any) -> None:
    """The same rows with other edges between train, val and test: what is judged may have been learnt from."""
    if data.kind != before.kind:
        return
    names = ("split", "val_fraction", "test_fraction", "fit_range")
    own = {name: getattr(data, name) for name in names if hasattr(data, name)}
    others = {name: getattr(before, name) for name in own}
    if own != others and dataclasses.replace(data, **others) == before:
        cut = ", ".join(f"data.{name}={value}" for name, value in others.items() if own[name] != value)
        logger.warning("the run was cut by %s: some of what is judged now may be what it learnt from", cut)


def with_tasks(command: Command, trust: bool) -> list[str]:
    """The overrides, with what follows from `tasks=`: the eval that runs them, and the user's own task folder."""
    typed = {text.partition("=")[0].lstrip("+") for text in command.overrides}
    words = list(command.overrides)
    if "tasks" not in typed:
        if trust:
            raise ConfigError("--trust: it belongs to tasks=... of your own.")
        return words
    if "eval" not in typed:
        words.insert(0, "eval=lm_harness")
    own = command.config_dir / "task" if command.config_dir else None
    if own is not None and own.is_dir() and "eval.task_folder" not in typed:
        words.append(f"eval.task_folder='{own.resolve()}'")
    return [*words, "eval.trust=true"] if trust else words


def check_tasks(asked: RunConfig) -> None:
    """Raise ConfigError or DataError for tasks that cannot be run, and for what has no meaning without tasks."""
    kind = asked.eval.kind
    if asked.tasks and kind in ("lm_harness", "contamination"):
        job.check_tasks(asked.tasks, asked.eval.task_folder, trust=asked.eval.trust)
    elif asked.tasks:
        raise ConfigError(f"eval={kind}: it runs no tasks; leave it out, and tasks=... chooses lm_harness.")
    if asked.tasks and getattr(asked.eval, "scores", None) is None:
        return
    for key in ("num_fewshot",) if kind == "rag" else ("limit", "num_fewshot"):
        if getattr(asked, key) is not None:
            if asked.tasks:
                raise ConfigError(f"{key} belongs to the eval that eval.scores names.")
            raise ConfigError(f"{key} belongs to tasks; without tasks the whole split is scored.")
    if kind == "lm_harness":
        raise ConfigError("eval=lm_harness: name the tasks, such as tasks=arc_easy,piqa; see: recsysml list tasks.")


def _named(config: RunConfig) -> RunConfig:
    """With a model of transformers called by the last part of its path."""
    if config.model.path and config.model.name == "hf":
        config.model.name = Path(config.model.path).name
    return config


def find_folder(path: str | None) -> Path:
    """The folder of a model of `transformers`: a local one, or that of a hub name, fetched where it is not yet here."""
    from recsysml.data import task_files

    if not path:
        raise ConfigError("model.path: name a local folder or a model of the hub, such as openai-community/gpt2.")
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"model.path={path}: the folder has no config.json; it is none that transformers reads.")
        return folder
    if folder.is_absolute() or path.startswith((".", "~")) or path.count("/") > 1:
        raise ConfigError(f"model.path={path}: there is no such folder.")
    reachable = task_files.hub_reachable()
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                path,
                local_files_only=not reachable,
                # weights that could run code, and those of other libraries, are left where they are
                allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"],
            )
        )
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        if reachable:
            raise ConfigError(f"model.path={path}: the hub does not give it: {type(error).__name__}: {text}") from None
        raise ConfigError(
            f"model.path={path}: it is neither a folder nor in the cache of the Hugging Face hub, which cannot be"
            f" reached; fetch it where there is a network: hf download {path}"
        ) from None


# --- several


def sweep(command: Command, *, trust: bool = False, rerun: bool = False) -> int:
    """Every combination, each checked before the first starts, one after the other; then one table. Returns 0 or 1."""
    from datetime import UTC, datetime

    from recsysml import sweep as sweeps
    from recsysml.environment import config_hash, package_versions
    from recsysml.runlog import show

    words = dataclasses.replace(command, overrides=with_tasks(command, trust))
    with configs.hydra_at(command.config_dir) as hydra:
        _, jobs, _ = expand(hydra, words)
    ready = [prepare(dataclasses.replace(command, overrides=overrides)) for overrides in jobs]
    first = ready[0].config
    if any(_asks_first(one.config) for one in ready):
        raise ConfigError("eval=contamination: with tasks it asks them first, so one at a time, without -m.")
    name = sweeps.name_of(command.overrides, first)
    folder = outputs(first) / "sweep" / name
    since = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if rerun else ""
    packages = package_versions()
    planned = []
    for one in ready:  # a mistake in the last must not cost the first ones
        job.check(one.config)
        digest = config_hash(job.to_dict(job.resolve(one.config)), packages, "eval")
        shown = tuple(f"lm/{task}/{metric}" for task in one.config.tasks for metric in _SHOWN)
        planned.append(sweeps.Job(one.command.overrides, digest, shown or one.config.eval.headline))
    codes = []
    show()
    with sweeps.lock(folder):
        sweeps.write(folder, sweeps.summary(folder, planned, command.argv, since, over=False))
        print(f"sweep: {folder} ({len(planned)} job{'' if len(planned) == 1 else 's'})")
        for one, plan in zip(ready, planned, strict=True):
            found = sweeps.find(folder, plan.config_hash, since)
            if found is not None and found.status == "ok":
                print(f"done before: {found.path}")
                continue
            try:
                codes.append(start(one.config, one.command, "eval", one.checkpoint, one.parents, sweep=name))
            except Exception as error:  # what is found only now is no reason not to judge the others
                logger.error("%s", job.one_line(error), exc_info=command.verbose)
                codes.append(1)
            if codes[-1] == 130:
                break
        content = sweeps.summary(folder, planned, command.argv, since, over=True)
        sweeps.write(folder, content)
    print_table(content, ready)
    return 130 if 130 in codes else 0 if all(row["status"] == "ok" for row in content["jobs"]) else 1


def print_table(content: dict[str, Any], ready: list[Prepared]) -> None:
    """Models down, tasks across; below them what was published for models of these names' family on the same tasks."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for row, one in zip(content["jobs"], ready, strict=True):
        no_run = one.config.model.kind == "hf" or one.checkpoint == NO_CHECKPOINT
        label = one.config.model.name if no_run else one.checkpoint.parent.parent.name
        rows.setdefault(label, {}).update(row["metrics"])
    names = list(dict.fromkeys(name for metrics in rows.values() for name in metrics))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model")
    for name in names:
        table.add_column(name.removeprefix("lm/"), justify="right", overflow="fold")
    for label, metrics in rows.items():
        table.add_row(escape(label), *(_cell(metrics.get(name)) for name in names))
    limited = any(one.config.limit for one in ready)
    published = json.loads((conf_dir() / "task" / "published.json").read_text(encoding="utf-8"))["models"]
    for label, numbers in published.items():
        if any(name in numbers for name in names):
            cells = [f"{numbers[name]:.4f}" if name in numbers else "" for name in names]
            table.add_row(f"[dim]published: {label}[/]", *cells)
    console = Console()
    if not console.is_terminal:
        console.width = 200  # a file has no edge to fold at
    console.print(table)
    if limited:
        print("with a limit, the published numbers (zero-shot, whole split) are no measure")


def _cell(metric: dict[str, Any] | None) -> str:
    if not metric or metric.get("value") is None:
        return "-"
    return f"{metric['value']:.4f}" + (f" ± {metric['stderr']:.4f}" if metric.get("stderr") else "")
