"""What judging costs beside the model's work: n-grams of questions looked for in a large text, two runs compared, one
thread; and a whole `recsysml eval` of a tiny model, from its start to the score.

python scripts/bench/judging.py
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recsysml.data.ngrams import Overlap
from recsysml.diff import compare
from recsysml.results import Run

_VOCABULARY, _WORDS_AT_ONCE = 50_000, 40_000


def text(megabytes: float, seed: int) -> Iterator[str]:
    """Words drawn by Zipf's law from a made-up vocabulary, about 6 bytes each with their space."""
    random = np.random.default_rng(seed)
    letters = random.integers(97, 123, size=(_VOCABULARY, 8)).astype(np.uint8)
    vocabulary = np.array([bytes(row[: 2 + i % 7]).decode() for i, row in enumerate(letters)])
    share = 1 / np.arange(1, _VOCABULARY + 1)
    cumulative = np.cumsum(share / share.sum())
    size = 0
    while size < megabytes * 1e6:
        chosen = np.searchsorted(cumulative, random.random(_WORDS_AT_ONCE))
        piece = " ".join(vocabulary[np.minimum(chosen, _VOCABULARY - 1)].tolist()) + " "
        size += len(piece)
        yield piece


def contamination(megabytes: float = 100, questions: int = 10_000) -> dict[str, Any]:
    """Seconds for the whole search; every tenth question is planted in the text and must be found."""
    asked = []
    for piece in text(2 + questions / 1000, seed=1):
        words = piece.split()
        asked += [" ".join(words[i : i + 60]) for i in range(0, len(words) - 60, 60)]
    asked = asked[:questions]
    pieces = list(text(megabytes, seed=2))
    planted = asked[::10]
    for i, question in enumerate(planted):
        pieces[i * len(pieces) // len(planted)] += question + " "
    started = time.process_time()
    overlap = Overlap(asked, (13, 8))
    words_read = overlap.scan(pieces)
    seconds = time.process_time() - started
    touched = overlap.counts(13)[0] > 0
    return {
        "seconds": seconds,
        "megabytes": sum(map(len, pieces)) / 1e6,
        "questions": len(asked),
        "words": words_read,
        "planted": len(planted),
        "planted_found": int(touched[::10].sum()),
        "others_touched": int(touched.sum() - touched[::10].sum()),
    }


def pairs(examples: int = 10_000, metrics: int = 4, repeats: int = 5) -> dict[str, Any]:
    """The fastest comparison of two runs with that many paired examples, files read included."""
    random = np.random.default_rng(3)
    base = random.random((metrics, examples))
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for _ in range(2):
            run = Run.create(Path(folder), "train", "x", argv=[], config={}, overrides=[])
            for i, row in enumerate(base):
                values = row + 0.1 * random.normal(size=examples)
                run.metric(f"t/m{i}", values.mean(), stderr=0.01, n=examples, better="higher")
                run.add_examples(f"t/m{i}", [f"q{j}" for j in range(examples)], values)
            run.finish("ok")
            paths.append(run.path)
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            found = compare(*paths)
            times.append(time.perf_counter() - started)
    assert all(row.test == "paired t" for row in found.metrics)
    return {"seconds": min(times), "examples": examples, "metrics": metrics}


def first_score() -> dict[str, Any]:
    """The fastest `recsysml eval` of ten local questions until it has ended: of a small checkpoint of ours, and of a
    model of transformers whose work takes no time."""
    row = {"query": "Question: which is warm?", "choices": ["fire", "ice", "snow", "rain"], "gold": 0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "arc_easy").mkdir()
        (folder / "arc_easy" / "test.jsonl").write_text((json.dumps(row) + "\n") * 10)
        outputs = [f"outputs={folder / 'outputs'}", "device=cpu", "tracker.mode=disabled"]
        train = ["train", "model=gpt2", "model.size=nano", "data.tokenizer=bytes", "trainer.max_steps=2"]
        _command([*train, "trainer.compile=false", *outputs], name)
        _write_hf_model(folder / "model")
        asked = ["eval", "tasks=arc_easy", "eval.use_cache=false", *outputs]
        return {
            "ours": _fastest([*asked, "checkpoint=last"], name),
            "transformers": _fastest([*asked, "model=hf", f"model.path={folder / 'model'}"], name),
        }


def _write_hf_model(folder: Path) -> None:
    import torch
    import transformers

    from recsysml.data.tokenizers import train_bpe
    from recsysml.models import hf_tokenizer

    torch.manual_seed(0)
    tokenizer = train_bpe(["which of fire ice snow rain is warm\n" * 40], 280)
    shape = {"n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
    config = transformers.GPT2Config(vocab_size=tokenizer.vocab_size, eos_token_id=tokenizer.eot, **shape)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    hf_tokenizer.write_tokenizer(tokenizer, folder, 64)


def _fastest(words: list[str], data: str, repeats: int = 3) -> dict[str, float]:
    times, work = [], []
    for _ in range(repeats):
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        _command(words, data)
        times.append(time.perf_counter() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        work.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"seconds": min(times), "processor_seconds": min(work)}


def _command(words: list[str], data: str) -> None:
    command = [sys.executable, "-m", "recsysml", *words]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "RECSYSML_DATA": data})


def first_score_row(result: dict[str, Any]) -> tuple[str, str, str, str]:
    ours, theirs = result["ours"], result["transformers"]
    reached = f"{ours['seconds']:.1f} s, {ours['processor_seconds']:.1f} s of a processor"
    beside = f"{theirs['seconds']:.1f} s of a model of transformers"
    return "recsysml eval of ten local questions, start to end", "6 s", reached, beside


def contamination_row(result: dict[str, Any]) -> tuple[str, str, str, str]:
    found = f"{result['planted_found']} of {result['planted']} planted questions found"
    work = f"contamination, {result['megabytes']:.0f} MB of text x {result['questions']:,} questions, one thread"
    return work, "120 s", f"{result['seconds']:.1f} s, {found}", f"{result['others_touched']} others touched"


def diff_row(result: dict[str, Any]) -> tuple[str, str, str, str]:
    work = f"diff, {result['examples']:,} paired examples x {result['metrics']} metrics"
    return work, "2 s", f"{result['seconds']:.2f} s", ""


if __name__ == "__main__":
    print(json.dumps({"contamination": contamination(), "diff": pairs(), "first score": first_score()}, indent=1))
