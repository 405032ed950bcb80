"""What the simple methods that a ranker is held against read of its impressions."""

from __future__ import annotations

from typing import Any

import numpy as np

from recsysml.data.impression_data import ImpressionTable
from recsysml.models.ranking_baselines import columns, one_hot


def baseline_features(name: str, table: ImpressionTable, rows: tuple[int, int]) -> Any:
    """What a method reads: all that the model does, but of the past only how long it is."""
    if name == "base_rate":
        return None
    span = np.arange(*rows)
    past = (table.history.stops - table.history.starts)[span, None]
    vectors = table.vectors[table.vector_rows[span]].reshape(len(span), -1)
    numbers = np.concatenate([table.dense[span], vectors, np.log1p(past)], axis=1)
    ids, sizes = table.sparse[span], list(table.shape.sparse.values())
    if table.shape.positions:
        ids, sizes = np.concatenate([ids, table.positions[span, None]], axis=1), [*sizes, table.shape.positions]
    if name == "gradient_boosting":
        return columns(numbers, ids, sizes)
    bags = [bag.last(span, bag.longest)[..., 0] for bag in table.bags]
    return one_hot(numbers, ids, sizes, bags, list(table.shape.bags.values()))
