"""From a command to runs and an exit code: compose, check, make the run directory, do the job; one run or a sweep.

Mistakes leave as ConfigError or DataError before anything is written (exit code 2). What fails after a run directory
exists is in its record (exit code 1). This file and config.py alone know Hydra.
"""

from __future__ import annotations

import dataclasses
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
    for key in ("tasks", "limit", "num_fewshot"):
        if getattr(config, key):
            raise ConfigError(f"{key} belongs to `recsysml eval`; `train` ends with the model's own metrics.")
    if config.checkpoint != "last":
        raise ConfigError(
            f"checkpoint belongs to `recsysml eval`. To start from weights: model.init_from={config.checkpoint};"
            f" to go on with a run: --resume {config.checkpoint}"
        )


def parents(config: RunConfig) -> list[str]:
    """The run whose weights a training starts from, if any."""
    return run_of(getattr(config.model, "init_from", None))


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
        print(f"{path} is finished; nothing to do. To train on from it: recsysml train model.init_from={path}")
        return 0
    job.check(config)
    resolved = job.resolve(config)
    if not job.main_process():
        return do(resolved, None, command)
    show()
    run = Run.reopen(path)
    run.say(f"resumed: {path} (it was {record['status']})")
    return do(resolved, run, command)


# --- sweeps


@dataclass(frozen=True)
class SweepTask:
    """One job of a sweep as Hydra's launcher calls it, here or (pickled) in a process of its own."""

    command: Command
    name: str
    since: str  # runs that started before are not this sweep's (--rerun); "" is any
    jobs: int
    common: frozenset[str]  # the overrides that all jobs have
    alone: bool  # one job at a time in this process

    def __call__(self, composed: Any) -> int:
        """The job's exit code. Only Ctrl-C leaves as an exception, which ends the sweep."""
        from hydra.core.hydra_config import HydraConfig

        from recsysml.runlog import logger, show

        show()
        hydra = HydraConfig.get()
        words = [text for text in hydra.overrides.task if not text.startswith("hydra")]
        changed = " ".join(text for text in words if text not in self.common)
        logger.info("job %s of %s: %s", int(hydra.job.num) + 1, self.jobs, changed or "(no overrides)")
        try:
            code = self.do(configs.from_hydra(composed, self.command.config_dir), words)
        except Exception as error:
            logger.error("%s", error, exc_info=self.command.verbose)
            return 1
        if code == 130 and self.alone:
            raise KeyboardInterrupt
        return code

    def do(self, config: RunConfig, words: list[str]) -> int:
        """Skip a finished job, go on with an interrupted one, else start it anew."""
        from recsysml import job
        from recsysml import sweep as sweeps
        from recsysml.environment import config_hash, package_versions
        from recsysml.results import Run

        resolved = job.resolve(config)
        folder = outputs(config) / "sweep" / self.name
        content = job.to_dict(resolved)
        found = sweeps.find(folder, config_hash(content, package_versions()), self.since)
        if found is not None and found.status == "ok":
            print(f"done before: {found.path}")
            return 0
        command = dataclasses.replace(self.command, overrides=words)
        if found is not None and found.status in ("running", "interrupted"):
            run = Run.reopen(found.path)
            run.say(f"resumed: {run.path}")
        else:
            run = Run.create(
                outputs(config),
                "train",
                label(resolved),
                argv=command.argv,
                config=content,
                overrides=words,
                parents=parents(resolved),
                sweep=self.name,
            )
            run.say(f"train: {run.path}")
        return do(resolved, run, command)


def sweep(command: Command, *, rerun: bool = False) -> int:
    """All jobs of a sweep, each validated before the first starts. Returns 0, 1 if any failed, or 130."""
    import tempfile
    from datetime import UTC, datetime

    from recsysml import job as single
    from recsysml import sweep as sweeps
    from recsysml.environment import config_hash, package_versions

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # every process would run every job
        raise ConfigError("-m: a sweep runs in one process; under torchrun start its runs one by one.")
    with configs.hydra_at(command.config_dir) as hydra:
        words, jobs, parallel = expand(hydra, command)
        first = None
        planned = []
        for overrides in jobs:  # a mistake in the last job must not cost the first ones
            config = configs.compose_with(hydra, overrides, command.config_dir)
            only_for_train(config)
            single.check(config)
            resolved = single.resolve(config)
            single.check_initial(resolved)
            digest = config_hash(single.to_dict(resolved), package_versions())
            planned.append(sweeps.Job(overrides, digest, config.eval.headline))
            first = first or config
            if (config.sweep.name, config.outputs) != (first.sweep.name, first.outputs):
                raise ConfigError("a sweep has one sweep.name and one outputs folder.")
        assert first is not None
        name = sweeps.name_of(command.overrides, first)
        folder = outputs(first) / "sweep" / name
        folder.mkdir(parents=True, exist_ok=True)
        since = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if rerun else ""
        interrupted = False
        with sweeps.lock(folder), tempfile.TemporaryDirectory() as scratch:
            sweeps.write(folder, sweeps.summary(folder, planned, command.argv, since, over=False))
            print(f"sweep: {folder} ({len(planned)} jobs)")
            common = frozenset.intersection(*(frozenset(job.overrides) for job in planned))
            task = SweepTask(command, name, since, len(planned), common, alone=not parallel)
            hydras_own = [f"hydra.sweep.dir='{scratch}'", "hydra.sweep.subdir=."]  # its multirun.yaml is not ours
            try:
                hydra.multirun("config", task, [*words, *hydras_own], with_log_configuration=False)
            except KeyboardInterrupt:
                interrupted = True
            content = sweeps.summary(folder, planned, command.argv, since, over=True)
            sweeps.write(folder, content)
    sweeps.print_table(content, planned)
    sweeps.plot(folder, content, planned)
    if interrupted:
        print(f"interrupted; the same command goes on in {folder}")
        return 130
    return 0 if all(row["status"] == "ok" for row in content["jobs"]) else 1


def expand(hydra: Any, command: Command) -> tuple[list[str], list[list[str]], bool]:
    """The overrides of the whole sweep, those of each job, and whether jobs run in parallel."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.types import RunMode

    words = configs.prepare(hydra, command.overrides, command.config_dir, sweep=True)
    try:
        root = hydra.compose_config("config", words, RunMode.MULTIRUN)
    except Exception as error:
        raise configs.mistake(hydra, words, command.config_dir, error) from None
    params = [f"{key}={value}" for key, value in (root.hydra.sweeper.get("params") or {}).items()]

    def split() -> list[list[str]]:
        parsed = [configs.parse(hydra, text) for text in [*params, *words] if not text.startswith("hydra")]
        for override in parsed:
            if override.is_interval_sweep():
                raise ConfigError(f"{override.input_line}: an interval has no end of values; list them: a,b,c.")
            if override.is_sweep_override() and not any(True for _ in override.sweep_iterator()):
                raise ConfigError(f"{override.input_line}: there is nothing in it to sweep over.")
        return BasicSweeper.split_arguments(parsed, None)[0]

    jobs = split()
    parallel = root.hydra.runtime.choices["hydra/launcher"] != "basic"
    if parallel and not any(text.startswith("threads=") for text in words):
        from recsysml.environment import usable_cores

        workers = root.hydra.launcher.get("n_jobs", 1)
        workers = min(len(jobs), workers if workers > 0 else usable_cores())
        words = [*words, f"threads={max(1, usable_cores() // workers)}"]
        jobs = split()
    return words, jobs, parallel
