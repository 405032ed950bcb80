"""The probabilities that a value model weighs: of a trained ranker, or of a logistic regression a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from recsysml import lazy
from recsysml.data import KINDS as DATA
from recsysml.data.impression_data import ImpressionTable
from recsysml.data.impression_encoder import ImpressionEncoder
from recsysml.data.progress import progress
from recsysml.errors import ConfigError
from recsysml.models.ranking_baselines import BASELINES
from recsysml.models.value_model import checkpoint_folder
from recsysml.ranking.baseline_features import baseline_features
from recsysml.ranking.opening import arranged, open_ranker
from recsysml.ranking.scoring import logits

# a table as a ranker's encoder makes it, rows from and to -> (n, T)
Probabilities = Callable[[ImpressionTable, tuple[int, int]], np.ndarray]


def open_probabilities(
    init_from: str | None, data: Any, tasks: Sequence[str], *, batch_size: int, device: Any = "cpu"
) -> tuple[ImpressionTable, Probabilities]:
    """The impressions of a data config, and what gives the probabilities of `tasks` for rows of them, or of others that
    are encoded alike. Of a real label it is the number expected, in the label's own unit.

    init_from: a run of a ranker, whose encoding the rows then have; its positions are left out, as when it serves.
    Raises ConfigError where it does not predict a task.
    """
    load = lazy.resolve(f"{DATA[data.kind]}:load_impressions")
    if init_from is None:
        table: ImpressionTable = load(data)
        return table, _regressions(table, tasks)
    folder = checkpoint_folder(init_from)
    if folder is None:
        raise ConfigError(f"model.init_from={init_from}: there is no checkpoint any more.")
    opened = open_ranker(folder, device)
    if unknown := [task for task in tasks if task not in opened.model.tasks]:
        raise ConfigError(
            f"model.init_from={init_from} does not predict {unknown[0]}; it predicts {', '.join(opened.model.tasks)}."
        )
    table = arranged(load(data, opened.encoder), opened)
    columns = [opened.model.tasks.index(task) for task in tasks]

    def of_ranker(rows_of: ImpressionTable, rows: tuple[int, int]) -> np.ndarray:
        asked = arranged(rows_of, opened)
        found = logits(opened.model, asked, rows, batch_size=batch_size, device=device, placed=False)
        return expected(found[:, columns], tasks, opened.shape.tasks, opened.encoder)

    return table, of_ranker


def expected(
    scores: np.ndarray, tasks: Sequence[str], kinds: Mapping[str, str], encoder: ImpressionEncoder
) -> np.ndarray:
    """Logits (n, T) -> probabilities; of real labels standard units -> their own."""
    columns = [
        expit(own) if kinds[task] == "binary" else encoder.original(task, own)
        for task, own in zip(tasks, scores.T, strict=True)
    ]
    return np.stack(columns, axis=1)


def _regressions(table: ImpressionTable, tasks: Sequence[str]) -> Probabilities:
    """One a task, fitted on the rows that are learnt from."""
    start, stop = table.fitted
    features = baseline_features("logistic_regression", table, (start, stop))
    methods = []
    with progress("fitting a logistic regression a task", len(tasks)) as advance:
        for task in tasks:
            method = BASELINES["logistic_regression"]()
            labels = table.labels[start:stop, list(table.shape.tasks).index(task)].astype(np.float64)
            method.fit(features, labels, table.shape.tasks[task])
            methods.append(method)
            advance(1)

    def of_regressions(rows_of: ImpressionTable, rows: tuple[int, int]) -> np.ndarray:
        asked = baseline_features("logistic_regression", rows_of, rows)
        found = np.stack([method.logits(asked, rows[1] - rows[0]) for method in methods], axis=1)
        return expected(found, tasks, table.shape.tasks, table.encoder)

    return of_regressions
