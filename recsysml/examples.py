"""examples.parquet: per-example scores of a run, what `diff` pairs on; and the ids of a task's questions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from recsysml.errors import ConfigError
from recsysml.files import write_atomic


def question_id(number: int | str, asked: Iterable[str]) -> str:
    """`12:5f3a...`: the number of a question in its task, and a hash of all texts that the model is given for it.

    So two evals pair where they asked the same, whoever ran them and whatever else their files say of a question.
    """
    return f"{number}:{hashlib.sha256(json.dumps(list(asked)).encode()).hexdigest()[:12]}"


def write_examples(path: Path, examples: Mapping[str, tuple[list[str], np.ndarray]]) -> None:
    """metric -> (ids, values (n,)) as one table (metric, id, value), written atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    metrics = pa.array([metric for metric, (ids, _) in examples.items() for _ in ids]).dictionary_encode()
    ids = pa.array([name for ids, _ in examples.values() for name in ids], pa.string())
    values = pa.array(np.concatenate([values for _, values in examples.values()]))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"metric": metrics, "id": ids, "value": values}), sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())


def read_examples(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """metric -> ids (n,) and values (n,). Raises ConfigError naming the file if it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:  # read_table would import pandas
            table = file.read(columns=["metric", "id", "value"])
        if holes := [column for column in ("metric", "id", "value") if table[column].null_count]:
            raise ValueError(f"column {holes[0]} has empty rows")
        metrics = table["metric"].cast(pa.string()).combine_chunks().dictionary_encode()
        codes = np.from_dlpack(metrics.indices)  # to_numpy() would import pandas
        ids = np.array(table["id"].cast(pa.string()).to_pylist())
        values = np.from_dlpack(table["value"].cast(pa.float64()).combine_chunks())
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise ConfigError(f"{path} is damaged: {str(error).partition(chr(10))[0]}") from error
    names = metrics.dictionary.to_pylist()
    return {name: (ids[codes == code], values[codes == code]) for code, name in enumerate(names)}
