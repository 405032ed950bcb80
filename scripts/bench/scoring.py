"""Scoring HellaSwag: our adapter against lm_eval's own Hugging Face model, the same GPT-2-shaped weights, one process.

    python scripts/bench/scoring.py [--questions 500] [--threads 2] [--model small] [--all]

Needs $RECSYSML_DATA with HellaSwag, GPT-2's vocabulary, and the packages of the `dev` extra. The weights are random:
what is measured is the work, and whether both give the same numbers. Pieces of 100 questions are scored in turn by
each, so that what disturbs the machine disturbs all alike; the ratio is that of the summed times. Beside the times
stands the work: tokens that went through the layers, padding included where it does so (our last layer's saving, 2%,
is not counted), and places at which the head was applied. The ratio of the products that they cost is what both reach
at the same speed of the machine. --all adds the harness with our setting of float32 products, bfloat16, and the model
of transformers in our hands.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

PIECE = 100


def weights(folder: Path, size: str) -> None:
    """GPT-2 with random weights, large enough that the answers differ, as a folder that transformers reads."""
    from recsysml.data.tokenizers import gpt2_tokenizer
    from recsysml.models.gpt import GPT
    from recsysml.models.hf_gpt2 import save_hf_folder
    from recsysml.schemas.models import GPTConfig

    torch.manual_seed(0)
    tokenizer = gpt2_tokenizer()
    model = GPT(GPTConfig(size=size), tokenizer.vocab_size)
    save_hf_folder(model, folder, tokenizer)


def count(owner: Any, method: str, work: dict[str, int], *keys: str, argument: int = 0) -> None:
    """Have `owner.method` add to `work` how many tokens (B, T), places (N,) or hidden states (N, C) it is given."""
    plain = getattr(owner, method)

    def counted(*given: Any, **named: Any) -> Any:
        for key in keys:
            asked = given[argument]
            work[key] += asked.shape[0] if asked.is_floating_point() else asked.numel()
        return plain(*given, **named)

    setattr(owner, method, counted)


def memory_as_it_comes() -> None:
    """Undo `device.keep_freed_memory`, to where glibc's own thresholds go when large tensors are freed."""
    if sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc":
        m_trim_threshold, m_mmap_threshold, m_mmap_max = -1, -3, -4  # malloc.h
        library = ctypes.CDLL(None)
        library.mallopt(m_mmap_max, 65536)
        library.mallopt(m_mmap_threshold, 32 << 20)
        library.mallopt(m_trim_threshold, 64 << 20)
        library.malloc_trim(0)


def measure(
    questions: int, threads: int | None, size: str, batch_size: int = 16, everyone: bool = False
) -> dict[str, Any]:
    """Questions a second of each, the largest difference in log-likelihood, and whether the answers are the same."""
    from lm_eval.models.huggingface import HFLM

    from recsysml.data.tokenizers import gpt2_tokenizer
    from recsysml.engine import device, opening
    from recsysml.engine.answering import Answerer
    from recsysml.evals import lm_harness
    from recsysml.models.hf_gpt2 import load_hf_folder

    machine = device.prepare("cpu", "fp32", threads=threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        weights(folder, size)
        theirs = HFLM(pretrained=str(folder), device="cpu", batch_size=batch_size, dtype="float32")
        own = opening.wrap(load_hf_folder(folder)[0].eval(), gpt2_tokenizer(), "own", "gpt", "")
        wrapped = opening.open_language_model(folder)
    work = {"tokens": 0, "head": 0}
    count(theirs, "_model_call", work, "tokens", "head")  # it applies the head everywhere
    count(own.model, "packed", work, "tokens", argument=1)  # padding goes through attention alone
    count(wrapped.model, "packed", work, "tokens")
    for model in (own.model, wrapped.model):
        count(model, "unembed", work, "head")
    half = device.Machine(machine.device, "bf16")
    ours = torch.get_float32_matmul_precision()  # what `device.prepare` found to be quick and exact

    def harness(requests: list[Any], matmul: str) -> list[tuple[float, bool]]:
        torch.set_float32_matmul_precision(matmul)
        memory_as_it_comes()
        answers = theirs.loglikelihood(requests, disable_tqdm=True)
        torch.set_float32_matmul_precision(ours)
        device.keep_freed_memory()  # as `eval` has it
        return answers

    contenders: dict[str, Callable[[list[Any]], list[tuple[float, bool]]]] = {
        "harness": lambda requests: harness(requests, "highest"),  # as it comes
        "ours": lm_harness.LanguageModel(Answerer(own, machine, use_cache=False)).loglikelihood,
    }
    if everyone:
        contenders |= {
            "with our setting": lambda requests: harness(requests, ours),
            "ours, bf16": lm_harness.LanguageModel(Answerer(own, half, use_cache=False)).loglikelihood,
            "model=hf": lm_harness.LanguageModel(Answerer(wrapped, machine, use_cache=False)).loglikelihood,
        }
    task = lm_harness.load(["hellaswag"]).tasks["hellaswag"]
    task.build_all_requests(limit=questions)
    requests = task.instances
    for ask in contenders.values():
        ask(requests[:8])
    seconds, cpu_seconds = dict.fromkeys(contenders, 0.0), dict.fromkeys(contenders, 0.0)
    nats: dict[str, list[float]] = {name: [] for name in contenders}
    done = {name: dict.fromkeys(work, 0) for name in contenders}
    for start in range(0, len(requests), 4 * PIECE):
        piece = requests[start : start + 4 * PIECE]
        for name, ask in contenders.items():
            work.update(dict.fromkeys(work, 0))
            began, began_cpu = time.perf_counter(), time.process_time()
            answers = ask(piece)
            seconds[name] += time.perf_counter() - began
            cpu_seconds[name] += time.process_time() - began_cpu
            nats[name] += [value for value, _ in answers]
            done[name] = {key: done[name][key] + work[key] for key in work}
    layers, head = own.model.counted_parameters()["non_embedding"], own.model.vocab_size * own.model.width
    products = {name: 2 * (layers * did["tokens"] + head * did["head"]) for name, did in done.items()}
    expected = np.array(nats["harness"]).reshape(-1, 4)
    rows = {}
    for name in contenders:
        found = np.array(nats[name]).reshape(-1, 4)
        rows[name] = {
            "questions_per_second": len(expected) / seconds[name],
            "ratio": seconds["harness"] / seconds[name],
            # what a machine that others use as well leaves of the measurement
            "cpu_ratio": cpu_seconds["harness"] / cpu_seconds[name],
            "largest_difference": float(abs(found - expected).max()),
            "same_argmax": float((found.argmax(1) == expected.argmax(1)).mean()),
            "tokens_a_question": done[name]["tokens"] / len(expected),
            "head_a_question": done[name]["head"] / len(expected),
            "work_ratio": products["harness"] / products[name],
            "gflops_a_second": products[name] / seconds[name] / 1e9,
        }
    return {"questions": len(expected), "threads": torch.get_num_threads(), "size": size, "contenders": rows}


def possible() -> bool:
    """Whether HellaSwag's questions are there."""
    from recsysml.data import questions

    return questions.find("hellaswag") is not None


def row(result: dict[str, Any]) -> tuple[str, str, str, str]:
    """Work, what was to be reached, what was reached, and beside what: for the table of all benchmarks."""
    found = result["contenders"]
    ours = found["ours"]
    same = "same answers" if ours["same_argmax"] == 1 else f"{ours['same_argmax']:.1%} of the answers"
    reached = f"{ours['ratio']:.2f}x, within {ours['largest_difference']:.0e}, {same}"
    beside = f"{ours['work_ratio']:.2f} times less work in matrix products"
    work = f"scoring {result['questions']} HellaSwag questions against lm_eval's own model"
    return work, "3x within 1e-4; 5x within 0.1", reached, beside


def show(result: dict[str, Any]) -> None:
    print(f"{result['questions']} HellaSwag questions, {result['size']}, {result['threads']} threads")
    for name, row in result["contenders"].items():
        print(
            f"  {name:<18}{row['questions_per_second']:8.2f} questions/s{row['ratio']:8.2f}x (processor time"
            f" {row['cpu_ratio']:.2f}x)   largest difference"
            f" {row['largest_difference']:.1e}, same answer {row['same_argmax']:.1%}\n{'':20}"
            f" a question: {row['tokens_a_question']:.0f} tokens through the layers,"
            f" {row['head_a_question']:.0f} through the head, {row['work_ratio']:.2f} times less work;"
            f" {row['gflops_a_second']:.0f} GFLOP/s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--model", default="small", help="nano, micro, small, ...")
    parser.add_argument("--all", action="store_true", help="every contender")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments.questions, arguments.threads, arguments.model, everyone=arguments.all)
    print(json.dumps(result, indent=1)) if arguments.json else show(result)


if __name__ == "__main__":
    main()
