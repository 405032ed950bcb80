"""Results files that lm_eval itself wrote (`--output_path`), read as if they were ours. lm_eval is not imported."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from recsysml.errors import ConfigError
from recsysml.examples import question_id

Examples = dict[str, tuple[np.ndarray, np.ndarray]]  # metric -> ids (n,), values (n,)

# where a file does not say which direction is better
_LOWER = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "loss", "wer", "ter", "brier_score")
_DATE = re.compile(r"_(\d{4}-\d\d-\d\dT[\d.-]+)\.json$")


def is_harness_file(content: Any) -> bool:
    """Whether parsed JSON is a results file of lm_eval."""
    keys = ("versions", "n-shot", "configs")
    return (
        isinstance(content, dict) and isinstance(content.get("results"), dict) and any(key in content for key in keys)
    )


def newest_file(folder: Path) -> tuple[Path, int] | None:
    """The newest results file in an output folder of lm_eval or one folder below, and how many there are."""
    found = [path for pattern in ("results_*.json", "*/results_*.json") for path in folder.glob(pattern)]
    return (max(found, key=lambda path: path.name), len(found)) if found else None


def as_results(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """The parts of a results.json that `diff` reads. Metrics are named `lm/<task>/<metric>`, with `,<filter>` behind
    it unless the filter is `none`; each has under `task` what must be the same on both sides to compare.

    Raises ConfigError naming the file and the place if it is damaged.
    """
    for key in ("versions", "n-shot", "higher_is_better", "n-samples", "task_hashes", "config"):
        _expect_table(path, key, content.get(key) or {})
    config = content.get("config") or {}
    metrics: dict[str, dict[str, Any]] = {}
    for task, scores in content["results"].items():
        _expect_table(path, f"results.{task}", scores)
        samples = (content.get("n-samples") or {}).get(task) or {}
        _expect_table(path, f"n-samples.{task}", samples)
        same = {
            "version": (content.get("versions") or {}).get(task),
            "num_fewshot": (content.get("n-shot") or {}).get(task),
            "hash of the questions and prompts": (content.get("task_hashes") or {}).get(task),
        }
        for key, value in scores.items():
            metric, comma, chosen = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ConfigError(f"{path} is damaged at results.{task}.{key}: expected a number, found {value!r:.60}")
            stderr = scores.get(f"{metric}_stderr,{chosen}")
            metrics[_name(task, metric, chosen)] = {
                "value": value,
                "stderr": stderr if isinstance(stderr, int | float) else None,  # "N/A" where it has none
                "n": samples.get("effective"),
                "better": _better(content, task, metric),
                "task": same,
            }
    environment = {name: content.get(name) for name in ("lm_eval_version", "transformers_version", "git_hash")}
    return {
        "run": {"id": path.stem, "status": "ok"},
        "config": config,
        "data": {"name": None, "fingerprint": None},
        "model": {"name": content.get("model_name") or config.get("model")},
        "protocol": {"limit": config.get("limit")},
        "environment": environment,
        "metrics": metrics,
    }


def read_samples(path: Path, results: dict[str, Any]) -> Examples:
    """Per-example scores from the `samples_<task>_<date>.jsonl` beside a results file (`--log_samples`).

    Ids are those that our own evals give (`question_id`); `doc_id` alone where a file does not say what was asked.
    Raises ConfigError naming the file and the line if one is damaged.
    """
    date = _DATE.search(path.name)
    if date is None:
        return {}
    examples: Examples = {}
    for task in dict.fromkeys(name.split("/")[1] for name in results["metrics"]):
        file = path.parent / f"samples_{task}_{date[1]}.jsonl"
        if file.is_file():
            examples |= _task_samples(file, task, [name for name in results["metrics"] if name.split("/")[1] == task])
    return examples


def _task_samples(file: Path, task: str, names: list[str]) -> Examples:
    collected: dict[str, dict[str, float]] = {name: {} for name in names}
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line, parse_constant=_refuse)
            name, chosen = _id(row), row.get("filter", "none")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"{file} is damaged at line {number}: {error}") from error
        for metric, value in row.items():
            scores = collected.get(_name(task, metric, chosen))
            if scores is not None and isinstance(value, int | float):
                scores[name] = float(value)
    return {
        name: (np.array(list(scores)), np.array(list(scores.values()))) for name, scores in collected.items() if scores
    }


def _id(row: dict[str, Any]) -> str:
    asked = row.get("arguments")
    if not asked:
        return str(row["doc_id"])
    # {"gen_args_0": {"arg_0": context, "arg_1": continuation}, ...}; older versions wrote lists
    requests = asked.values() if isinstance(asked, dict) else asked
    texts = [text for one in requests for text in (one.values() if isinstance(one, dict) else one)]
    return question_id(row["doc_id"], [text for text in texts if isinstance(text, str)])


def _refuse(word: str) -> None:
    raise ValueError(f"it holds {word}")


def _name(task: str, metric: str, chosen: str) -> str:
    return f"lm/{task}/{metric}" + ("" if chosen == "none" else f",{chosen}")


def _better(content: dict[str, Any], task: str, metric: str) -> str:
    said = ((content.get("higher_is_better") or {}).get(task) or {}).get(metric)
    return "lower" if (metric in _LOWER if said is None else said is False) else "higher"


def _expect_table(path: Path, place: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is damaged at {place}: expected dict, found {value!r:.60}")
