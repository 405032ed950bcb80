"""torch.optim.Muon with the arithmetic of its Newton-Schulz iteration chosen by the hardware."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Muon):
    """Muon (Jordan et al. 2024) whose five matrix iterations run in float32 where bfloat16 is slow.

    An update has the root mean square of an AdamW step, so that one learning rate serves both (Liu et al. 2025, eq. 4).
    torch's own iteration always runs in bfloat16. On a processor without bfloat16 instructions that was measured 10 to
    40 times slower than float32 (a 256 x 256 matrix: 420 ms against 14 ms). With `bf16=True` this is torch's own.
    """

    def __init__(self, params: Any, *, bf16: bool, **settings: Any) -> None:
        super().__init__(params, adjust_lr_fn="match_rms_adamw", **settings)
        self.bf16 = bf16

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        if self.bf16:
            return super().step(closure)
        assert closure is None, "the loop computes its own gradients"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return None

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum, lr = group["momentum"], group["lr"]
        buffer = state["momentum_buffer"].lerp_(gradient, 1.0 - momentum)
        update = gradient.lerp(buffer, momentum) if group["nesterov"] else buffer
        update = orthogonalise(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
        scale = 0.2 * max(parameter.shape) ** 0.5  # torch's match_rms_adamw
        parameter.mul_(1.0 - lr * group["weight_decay"])
        parameter.add_(update, alpha=-lr * scale)


def orthogonalise(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """U S' V^T for `matrix` = U S V^T, every value of S' near 1: the quintic Newton-Schulz iteration of Muon.

    `matrix` (rows, columns) in float32; the result has its shape. Jordan et al. 2024, "Muon: an optimizer for hidden
    layers in neural networks".
    """
    a, b, c = coefficients
    tall = matrix.size(0) > matrix.size(1)
    x = matrix.T if tall else matrix  # the Gram matrix of the short side is the smaller one
    x = x / x.norm().clamp(min=eps)  # the spectral norm is at most 1 from here on
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
