"""A trained network as a retriever: one vector a user, one an item, and their products as scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from recsysml.models.histories import Histories
from recsysml.models.trimming import by_length


class Encoder(Protocol):
    """What a network must offer. Sequences begin with the start token, which is also their padding: `n_items`."""

    n_items: int
    context_length: int

    def __call__(self, inputs: Tensor, users: Tensor) -> Tensor:
        """inputs (B, T) item indices, users (B,) user indices, -1 unknown -> (B, T, C): position t has seen 0 .. t.

        Where users have several vectors it is (B, T, H, C), and `pool` (..., H, I) -> (..., I) makes one score of an
        item's products with them.
        """
        ...

    def item_matrix(self) -> Tensor:
        """(n_items, C); a score is the product of a position's vector and an item's."""
        ...

    def item_side(self) -> list[nn.Parameter]:
        """The parameters that `item_matrix` alone reads."""
        ...


def sequences(histories: Histories, length: int, start: int) -> np.ndarray:
    """(R, length): the start token and then each row's items, their last `length` places at most; padded behind."""
    with_start = np.full((len(histories), length), start, np.int64)
    whole = histories.last(length, start)  # (R, length), without the start token
    short = histories.lengths < length
    with_start[:, 1:] = whole[:, :-1]
    return np.where(short[:, None], with_start, whole)


class EncoderRetriever:
    """An encoder in eval mode. Item vectors are computed once: make a new one after the weights have changed."""

    def __init__(self, encoder: nn.Module, device: torch.device | str = "cpu") -> None:
        self.encoder = encoder
        self.device = torch.device(device)
        self.n_items = cast(Encoder, encoder).n_items
        self.pool: Callable[[Tensor], Tensor] | None = getattr(encoder, "pool", None)
        self._items: Tensor | None = None

    def scores(self, histories: Histories) -> np.ndarray:
        products = self.queries(histories) @ self.matrix().T  # (R, I) or (R, H, I)
        return (products if self.pool is None else self.pool(products)).cpu().numpy()

    def user_vectors(self, histories: Histories) -> np.ndarray:
        """(R, C) float32; (R, H, C) where users have several vectors."""
        return self.queries(histories).cpu().numpy()

    def item_vectors(self) -> np.ndarray:
        """(n_items, C) float32."""
        return self.matrix().cpu().numpy()

    @torch.no_grad()
    def queries(self, histories: Histories) -> Tensor:
        """`user_vectors` as a tensor on the device."""
        encoder = cast(Encoder, self.encoder)
        length = min(encoder.context_length, int(histories.lengths.max(initial=0)) + 1)
        inputs = torch.from_numpy(sequences(histories, length, self.n_items)).to(self.device)
        users = torch.from_numpy(histories.users).to(self.device)
        last = torch.from_numpy(np.minimum(histories.lengths, length - 1)).to(self.device)
        states = by_length(encoder, inputs, users, last + 1)  # (R, T, C) or (R, T, H, C)
        return states[torch.arange(len(last), device=self.device), last].float()

    @torch.no_grad()
    def matrix(self) -> Tensor:
        """`item_vectors` as a tensor on the device."""
        if self._items is None:
            self._items = (
                cast(Encoder, self.encoder).item_matrix().detach().float()
            )  # a view of a weight asks for gradients even here
        return self._items
