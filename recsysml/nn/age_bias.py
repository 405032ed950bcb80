"""How much of being chosen was being fresh: a term of the training logit that serving never sees."""

from __future__ import annotations

import torch
from torch import Tensor, nn

OCTAVES = 9


class AgeBias(nn.Module):
    """A learnt number for each range of an item's age at the moment of the choice, one of them for not yet born.

    New items are shown more than they are liked; who is taught without saying so takes freshness for quality, and goes
    on believing it when the item is old. The ranges double in width, from 1/512 of the log's time to half of it.

    Only a term that differs between the items of one choice can do this: one of the user or the place in the history
    cancels in a softmax. A trend that is straight in age is told apart from one in birth by no data at all (what is
    older was born earlier); it is the bend of the ages' effect that is found.
    """

    born: Tensor  # (I,)
    bounds: Tensor  # (OCTAVES + 1,)

    def __init__(self, born: Tensor, span: float) -> None:
        """born (I,) time of each item's first event, inf where it has none; span: how long the log is, in that unit.

        Raises ValueError where the log takes no time.
        """
        super().__init__()
        if not span > 0:
            raise ValueError("an age needs a log that takes time: all events are of one moment")
        # no part of a checkpoint: data tell it anew, and an infinite one would be taken for a weight gone astray
        self.register_buffer("born", born.float(), persistent=False)
        self.register_buffer("bounds", torch.tensor([0.0, *(span / 2**n for n in range(OCTAVES, 0, -1))]))
        self.table = nn.Parameter(torch.zeros(OCTAVES + 2))

    def forward(self, times: Tensor, items: Tensor) -> Tensor:
        """times and items (int64), of shapes that broadcast -> that shape: what is added to the logit."""
        return self.table[torch.bucketize(times - self.born[items], self.bounds, right=True)]
