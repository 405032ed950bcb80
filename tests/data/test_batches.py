"""Batches against brute force: an epoch's windows are without replacement and cover the stream."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from recsysml.data.batches import TokenBatches
from recsysml.errors import DataError


def epoch_starts(batches, epoch):
    n, size = batches.windows_per_epoch, batches.batch_size
    starts = [s for i in range(epoch * n // size, -(-(epoch + 1) * n // size)) for s in batches.window_ids(i)]
    skip = epoch * n % size
    return starts[skip : skip + n]


@pytest.mark.parametrize(("n", "context", "size"), [(1000, 16, 4), (1003, 16, 7), (129, 32, 8), (64, 32, 3)])
def test_an_epoch_covers_the_stream_once(n, context, size):
    tokens = np.arange(n, dtype=np.uint16)
    batches = TokenBatches(tokens, context, size, seed=3)
    for epoch in range(4):
        starts = epoch_starts(batches, epoch)
        targets = np.concatenate([tokens[s + 1 : s + 1 + context] for s in starts])
        assert len(set(targets.tolist())) == len(targets) == batches.windows_per_epoch * context
        assert targets.max() - targets.min() + 1 == len(targets)  # no gap
        assert n - len(targets) < 2 * context  # only the two ends are left out
        if len(starts) > 10:
            assert starts != sorted(starts)
            assert starts != epoch_starts(batches, epoch + 1)


def test_ends_left_out_differ_between_epochs():
    batches = TokenBatches(np.arange(200, dtype=np.uint16), 32, 1, seed=1)
    assert len({min(epoch_starts(batches, epoch)) for epoch in range(20)}) > 5


def test_targets_are_the_next_tokens():
    tokens = np.random.default_rng(0).integers(0, 60000, 500).astype(np.uint16)
    batches = TokenBatches(tokens, 8, 5, seed=1)
    inputs, targets = batches[3]
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.shape == targets.shape == (5, 8)
    for row, start in enumerate(batches.window_ids(3)):
        assert inputs[row].tolist() == tokens[start : start + 8].tolist()
        assert targets[row].tolist() == tokens[start + 1 : start + 9].tolist()


def test_batch_i_is_the_same_whenever_it_is_asked_for():
    tokens = np.arange(5000, dtype=np.uint32)
    first = TokenBatches(tokens, 16, 4, seed=7)
    seen = [first[i] for i in range(200)]  # more than two epochs
    resumed = TokenBatches(tokens, 16, 4, seed=7)
    for i in (199, 120, 0, 77):
        assert torch.equal(resumed[i][0], seen[i][0])
        assert torch.equal(resumed[i][1], seen[i][1])
    assert not torch.equal(TokenBatches(tokens, 16, 4, seed=8)[0][0], seen[0][0])


def test_ranks_partition_the_global_batch():
    tokens = np.arange(3000, dtype=np.uint16)
    whole = TokenBatches(tokens, 16, 6, seed=2)
    parts = [TokenBatches(tokens, 16, 6, seed=2, rank=rank, world_size=3) for rank in range(3)]
    for i in range(70):
        rows = torch.stack([part[i][0] for part in parts], dim=1).flatten(0, 1)
        assert torch.equal(rows, whole[i][0])


def test_batches_of_several_threads_are_the_same():
    tokens = np.arange(900, dtype=np.uint16)
    alone, shared = TokenBatches(tokens, 16, 4, seed=2), TokenBatches(tokens, 16, 4, seed=2)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(shared.__getitem__, range(300)))  # some twenty epochs
    for i, (inputs, targets) in enumerate(found):
        assert torch.equal(inputs, alone[i][0]) and torch.equal(targets, alone[i][1])


def test_too_little_text_is_said_so():
    with pytest.raises(DataError, match="20 tokens, too few for windows of 32"):
        TokenBatches(np.arange(20, dtype=np.uint16), 32, 1, seed=1)
