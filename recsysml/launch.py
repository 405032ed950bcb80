"""From a command to a run and an exit code: compose, check, make the run directory, do the job.

Mistakes leave as ConfigError or DataError before anything is written (exit code 2). What fails after a run directory
exists is in its record (exit code 1). This file, config.py and multirun.py alone know Hydra.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsysml import config as configs
from recsysml.errors import ConfigError, Interrupted
from recsysml.files import outputs_dir
from recsysml.reuse import find_run, run_of, with_allowed
from recsysml.schemas.run import RunConfig

if TYPE_CHECKING:
    from recsysml.results import Run


@dataclass(frozen=True)
class Command:
    """What was typed."""

    overrides: list[str]
    argv: list[str]
    config_dir: Path | None = None
    verbose: bool = False


def outputs(config: RunConfig) -> Path:
    return Path(config.outputs).expanduser() if config.outputs else outputs_dir()


def train(command: Command) -> int:
    """One run. Returns its exit code: 0, 1 or 130. Raises ConfigError or DataError for a mistake."""
    from hydra.core.hydra_config import HydraConfig

    mistakes: list[Exception] = []
    codes: list[int] = []

    def task(composed: Any) -> None:  # Hydra prints and wraps what a job raises: nothing may leave it but Ctrl-C
        try:
            config = configs.from_hydra(composed, command.config_dir)
            only_for_train(config)
            params = HydraConfig.get().sweeper.get("params")
            if params:
                print(f"one run; with -m it sweeps over {', '.join(params)}")
            codes.append(start(config, command, "train", parents=parents(config)))
        except Exception as error:
            mistakes.append(error)

    with configs.hydra_at(command.config_dir) as hydra:
        words = configs.prepare(hydra, command.overrides, command.config_dir)
        try:
            hydra.run("config", task, words, with_log_configuration=False)
        except Exception as error:
            raise configs.mistake(hydra, words, command.config_dir, error) from None
    if mistakes:
        raise mistakes[0]
    return codes[0]


def start(
    config: RunConfig,
    command: Command,
    name: str,
    checkpoint: Path | None = None,
    parents: Sequence[str] = (),
    sweep: str | None = None,
) -> int:
    """Check and resolve the config, make the run directory, do the job. Returns the exit code."""
    resolved, run = begin(config, command, name, checkpoint, parents, sweep)
    return do(resolved, run, command, checkpoint)


def begin(
    config: RunConfig,
    command: Command,
    name: str,
    checkpoint: Path | None = None,
    parents: Sequence[str] = (),
    sweep: str | None = None,
) -> tuple[RunConfig, Run | None]:
    """The resolved config and the run directory that `do` works in: None in torchrun's other ranks."""
    from recsysml import job
    from recsysml.results import Run
    from recsysml.runlog import show

    if job.main_process():
        job.check(config)
    resolved = job.resolve(config)
    if checkpoint is None:
        job.check_initial(resolved)
    if not job.main_process():
        return resolved, None
    show()
    run = Run.create(
        outputs(config),
        name,
        label(resolved),
        argv=command.argv,
        config=job.to_dict(resolved),
        overrides=command.overrides,
        parents=parents,
        sweep=sweep,
    )
    run.say(f"{name}: {run.path}")
    became = job.what_auto_became(config, resolved)
    if became:
        run.say(became)
    return resolved, run


def only_for_train(config: RunConfig) -> None:
    """Refuse what `train` would ignore, and an eval that it cannot end with."""
    if config.model.kind == "hf":
        raise ConfigError(
            "model=hf is judged, not trained: recsysml eval model=hf model.path=... tasks=...; to train on from such a"
            " folder: model=gpt2 model.init_from=..."
        )
    if not getattr(config.eval, "after_training", True):
        raise ConfigError(f"eval={config.eval.kind} belongs to `recsysml eval`; `train` ends with the model's metrics.")
    if getattr(config.eval, "policy", "model") != "model":
        raise ConfigError(f"eval.policy={config.eval.policy} belongs to `recsysml eval`; `train` judges its own.")
    if getattr(config.eval, "dial", None) is not None:
        raise ConfigError(f"eval.dial={config.eval.dial:g} belongs to `recsysml eval`; `train` has model.dial.")
    for key in ("tasks", "limit", "num_fewshot"):
        if getattr(config, key):
            raise ConfigError(f"{key} belongs to `recsysml eval`; `train` ends with the model's own metrics.")
    if config.checkpoint != "last":
        raise ConfigError(
            f"checkpoint belongs to `recsysml eval`. To start from weights: model.init_from={config.checkpoint};"
            f" to go on with a run: --resume {config.checkpoint}"
        )


def parents(config: RunConfig) -> list[str]:
    """The runs that a training starts from: of weights, and of a teacher."""
    return [*run_of(getattr(config.model, "init_from", None)), *run_of(getattr(config.model, "teacher_run", None))]


def label(config: RunConfig) -> str:
    return str(getattr(config.model, "name", config.model.kind))


def do(config: RunConfig, run: Run | None, command: Command, checkpoint: Path | None = None) -> int:
    """The job in its run directory; its end as an exit code, said in one line."""
    from recsysml import job

    try:
        job.run(config, run, checkpoint)
    except Interrupted:
        if run is not None:
            run.say(
                f"interrupted; go on with: recsysml train --resume {run.path}" if checkpoint is None else "interrupted"
            )
        return 130
    except Exception as error:
        if run is None:  # else its line was said and its traceback written to run.log
            print(f"error: process {os.environ.get('RANK')}: {job.one_line(error)}", file=sys.stderr)
        if command.verbose:
            traceback.print_exc()
        return 1
    if run is not None:
        if checkpoint is not None:
            show_metrics(run)
        print(f"done: {run.path}")
    return 0


def show_metrics(run: Run) -> None:
    """What `eval` found, one line a metric."""
    for name, entry in run.record["metrics"].items():
        error = f" ± {entry['stderr']:.4f}" if entry["stderr"] is not None else ""
        simple = f" (baseline {entry['baseline']:.4f})" if entry["baseline"] is not None else ""
        chance = ", which is within two standard errors of chance" if entry.get("at_chance") else ""
        chance = ", not to be believed" if entry.get("unreliable") else chance
        value = "has no value" if entry["value"] is None else f"{entry['value']:.4f}{error}{simple}{chance}"
        print(f"{name} {value}")


def resume(folder: str, command: Command) -> int:
    """Go on with a run in place, under its id and its own config. A finished run is left as it is: exit code 0.

    Raises ConfigError for overrides that would change its numbers.
    """
    from recsysml import job
    from recsysml.results import Run
    from recsysml.runlog import show
    from recsysml.runs import read_results

    path = find_run(folder)
    record = read_results(path / "results.json")["run"]
    if record["command"] != "train":
        raise ConfigError(f"--resume {folder}: it is a run of `{record['command']}`; only `train` resumes.")
    config = with_allowed(configs.read_run(path), path, command.overrides)
    if record["status"] == "ok":
        more = ""
        if config.model.kind in ("gpt", "policy_ranker"):  # what init_from takes a model of the same kind for
            more = f" To train on from it: recsysml train model={config.model.name} model.init_from={path}"
        print(f"{path} is finished; nothing to do.{more}")
        return 0
    job.check(config)
    resolved = job.resolve(config)
    if not job.main_process():
        return do(resolved, None, command)
    show()
    run = Run.reopen(path)
    run.say(f"resumed: {path} (it was {record['status']})")
    return do(resolved, run, command)
