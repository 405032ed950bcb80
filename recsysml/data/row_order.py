"""Which rows a training batch has. Batch i depends on (seed, i) and nothing else."""

from __future__ import annotations

import numpy as np

from recsysml.data.epochs import Epochs


class RowOrder:
    """Runs of `batch_size` rows out of 0 to n, without end; each epoch visits every row once, in an order of its own.

    The rows of all epochs form one sequence, and batch i is its i-th run: every batch has the same size, no row is
    dropped or seen twice in an epoch, and going on after i batches needs no state but i. With `world_size` processes
    each takes rows `rank::world_size` of the same global batch.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        groups: np.ndarray | None = None,
        run: int | None = None,
    ) -> None:
        """groups (n,), numbered from 0: the order is one of groups, and the rows of each stay side by side, in the
        order they have. run: of a group so many rows, drawn anew in every epoch, stay side by side, and no more."""
        assert n > 0, "there is no row to draw"
        assert batch_size % world_size == 0, "a batch must divide among the processes"
        self.n, self.batch_size, self.seed, self.rank, self.world_size = n, batch_size, seed, rank, world_size
        # as narrow as they can be: short ones are sorted in a fraction of the time
        self.groups = None if groups is None else groups.astype(np.min_scalar_type(int(groups.max())))
        self.run = run
        self._epochs = Epochs(self._epoch)

    def __call__(self, i: int) -> np.ndarray:
        """(b,) rows of batch i, for this process; b = batch_size / world_size."""
        samples = np.arange(i * self.batch_size, (i + 1) * self.batch_size)[self.rank :: self.world_size]
        epochs, places = np.divmod(samples, self.n)
        if epochs[0] == epochs[-1]:
            return self._epochs[int(epochs[0])][places]
        found = np.empty(len(samples), np.int64)
        for epoch in np.unique(epochs):
            own = epochs == epoch
            found[own] = self._epochs[int(epoch)][places[own]]
        return found

    def _epoch(self, epoch: int) -> np.ndarray:
        """(n,) the order of an epoch."""
        random = np.random.default_rng([self.seed, epoch])
        if self.groups is None:
            return random.permutation(self.n)
        if self.run is None:
            places = random.permutation(int(self.groups.max()) + 1)
            return np.argsort(places[self.groups], kind="stable")
        rows = random.permutation(self.n)
        rows = rows[np.argsort(self.groups[rows], kind="stable")]  # group by group, each shuffled
        counts = np.bincount(self.groups)
        place = np.arange(self.n) - np.repeat(np.cumsum(counts) - counts, counts)  # within its group
        begins = np.flatnonzero(place % self.run == 0)  # of runs
        chosen = random.permutation(len(begins))
        lengths = np.diff(begins, append=self.n)[chosen]
        return rows[np.repeat(begins[chosen] - (np.cumsum(lengths) - lengths), lengths) + np.arange(self.n)]
