"""Training batches over a token stream. Batch i depends on (seed, i) and nothing else."""

from __future__ import annotations

import numpy as np
import torch

from recsysml.data.epochs import Epochs
from recsysml.errors import DataError


class TokenBatches:
    """Map-style batches of windows of `context_length` + 1 tokens, without end.

    An epoch cuts the stream into windows from a random offset on. Consecutive windows share one token, so each token
    between the first and the last window is a target exactly once; the windows are then visited in random order.
    The samples of all epochs form one sequence, and batch i is its i-th run of `batch_size`: no window is dropped or
    seen twice in an epoch, every batch has the same shape, and going on after n batches needs no state but n.

    With `world_size` processes each takes rows `rank::world_size` of the same global batch.
    """

    def __init__(
        self, tokens: np.ndarray, context_length: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        """`tokens` (N,) integers; `batch_size` windows over all processes. DataError when N is too short."""
        assert batch_size % world_size == 0, "a batch must divide among the processes"
        self.tokens = tokens
        self.context_length = context_length
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        # as many as fit after the largest offset, so that every epoch has the same number
        self.windows_per_epoch = (len(tokens) - context_length) // context_length
        if self.windows_per_epoch < 1:
            raise DataError(
                f"the training split has {len(tokens)} tokens, too few for windows of {context_length} + 1: "
                "give more text or a smaller model.context_length"
            )

        self._epochs = Epochs(self._epoch)

    def window_ids(self, i: int) -> np.ndarray:
        """Token offsets (batch_size / world_size,) where the windows of batch i start, for this process."""
        samples = np.arange(i * self.batch_size, (i + 1) * self.batch_size)[self.rank :: self.world_size]
        epochs, positions = np.divmod(samples, self.windows_per_epoch)
        starts = np.empty(len(samples), np.int64)
        for epoch in np.unique(epochs):
            offset, order = self._epochs[int(epoch)]
            own = epochs == epoch
            starts[own] = offset + order[positions[own]] * self.context_length
        return starts

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of batch i, both (batch_size / world_size, context_length) int64."""
        windows = self.tokens[self.window_ids(i)[:, None] + np.arange(self.context_length + 1)]  # (b, T + 1)
        # copied by numpy, which works outside the interpreter's lock and starts no threads of its own
        inputs, targets = windows[:, :-1].astype(np.int64), windows[:, 1:].astype(np.int64)
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    def _epoch(self, epoch: int) -> tuple[int, np.ndarray]:
        """The offset of an epoch's first window and the order of its windows."""
        random = np.random.default_rng([self.seed, epoch])
        return int(random.integers(self.context_length)), random.permutation(self.windows_per_epoch)
