"""Answers with retrieved text: BM25 finds chunks, the model answers, and both are judged without another model.

String and likelihood based, and no more than that:
context_recall     share of the reference answer's words that the retrieved chunks have
faithfulness       share of the generated answer's words that they have
answer_relevance   how much likelier the answer makes the question, in nats a byte of the question: above 0 means that
                   the answer is about it (the model judges its own answer: compare runs of one model)
exact_match, f1    the generated answer against the reference
The baselines of the first two and of f1 are those of chunks drawn at random.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recsysml.data.questions import read_rows
from recsysml.errors import ConfigError, DataError
from recsysml.files import data_dir
from recsysml.metrics import answers

PROMPT = "{context}\n\nQuestion: {question}\nAnswer:"
STOPS = ["\n", "Question:"]
_TEXT = (".txt", ".md", ".rst")


def check(config: Any) -> None:
    """Raise ConfigError or DataError for documents, questions or a library that is not there. Imports no torch."""
    import importlib.util

    if importlib.util.find_spec("bm25s") is None:
        raise ConfigError("eval=rag: it needs bm25s; pip install 'recsysml[rag]'")
    chunks(read_documents(config.eval.documents), config.eval.chunk_words)
    read_questions(config.eval.questions)


def read_documents(names: Sequence[str]) -> list[str]:
    """The texts of files and folders, in order."""
    texts = []
    for name in names:
        path = _find(name, "documents")
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and (file == path or file.suffix in _TEXT):
                try:
                    texts.append(file.read_text(encoding="utf-8"))
                except (OSError, UnicodeDecodeError) as error:
                    raise DataError(f"{file} cannot be read: {error}") from error
    if not any(text.strip() for text in texts):
        raise ConfigError("eval.documents: name files or folders with text to retrieve from.")
    return texts


def read_questions(name: str | None) -> list[dict[str, str]]:
    """Rows {"question", "answer"} of a .jsonl."""
    if not name:
        raise ConfigError('eval.questions: name a .jsonl with rows {"question": ..., "answer": ...}.')
    path = _find(name, "questions")
    rows = []
    for number, row in read_rows(path):
        if not all(isinstance(row.get(key), str) and row[key].strip() for key in ("question", "answer")):
            raise DataError(f"{path} line {number} has no question and answer")
        rows.append({"question": row["question"], "answer": row["answer"]})
    if not rows:
        raise DataError(f"{path} holds no questions")
    return rows


def _find(name: str, what: str) -> Path:
    root = data_dir()
    for place in (Path(), *([root] if root else [])):
        if (place / Path(name).expanduser()).exists():
            return place / Path(name).expanduser()
    raise DataError(f"eval.{what}: {name} is neither in the working directory nor under RECSYSML_DATA")


def chunks(texts: Sequence[str], n_words: int) -> list[str]:
    """Every text in pieces of `n_words` words, the last shorter, none across two texts."""
    split = [text.split() for text in texts]
    return [" ".join(words[i : i + n_words]) for words in split for i in range(0, len(words), n_words)]


def retrieve(pieces: Sequence[str], questions: Sequence[str], top_k: int) -> list[list[int]]:
    """The `top_k` best chunks of each question by BM25 (Robertson & Zaragoza 2009), best first."""
    import bm25s

    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(pieces), stopwords="en", show_progress=False), show_progress=False)
    asked = bm25s.tokenize(list(questions), stopwords="en", show_progress=False)
    found, _ = index.retrieve(asked, k=min(top_k, len(pieces)), show_progress=False)
    return [[int(i) for i in row] for row in found]


def judge(answerer: Any, pieces: Sequence[str], rows: Sequence[dict[str, str]], settings: Any, seed: int) -> dict:
    """metric -> (scores (n,), baseline or None); and under "answers" what the model said."""
    questions = [row["question"] for row in rows]
    random = np.random.default_rng(seed)
    size = min(settings.top_k, len(pieces))
    drawn = [random.choice(len(pieces), size=size, replace=False).tolist() for _ in rows]
    contexts = ["\n".join(pieces[i] for i in chosen) for chosen in retrieve(pieces, questions, settings.top_k)]
    at_random = ["\n".join(pieces[i] for i in chosen) for chosen in drawn]
    limits = {"until": STOPS, "max_gen_toks": settings.max_new_tokens}

    def said(texts: list[str], what: str) -> list[str]:
        asked = [(PROMPT.format(context=c, question=q), limits) for c, q in zip(texts, questions, strict=True)]
        return [text.strip() for text in answerer.generate(asked, what)]

    told, told_at_random = said(contexts, "answers"), said(at_random, "answers from random chunks")

    def mean(scores: list[float]) -> float:
        return float(np.mean(scores))

    def per_row(score: Any, *columns: Sequence[str]) -> list[float]:
        return [score(*values) for values in zip(*columns, strict=True)]

    wanted = [row["answer"] for row in rows]
    support, f1 = answers.support, answers.f1
    n_bytes = np.array([len(question.encode()) for question in questions])
    with_answer = answerer.log_likelihoods(
        [(f"Answer: {text}\nQuestion:", f" {q}") for text, q in zip(told, questions, strict=True)], what="relevance"
    )
    without = answerer.log_likelihoods([("Answer:\nQuestion:", f" {q}") for q in questions], what="relevance")
    gain = np.array([a - b for (a, _), (b, _) in zip(with_answer, without, strict=True)]) / n_bytes
    return {
        "context_recall": (per_row(support, wanted, contexts), mean(per_row(support, wanted, at_random))),
        "faithfulness": (per_row(support, told, contexts), mean(per_row(support, told_at_random, at_random))),
        "answer_relevance": (gain.tolist(), 0.0),
        "exact_match": (per_row(answers.exact_match, told, wanted), None),
        "f1": (per_row(f1, told, wanted), mean(per_row(f1, told_at_random, wanted))),
        "answers": told,
    }


def evaluate_checkpoint(config: Any, checkpoint_dir: Path, run: Any) -> None:
    """`recsysml eval eval=rag eval.documents=[...] eval.questions=FILE` on a checkpoint or a model of transformers."""
    from recsysml.engine import device, opening
    from recsysml.engine.answering import Answerer
    from recsysml.metrics.task_scores import of_mean

    settings = config.eval
    pieces = chunks(read_documents(settings.documents), settings.chunk_words)
    rows = read_questions(settings.questions)[: config.limit]
    machine = device.prepare(device.resolve_device(config.device), "fp32", threads=config.threads, deterministic=True)
    opened = opening.open_language_model(checkpoint_dir)
    opened.model.to(machine.device)
    run.set_model(opened.name, opened.kind, opened.parameters, 0)
    run.set_environment(machine.describe())
    run.set_protocol(
        retriever="bm25", chunk_words=settings.chunk_words, top_k=settings.top_k, max_new_tokens=settings.max_new_tokens
    )
    fingerprint = hashlib.sha256(json.dumps([pieces, rows]).encode()).hexdigest()
    run.set_data("rag", fingerprint, {"chunks": len(pieces), "questions": len(rows)})
    found = judge(Answerer(opened, machine), pieces, rows, settings, config.seed)
    ids = [f"{i}:{hashlib.sha256(row['question'].encode()).hexdigest()[:12]}" for i, row in enumerate(rows)]
    for row, text in zip(rows, found.pop("answers"), strict=True):
        run.sample(0, {"prompt": row["question"], "text": text})
    for name, (scores, baseline) in found.items():
        score = of_mean(f"lm/rag/{name}", scores, ids, higher=True, baseline=baseline)
        run.metric(score.name, score.value, stderr=score.stderr, n=score.n, better="higher", baseline=baseline)
        run.add_examples(score.name, ids, score.scores)
