"""Whether a retriever's vectors fill their space: in numbers, and as what is drawn of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsysml.metrics import retrieval as metrics


@dataclass(frozen=True)
class Health:
    """Of the vectors of users who are asked about and of items."""

    values: dict[str, tuple[float, str]]  # by metric name: its value, and which way is better
    spectra: dict[str, np.ndarray]  # of users and of items: singular values as shares of their sum, falling
    item_norms: np.ndarray  # (I,)


def health(users: np.ndarray, own: np.ndarray, drawn: np.ndarray, items: np.ndarray) -> Health:
    """users (N, C) and the item each turned to, own (N, C); drawn (M, C), a sample of all items (I, C)."""
    values = {
        "item_effective_rank": (metrics.effective_rank(drawn), "higher"),
        "user_effective_rank": (metrics.effective_rank(users), "higher"),
        "alignment": (float(metrics.alignment(users, own).mean()), "lower"),
        "item_uniformity": (metrics.uniformity(drawn), "lower"),
        "user_uniformity": (metrics.uniformity(users), "lower"),
    }
    spectra = {"users": metrics.spectrum(users), "items": metrics.spectrum(drawn)}
    return Health(values, spectra, np.linalg.norm(items, axis=1))
