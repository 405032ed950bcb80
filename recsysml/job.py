"""One run, from a typed config to a finished record. Nothing of Hydra in it."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import os
from pathlib import Path
from typing import Any

from recsysml import catalogue, data, evals, lazy, models, trainers
from recsysml.data import world_size
from recsysml.engine.signals import termination_interrupts, uninterrupted
from recsysml.environment import usable_cores
from recsysml.errors import ConfigError, Interrupted
from recsysml.files import make_cache_dir
from recsysml.models import extras
from recsysml.results import Run
from recsysml.runlog import logger
from recsysml.schemas.run import RunConfig
from recsysml.tracking import Tracker


def to_dict(config: RunConfig) -> dict[str, Any]:
    """The config in plain dicts, lists and numbers: what config.yaml and results.json hold."""
    return dataclasses.asdict(config)


def check(config: RunConfig) -> None:
    """What can be known before a run directory exists: files, tokenizer, network. Imports no torch.

    Raises ConfigError or DataError with the one line that mends it.
    """
    if config.tasks or config.model.accepts == "text":
        make_cache_dir()
    parts = getattr(config.trainer, "grad_accum", 1) * int(os.environ.get("WORLD_SIZE", "1"))
    if getattr(config.trainer, "batch_size", 0) % parts:
        raise ConfigError(
            f"trainer.batch_size={config.trainer.batch_size}: it must be a multiple of trainer.grad_accum x processes,"
            f" which is {parts}"
        )
    for kind in (config.model.kind, *getattr(config.eval, "baselines", ())):
        extras.check(kind)
    if not config.tasks or "heldout" in config.tasks:  # other tasks bring their own text
        importlib.import_module(data.KINDS[config.data.kind]).check(config.data)
        if config.data.kind == "world":
            world_size.check(config.data, config.model.accepts)
    if not config.tasks and getattr(config.trainer, "eval_tasks", []):
        check_tasks(config.trainer.eval_tasks)
    if config.eval.kind in evals.CHECKS:
        lazy.resolve(evals.CHECKS[config.eval.kind])(config)


def check_tasks(tasks: list[str], task_folder: str | None = None, *, trust: bool = False) -> None:
    """Names, then definitions, then questions; those of lm_eval's catalogue are fetched here.

    Raises ConfigError or DataError in one line. Without catalogue tasks it imports neither torch nor lm_eval.
    """
    from recsysml.data import task_files

    catalogue.check_tasks(tasks, task_folder)
    known = task_files.index(task_folder, trust=trust, wanted=tasks)
    names = task_files.expand(tasks, known)
    catalogued = [name for name in names if name not in known]
    for name in names:
        if name in known and not (name == "heldout" and known[name].own):
            try:
                task_files.locate(name, known[name])
            except task_files.Missing as missing:
                task_files.check_hub_instead(name, known[name], missing)
                catalogued.append(name)
    if catalogued:
        task_files.hub_reachable()  # so that its clients know before they are imported
        from recsysml.evals import lm_harness

        lm_harness.load(catalogued, task_folder=task_folder, trust=trust)


def resolve(config: RunConfig) -> RunConfig:
    """A copy in which every `auto` is what it stands for on this machine; it is what the config hash is taken over.

    Imports torch. Raises ConfigError for a device or precision that this machine does not have.
    """
    from recsysml.engine.device import resolve_device, resolve_precision

    config = copy.deepcopy(config)
    config.device = resolve_device(config.device)
    config.threads = config.threads or _threads(config)
    if hasattr(config.trainer, "precision"):
        config.trainer.precision = resolve_precision(config.trainer.precision, config.device)
    if hasattr(config.trainer, "deterministic") and config.trainer.deterministic is None:
        config.trainer.deterministic = config.device.startswith("cpu")
    if hasattr(config.model, "size"):
        module = models.KINDS[config.model.kind].partition(":")[0]
        config.model = lazy.resolve(f"{module}:resolve_size")(config.model, not config.device.startswith("cpu"))
    return config


def _threads(config: RunConfig) -> int:
    """All cores; of a ranker on a CPU, whose products are small, one where that is as quick."""
    if config.trainer.kind != "ranking" or config.device != "cpu" or "WORLD_SIZE" in os.environ:
        return usable_cores()
    from recsysml.engine import threads

    model = config.model
    return threads.chosen(config.trainer.batch_size, 512, model.n_experts * model.expert_widths[0])


def check_initial(config: RunConfig) -> None:
    """The weights that a new training starts from, before a run directory exists; `config` is resolved.

    A resumed run and an evaluation have their own weights, so that these may be gone. Raises ConfigError.
    """
    if getattr(config.model, "init_from", None) or getattr(config.model, "teacher_run", None):
        module = models.KINDS[config.model.kind].partition(":")[0]
        lazy.resolve(f"{module}:check_initial")(config.model)


def what_auto_became(before: RunConfig, after: RunConfig) -> str:
    """`device=auto is cpu, model.size=auto is nano`: one line; empty where nothing was auto.

    A size that decides no dimension is left out.
    """

    def changed(prefix: str, old: Any, new: Any) -> list[str]:
        found = []
        for field in dataclasses.fields(old):
            was, now = getattr(old, field.name), getattr(new, field.name)
            if dataclasses.is_dataclass(was) and dataclasses.is_dataclass(now):
                found += changed(f"{prefix}{field.name}.", was, now)
            elif was == "auto" and now != "auto" and (field.name != "size" or old.size_decides):
                found.append(f"{prefix}{field.name}=auto is {now}")
        return found

    found = changed("", before, after)
    if before.threads is None and after.threads and after.threads < usable_cores():
        found.append(f"threads=null is {after.threads}: {usable_cores()} are no quicker, as was measured here once")
    return ", ".join(found)


def run(config: RunConfig, run: Run | None, checkpoint: Path | None = None) -> None:
    """Train (and then evaluate, as the trainer does at its end), or with `checkpoint` evaluate it; finish the record.

    config: resolved. run: None in torchrun's other ranks, which write nothing. An error is written to the record and,
    with its traceback, to run.log, and raised again; SIGINT and SIGTERM end as Interrupted.
    """
    if run is None:
        return _work(config, None, checkpoint)
    tracker = config.tracker
    with termination_interrupts():
        try:
            run.tracker = Tracker.start(
                tracker.mode, tracker.project, tracker.group, tracker.tags, run.path, run.id, to_dict(config)
            )
            _work(config, run, checkpoint)
            with uninterrupted():
                run.finish("ok")
        except (Interrupted, KeyboardInterrupt) as stop:
            with uninterrupted():
                run.finish("interrupted", str(stop) or "interrupted")
            raise Interrupted(str(stop) or "interrupted") from None
        except Exception as error:
            line = one_line(error)
            logger.error("%s (traceback in %s)", line, run.path / "run.log", exc_info=True)
            with uninterrupted():
                run.finish("failed", line)
            raise


def _work(config: RunConfig, run: Run | None, checkpoint: Path | None) -> None:
    from recsysml.engine.seeds import seed_everything

    seed_everything(config.seed)
    if checkpoint is None:
        lazy.resolve(trainers.KINDS[config.trainer.kind])(config, run)
    else:
        lazy.resolve(evals.KINDS[config.eval.kind])(config, checkpoint, run)


def one_line(error: BaseException) -> str:
    """What is shown of an error: our own words as they are, another library's with the error's name before them."""
    text = " ".join(str(error).split())
    ours = type(error).__module__.startswith("recsysml.")
    return text if ours and text else f"{type(error).__name__}: {text}".rstrip(": ")


def main_process() -> bool:
    """Whether this process is the one that writes: always, but for torchrun's other ranks."""
    return os.environ.get("RANK", "0") == "0"
