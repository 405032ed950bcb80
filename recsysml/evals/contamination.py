"""How much of a task the training text has already: n-gram overlap, and the scores with and without what overlaps.

A question is touched at n if any n-gram of words of its text, answers included, occurs in the training text (Brown et
al. 2020, appendix C, took n = 13). The short n finds paraphrases, and phrases that everybody writes. That a question
is clean proves nothing about text that was reworded.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recsysml import lazy, sections
from recsysml.data import KINDS as DATA
from recsysml.data import heldout, question_texts, task_files
from recsysml.data.ngrams import BREAK, Overlap
from recsysml.data.progress import progress
from recsysml.data.token_data import TokenData, text_pieces
from recsysml.errors import ConfigError
from recsysml.examples import read_examples
from recsysml.files import write_atomic
from recsysml.metrics.comparison import unpaired_z
from recsysml.runs import read_json, read_results
from recsysml.schemas.run import RunConfig

logger = logging.getLogger("recsysml")

Scores = dict[str, tuple[np.ndarray, np.ndarray]]  # metric -> ids (n,), values (n,)
_SHOWN = 60  # touched questions in the report; contamination.jsonl has all


def check(config: RunConfig) -> None:
    """Raises ConfigError or DataError when a file of text, questions or scores is missing. Imports no torch."""
    if not config.eval.questions and not config.tasks:
        raise ConfigError(
            "eval=contamination: name tasks, such as tasks=arc_easy,piqa, or files of questions, such as"
            " eval.questions=arc_easy:arc_easy.jsonl"
        )
    _files(config)
    importlib.import_module(DATA[config.data.kind]).check(config.data)
    if config.eval.scores is not None:
        _read_scores(Path(config.eval.scores))


def _files(config: RunConfig) -> dict[str, list[Path]]:
    """Task -> files of its questions; none where they are not rows of files. Raises as `check`."""
    settings = config.eval
    files: dict[str, list[Path]] = {}
    for task in config.tasks:
        files[task] = question_texts.files_of_task(task, settings.task_folder, trust=settings.trust)
    for task, name in settings.files():
        if task in files:
            raise ConfigError(f"eval.questions: {task} is one of tasks as well; name it once.")
        files[task] = [question_texts.find(task, name)]
    return files


def evaluate_checkpoint(config: RunConfig, checkpoint_dir: Path, run: Any) -> None:
    """`recsysml eval eval=contamination`: the training text of `checkpoint_dir`'s run against the questions of `tasks`
    and of `eval.questions`."""
    settings = config.eval
    scores, entries = _read_scores(Path(settings.scores)) if settings.scores is not None else ({}, {})
    data: TokenData = lazy.resolve(f"{DATA[config.data.kind]}:load")(config.data)
    metadata = read_json(checkpoint_dir / "checkpoint.json")
    tasks = _questions(config, data)
    trained_on = (metadata.get("data") or {}).get("fingerprint")
    if trained_on not in (None, data.fingerprint):
        logger.warning("%s was not trained on this text (data=%s): other splits or files", checkpoint_dir, data.name)
    run.set_data(data.name, data.fingerprint, data.sizes)
    model = metadata["model"]
    run.set_model(model.get("name") or checkpoint_dir.name, model["kind"], 0, 0)
    run.set_protocol(
        split="train",
        ngrams=[settings.ngram, settings.short_ngram],
        words="runs of letters and digits, lower case",
        questions={task: hashlib.sha256(json.dumps(asked).encode()).hexdigest() for task, asked in tasks.items()},
    )
    run.save()
    train = data.splits["train"]
    with progress("reading the training text", train.n_bytes) as advance:
        pieces = text_pieces(train, data.tokenizer, BREAK)
        found = overlap(tasks, pieces, (settings.ngram, settings.short_ngram), advance)
    record(run, found, scores, entries)


def _questions(config: RunConfig, data: TokenData) -> dict[str, list[tuple[str, str]]]:
    """Task -> (id, text) of each question; `heldout` is made from the text, and lm_eval knows what no file has."""
    settings = config.eval
    files = _files(config)
    own = task_files.index(settings.task_folder, trust=settings.trust, wanted=list(config.tasks))
    if "heldout" in config.tasks and own["heldout"].own:
        files["heldout"] = [heldout.prepare(data)]
    others = [task for task, paths in files.items() if not paths]
    tasks = {task: question_texts.read_questions(*paths) for task, paths in files.items() if paths}
    if others:
        documents = lazy.resolve("recsysml.evals.lm_harness:documents")
        asked = documents(others, task_folder=settings.task_folder, trust=settings.trust)
        tasks |= {task: question_texts.of_documents(rows) for task, rows in asked.items()}
    return tasks


class Found:
    """The overlap of one task: which questions are touched at each n, and by what."""

    def __init__(self, ids: list[str], searched: Overlap, start: int) -> None:
        """`searched` holds the questions of all tasks, this one's from `start` on."""
        self.ids = ids
        self.sizes = searched.sizes
        own = slice(start, start + len(ids))
        counts = {n: searched.counts(n) for n in self.sizes}
        self.touched = {n: found[own] > 0 for n, (found, _) in counts.items()}  # n -> (q,)
        self.short = {n: total[own] == 0 for n, (_, total) in counts.items()}  # n -> (q,) too short to be judged
        self.share = {n: found[own] / np.maximum(total[own], 1) for n, (found, total) in counts.items()}
        largest = max(self.sizes)
        touched = np.flatnonzero(np.any([self.touched[n] for n in self.sizes], axis=0))
        self.words = {
            int(index): searched.example(
                largest if self.touched[largest][index] else min(self.sizes), start + int(index)
            )
            for index in touched
        }


def overlap(
    tasks: Mapping[str, Iterable[tuple[str, str]]],
    pieces: Iterable[str],
    sizes: tuple[int, ...],
    advance: Callable[[int], None] = lambda characters: None,
) -> dict[str, Found]:
    """task -> its overlap with a text. tasks: (example id, text) of each question; pieces: see Overlap.scan."""
    listed = {task: list(questions) for task, questions in tasks.items()}
    searched = Overlap([text for questions in listed.values() for _, text in questions], sizes)
    searched.scan(pieces, advance)
    found = {}
    start = 0
    for task, questions in listed.items():
        found[task] = Found([name for name, _ in questions], searched, start)
        start += len(questions)
    return found


def record(run: Any, found: Mapping[str, Found], scores: Scores, entries: Mapping[str, dict[str, Any]]) -> None:
    """Metrics, per-question marks, contamination.jsonl and the report's section. entries: the scores' own metrics."""
    overview, compared, touched_rows = [], [], []
    for task, one in found.items():
        n_questions = len(one.ids)
        for n in one.sizes:
            share = float(one.touched[n].mean())
            stderr = float(np.sqrt(share * (1 - share) / (n_questions - 1))) if n_questions > 1 else None
            run.metric(f"contamination/{task}/touched@{n}", share, stderr=stderr, n=n_questions, better="lower")
            run.add_examples(f"contamination/{task}/touched@{n}", one.ids, one.touched[n].astype(float))
        counted = [(int(one.touched[n].sum()), int(one.short[n].sum())) for n in one.sizes]
        overview.append([task, n_questions, *(value for pair in counted for value in pair)])
        for n in one.sizes:
            compared += _compare(run, task, one, n, scores, entries)
        for index, words in one.words.items():
            shares = {f"share@{n}": round(float(one.share[n][index]), 4) for n in one.sizes}
            touched_rows.append({"task": task, "id": one.ids[index], **shares, "words": words})
    sizes = next(iter(found.values())).sizes
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in touched_rows)
    write_atomic(run.path / "contamination.jsonl", lines)
    run.artifact("contamination", "contamination.jsonl")
    heads = [head for n in sizes for head in (f"touched@{n}", f"shorter than {n} words")]
    keys = ["task", "id", *(f"share@{n}" for n in sizes), "words"]
    run.section(
        "contamination",
        "Contamination",
        [
            sections.table("questions found in the training text", ["task", "questions", *heads], overview),
            sections.table("scores, clean against touched", list(_COMPARED), compared),
            sections.table("touched questions", keys, [[row[key] for key in keys] for row in touched_rows[:_SHOWN]]),
        ],
        note="touched@n: a sequence of n words of the question or its answers occurs in the training text.",
    )


_COMPARED = (
    "task", "metric", "n-gram", "clean", "clean questions", "touched", "touched questions", "touched - clean", "p",
)  # fmt: skip


def _compare(
    run: Any, task: str, one: Found, n: int, scores: Scores, entries: Mapping[str, dict[str, Any]]
) -> list[list[Any]]:
    """Each of the task's scores on the clean and the touched questions, as metrics and as rows of `_COMPARED`."""
    rows = []
    place = {name: index for index, name in enumerate(one.ids)}
    for metric, (ids, values) in scores.items():
        if not metric.startswith(f"lm/{task}/"):
            continue
        found = np.array([_place(name, place) for name in ids.tolist()])
        known = found >= 0
        if not known.any():
            logger.warning("%s: none of its ids is one of the questions of %s", metric, task)
            continue
        at = found[known]
        marks, kept = one.touched[n][at], values[known]
        short = metric.rpartition("/")[2]
        means = []
        for word, chosen in (("clean", kept[~marks]), ("touched", kept[marks])):
            mean = float(chosen.mean()) if len(chosen) else None
            stderr = float(chosen.std(ddof=1) / np.sqrt(len(chosen))) if len(chosen) > 1 else None
            means.append((mean, stderr, len(chosen)))
            if mean is not None:
                name = f"contamination/{task}/{short}_{word}@{n}"
                said = {key: entries[metric][key] for key in ("better", "baseline")}
                run.metric(name, mean, stderr=stderr, n=len(chosen), **said)
        (clean, clean_error, n_clean), (touched, touched_error, n_touched) = means
        effect, p = None, None
        if clean is not None and touched is not None:
            effect = touched - clean
            if clean_error and touched_error:
                p = unpaired_z(clean, clean_error, touched, touched_error).p
        rows.append([task, short, n, clean, n_clean, touched, n_touched, effect, p])
    return rows


def _place(name: str, place: Mapping[str, int]) -> int:
    """Which question a score is of: by its id, else by the row number that begins its id (`12:5f3a`); else -1."""
    if name in place:
        return place[name]
    number, colon, _ = name.partition(":")
    return int(number) if colon and number.isdecimal() and int(number) < len(place) else -1


def _read_scores(path: Path) -> tuple[Scores, dict[str, dict[str, Any]]]:
    """Per-question scores of a run of `recsysml eval tasks=...`, and its metrics as results.json has them."""
    path = path.expanduser()
    file = path / "examples.parquet"
    if not file.is_file():
        raise ConfigError(f"eval.scores={path}: it has no examples.parquet; give a run of `recsysml eval tasks=...`")
    metrics = read_results(path / "results.json")["metrics"]
    return {name: found for name, found in read_examples(file).items() if name in metrics}, metrics
