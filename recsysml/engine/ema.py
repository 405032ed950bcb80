"""An exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """`average = d * average + (1 - d) * weight` after every step, with d = min(decay, (1 + t) / (10 + t)).

    The growing d lets a young average forget its random start (as TensorFlow's ExponentialMovingAverage does).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.parameters = dict(model.named_parameters())  # a shared tensor is named once
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1.0 - decay)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the average inside, its own weights again after."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, object]:
        # copies: `applied` exchanges the tensors' contents
        return {"updates": self.updates, "average": {name: tensor.clone() for name, tensor in self.average.items()}}

    def restore(self, saved: dict) -> None:
        self.updates = saved["updates"]
        for name, tensor in saved["average"].items():
            self.average[name].copy_(tensor)

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            held: Tensor = self.average[name].clone()
            self.average[name].copy_(parameter)
            parameter.copy_(held)
