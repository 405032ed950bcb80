"""A sweep: every job validated before the first starts, each a run of its own, then a table, sweep.json and a plot."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

from recsysml import config as configs
from recsysml import hints
from recsysml.engine.signals import termination_interrupts
from recsysml.errors import ConfigError, NoSuchKey
from recsysml.launch import Command, do, label, only_for_train, outputs, parents
from recsysml.schemas.run import RunConfig


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
            try:
                config = configs.compose_with(hydra, overrides, command.config_dir)
            except NoSuchKey as error:
                raise hints.in_typed_words(error, command.overrides) from None
            only_for_train(config)
            single.check(config)
            resolved = single.resolve(config)
            single.check_initial(resolved)
            digest = config_hash(single.to_dict(resolved), package_versions())
            trade_off = getattr(config.eval, "trade_off", None)
            planned.append(sweeps.Job(overrides, digest, config.eval.headline, trade_off))
            first = first or config
            if (config.sweep.name, config.outputs) != (first.sweep.name, first.outputs):
                raise ConfigError("a sweep has one sweep.name and one outputs folder.")
        assert first is not None
        name = sweeps.name_of(command.overrides, first)
        folder = outputs(first) / "sweep" / name
        since = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if rerun else ""
        interrupted = False
        with sweeps.lock(folder), tempfile.TemporaryDirectory() as scratch:
            sweeps.write(folder, sweeps.summary(folder, planned, command.argv, since, over=False))
            print(f"sweep: {folder} ({len(planned)} job{'' if len(planned) == 1 else 's'})")
            common = frozenset.intersection(*(frozenset(job.overrides) for job in planned))
            task = SweepTask(command, name, since, len(planned), common, alone=not parallel)
            hydras_own = [f"hydra.sweep.dir='{scratch}'", "hydra.sweep.subdir=."]  # its multirun.yaml is not ours
            try:
                with termination_interrupts():
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
