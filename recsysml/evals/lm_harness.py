"""lm_eval's tasks on our models: the one module that imports it.

lm_eval makes the requests and judges the answers, which `engine.answering` gives. Its own evaluator is not used: it
asks everything at once, where we keep answers task by task, and prints bars. A test holds the two to equal numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
import lm_eval
from lm_eval.api.group import Group
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.model import LM
from lm_eval.api.registry import METRIC_REGISTRY
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from recsysml import lazy
from recsysml.data import KINDS as DATA
from recsysml.data import heldout, task_files
from recsysml.engine import asking, device, opening, score_cache, seeds
from recsysml.engine.answering import Answerer
from recsysml.errors import ConfigError, DataError
from recsysml.examples import question_id
from recsysml.files import cache_dir
from recsysml.metrics import task_scores
from recsysml.metrics.task_scores import TaskScore
from recsysml.runlog import logger

logging.getLogger("lm_eval").setLevel(logging.ERROR)  # what it warns of is about files that nobody chose
datasets.disable_progress_bars()

_FEWSHOT_SEED = 1234  # the harness's own


class LanguageModel(LM):
    """A model of ours as lm_eval knows one."""

    def __init__(self, answerer: Answerer) -> None:
        super().__init__()
        self.answerer = answerer

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """(log p, whether greedy) of each (context, continuation)."""
        questions = [(request.task_name, request.doc_id) for request in requests]
        return self.answerer.log_likelihoods([r.args[:2] for r in requests], questions, _what(requests))

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """log p of each text."""
        return self.answerer.rolling([request.args[0] for request in requests], _what(requests))

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The likeliest text after each context, up to a stop sequence."""
        return self.answerer.generate([request.args[:2] for request in requests], _what(requests))


def _what(requests: list[Instance]) -> str:
    return str(requests[0].task_name) if requests else ""


# --- tasks


@dataclass(frozen=True)
class Tasks:
    """Tasks by name, groups over them, and what is known of where the questions come from."""

    tasks: dict[str, Task]
    groups: dict[str, Group]
    about: dict[str, dict[str, Any]]
    files: dict[str, list[Path]]  # of tasks whose questions are rows of them, in order
    converted: set[str]  # by us, who have looked at every question


def load(
    names: Sequence[str],
    *,
    task_folder: str | None = None,
    trust: bool = False,
    num_fewshot: int | None = None,
    heldout_file: Path | None = None,
) -> Tasks:
    """Tasks from conf/task and the user's folder; the harness's catalogue only for names that neither has.

    heldout_file: the questions of the task `heldout`. Raises ConfigError or DataError in one line.
    """
    known = task_files.index(task_folder, trust=trust, wanted=names)
    files: dict[str, list[Path]] = {}
    converted: set[str] = set()
    specs: list[dict[str, Any]] = []
    plain: list[str] = []
    about: dict[str, dict[str, Any]] = {}
    theirs: list[str] = []
    names = task_files.expand(names, known)
    for name in names:
        file = known.get(name)
        if file is None:
            theirs.append(name)
        elif name == "heldout" and file.own:
            assert heldout_file is not None
            specs.append({"task": name, "dataset_kwargs": {"data_files": {"validation": str(heldout_file)}}})
            converted.add(name)
            about[name] = {"source": "made from the validation text"}
        elif (located := _locate(name, file, theirs)) is not None:
            specs.append({"task": name, **located.overrides})
            about[name] = {"source": "local files", "files": located.sources, "notes": located.notes}
            if located.sources:
                converted.add(name)
            elif "process_docs" not in file.content:
                files[name] = located.asked
        elif name not in theirs:
            plain.append(name)
    for spec in specs:
        spec["dataset_kwargs"] = {**spec["dataset_kwargs"], "cache_dir": str(cache_dir() / "datasets")}
    found: dict[str, Any] = {"tasks": {}, "groups": {}}
    with _one_line(names, [known[name] for name in names if name in known], files, hub=bool(theirs or plain)):
        if specs or plain:
            manager = TaskManager(
                include_defaults=False, include_path=[str(path) for path in task_files.folders(task_folder)]
            )
            # the way a task's YAML is loaded with something changed: as a member of a group that says so
            wanted: list[Any] = [*plain, *([{"group": "local", "task": specs}] if specs else [])]
            found = dict(manager.load(wanted))
            found["groups"] = {name: group for name, group in found["groups"].items() if name != "local"}
        if theirs:
            more = _catalogue(tuple(theirs))
            found = {part: {**found[part], **more[part]} for part in ("tasks", "groups")}
    for task in found["tasks"].values():
        if getattr(task, "UNSAFE_CODE", False) and not trust:
            raise ConfigError(f"tasks={task.task_name}: it runs code that models write; if that is safe here: --trust")
        own = task.get_config("num_fewshot")
        if own is None or (num_fewshot is not None and own != 0):  # a task that says 0 cannot have any
            task.set_config("num_fewshot", num_fewshot or 0)
        about.setdefault(task.task_name, {"source": str(task.DATASET_PATH)})
    return Tasks(found["tasks"], found["groups"], about, files, converted)


def _locate(name: str, file: task_files.TaskFile, theirs: list[str]) -> task_files.Located | None:
    """Local files; where ours are missing and the hub can be reached, the harness's own task takes their place."""
    try:
        return task_files.locate(name, file)
    except task_files.Missing as missing:
        task_files.check_hub_instead(name, file, missing)
        theirs.append(name)
        return None


@lru_cache(maxsize=4)
def _catalogue(names: tuple[str, ...]) -> dict[str, Any]:
    """From the harness's own 10 000 files, whose index takes it seconds."""
    loaded = TaskManager().load(list(names))
    return {"tasks": loaded["tasks"], "groups": loaded.get("groups", {})}


@contextlib.contextmanager
def _one_line(
    names: Sequence[str], files: Sequence[task_files.TaskFile], rows: Mapping[str, Sequence[Path]], *, hub: bool
) -> Iterator[None]:
    """rows: task -> the files that hold its questions. hub: whether one of the tasks may have to be fetched."""
    try:
        yield
    except (ConfigError, DataError):
        raise
    except Exception as error:
        for file in files:  # only now: what the harness does not know may be one of the `evaluate` library
            task_files.check_metrics(file, set(METRIC_REGISTRY))
        asking.check_first(error, rows)
        text = " ".join(str(error).split())[:300]
        hint = "" if not hub or task_files.hub_reachable() else "; the Hugging Face hub cannot be reached"
        raise DataError(f"tasks={','.join(names)}: cannot be loaded: {type(error).__name__}: {text}{hint}") from error


def documents(names: Sequence[str], *, task_folder: str | None, trust: bool) -> dict[str, list[Any]]:
    """The questions of each task, those in a group included, as it prepares them. Raises as `load`."""
    loaded = load(names, task_folder=task_folder, trust=trust)
    return {name: list(task.eval_docs) for name, task in loaded.tasks.items()}


# --- from answers to metrics


@dataclass(frozen=True)
class Judged:
    metrics: list[TaskScore]
    requests: dict[str, str]  # task -> sha256 of all it asked
    sizes: dict[str, int]  # task -> documents


def judge(lm: Any, tasks: Tasks, limit: int | None = None) -> Judged:
    """Ask the model everything and judge its answers. limit: the first so many documents of each task.

    No global random state is read or changed.
    """
    metrics: list[TaskScore] = []
    hashes: dict[str, str] = {}
    sizes: dict[str, int] = {}
    grouped: dict[str, dict[str, Any]] = {}
    for name, task in tasks.tasks.items():
        task.set_fewshot_seed(_FEWSHOT_SEED)  # here: asked twice, a task shows the same examples
        rows = tasks.files.get(name, ())
        asking.build(name, task, limit, rows)
        if name not in tasks.converted:
            asking.check_answers(name, task, limit, rows)
        hashes[name] = score_cache.request_hash([[r.request_type, *r.args] for r in task.instances])
        ask(lm, task)
        found = collect(name, task, limit)
        sizes[name] = max((metric.n for metric in found), default=0)
        metrics += found
        grouped[name] = {"sample_len": sizes[name]}
        for metric in found:
            key, _, filtered = metric.name.rpartition("/")[2].partition(",")
            place = filtered or "none"
            grouped[name] |= {f"{key},{place}": metric.value, f"{key}_stderr,{place}": metric.stderr}
    for name, group in tasks.groups.items():
        metrics += task_scores.of_group(name, group.aggregate(grouped))
    return Judged(metrics, hashes, sizes)


def ask(lm: Any, task: Task) -> None:
    """Put the model's answers into the task's requests."""
    by_kind: dict[str, list[Instance]] = defaultdict(list)
    for request in task.instances:
        by_kind[request.request_type].append(request)
    for kind, requests in by_kind.items():
        for request, answer in zip(requests, getattr(lm, kind)(requests), strict=True):
            request.resps = [answer] * (request.repeats or 1)  # greedy: every repeat says the same
    task.apply_filters()


def collect(name: str, task: Task, limit: int | None = None) -> list[TaskScore]:
    """The metrics of a task whose requests are answered."""
    by_document: dict[int, list[Instance]] = defaultdict(list)
    for request in task.instances:
        by_document[request.doc_id].append(request)
    filters = list(task.instances[0].filtered_resps)
    found: list[TaskScore] = []
    for filtered in filters:
        values: dict[str, list[Any]] = defaultdict(list)
        ids: dict[str, list[str]] = defaultdict(list)
        choices: list[int] = []
        for number, document in task.doc_iterator(limit=limit):
            requests = sorted(by_document[number], key=lambda request: request.idx)
            scores = task.process_results(document, [request.filtered_resps[filtered] for request in requests])
            if name == "heldout":
                scores |= _bits_of_truth(task, document, requests)
            if task.OUTPUT_TYPE == "multiple_choice":
                choices.append(len(task.doc_to_choice(document)))
            label = question_id(number, [text for r in requests for text in r.args if isinstance(text, str)])
            for metric, value in scores.items():
                values[metric].append(value)
                ids[metric].append(label)
        chance = task_scores.chance(choices) if choices and not task.multiple_target else None
        plain = filtered == filters[0] == "none"
        for metric, items in values.items():
            label = f"lm/{name}/{metric}" if plain else f"lm/{name}/{metric},{filtered}"
            own = task.aggregation().get(metric, mean)
            aggregate, higher = None if own is mean else own, bool(task.higher_is_better().get(metric, True))
            found.append(task_scores.of_metric(label, metric, items, ids[metric], aggregate, higher, chance))
    return found


def _bits_of_truth(task: Task, document: Any, requests: list[Instance]) -> dict[str, tuple[float, int]]:
    """Log-likelihood and bytes of the true continuation; the space before it counts with it, as it is scored."""
    context, continuation = requests[task.doc_to_target(document)].args[:2]
    spaces = len(context) - len(context.rstrip())
    n_bytes = len((context[len(context) - spaces :] + continuation).encode())
    return {"bits_per_byte": (requests[task.doc_to_target(document)].resps[0][0], n_bytes)}


# --- the two ways here: `eval` on a checkpoint, and training on the way


def record(run: Any, judged: Judged) -> None:
    """Metrics and per-example scores."""
    for score in judged.metrics:
        said = {key: getattr(score, key) for key in ("stderr", "n", "better", "baseline")}
        if score.at_chance is not None:
            said["at_chance"] = score.at_chance
        run.metric(score.name, score.value, **said)
        if score.scores is not None:
            run.add_examples(score.name, score.ids, score.scores)


def describe(judged: Judged, tasks: Tasks) -> dict[str, Any]:
    """For results.json: each task's questions, version, few-shot examples and the hash of all it asked."""
    return {
        name: {
            **tasks.about[name],
            "version": task.VERSION,
            "num_fewshot": task.get_config("num_fewshot"),
            "requests": judged.requests[name],
        }
        for name, task in tasks.tasks.items()
    }


def evaluate_checkpoint(config: Any, checkpoint_dir: Path, run: Any) -> None:
    """`recsysml eval tasks=...`: the tasks of `config` on a checkpoint, or on a folder of `transformers`."""
    settings = config.eval
    own = heldout_questions(config) if "heldout" in config.tasks else None
    where = {"task_folder": settings.task_folder, "trust": settings.trust}
    tasks = load(config.tasks, num_fewshot=config.num_fewshot, heldout_file=own, **where)
    chosen = device.resolve_device(config.device)
    machine = device.prepare(chosen, settings.precision, threads=config.threads, deterministic=True, keep_memory=True)
    opened = opening.open_language_model(checkpoint_dir)
    opened.model.to(machine.device)
    batch_size = None if settings.batch_size == "auto" else int(settings.batch_size)
    run.set_model(opened.name, opened.kind, opened.parameters, 0)
    run.set_environment(machine.describe())
    run.set_protocol(
        harness=f"lm_eval {lm_eval.__version__}",
        precision=settings.precision,
        context_length=opened.scorable.context_length,
    )
    judged = judge(LanguageModel(Answerer(opened, machine, batch_size, settings.use_cache)), tasks, config.limit)
    details = describe(judged, tasks)
    for name, content in details.items():
        for note in content.get("notes", []):
            logger.info("%s: %s", name, note)
    fingerprint = hashlib.sha256(json.dumps(judged.requests, sort_keys=True).encode()).hexdigest()
    run.set_data("+".join(tasks.tasks), fingerprint, judged.sizes, tasks=details)
    record(run, judged)


def heldout_questions(config: Any) -> Path:
    """The questions made from the validation text of `config.data`; the text is loaded only to make them."""
    return heldout.prepare(lazy.resolve(f"{DATA[config.data.kind]}:load")(config.data), seed=1)


def during_training(config: Any, model: Any, data: Any, machine: Any) -> Callable[[], tuple[Judged, Tasks]]:
    """For `trainer.eval_tasks`: asks `model` (in eval mode) as it then is, and leaves all random state alone."""
    before, names = seeds.state(), config.trainer.eval_tasks
    tasks = load(names, heldout_file=heldout.prepare(data) if "heldout" in names else None)
    seeds.restore(before)
    lm = LanguageModel(Answerer(opening.wrap(model, data.tokenizer, "", "", ""), machine, use_cache=False))

    def ask_all() -> tuple[Judged, Tasks]:
        before = seeds.state()
        try:
            return judge(lm, tasks, config.trainer.eval_tasks_limit), tasks
        finally:
            seeds.restore(before)

    return ask_all
