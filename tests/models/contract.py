"""What every sequence model keeps, whatever its config: imported by the tests of each model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Make = Callable[[], nn.Module]
SEED = 7


def made(make: Make) -> nn.Module:
    torch.manual_seed(SEED)
    return make()


def check_causality(make: Make, logits: Callable[[nn.Module, Tensor], Tensor], tokens: Tensor) -> None:
    """A change at position t + 1 leaves the logits up to t as they were, and changes those from t + 1 on."""
    model = made(make).eval()
    before = logits(model, tokens)
    for t in range(tokens.shape[1] - 1):
        other = tokens.clone()
        other[:, t + 1] = (other[:, t + 1] + 1) % 11
        after = logits(model, other)
        torch.testing.assert_close(after[:, : t + 1], before[:, : t + 1], atol=1e-5, rtol=1e-5)
        assert (after[:, t + 1] != before[:, t + 1]).any()


def check_determinism(make: Make, loss: Callable[[nn.Module], Tensor]) -> None:
    """The same seed makes the same model, the same loss and the same gradients, to the bit."""
    results = []
    for _ in range(2):
        model = made(make)
        value = loss(model)
        value.backward()
        results.append([value.detach(), *(p.grad for p in model.parameters()), *model.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def check_gradients(make: Make, loss: Callable[[nn.Module], Tensor]) -> None:
    """The loss reaches every parameter."""
    model = made(make)
    loss(model).backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead


def check_hidden_matrices(model: nn.Module, tables: list[nn.Parameter]) -> None:
    """What Muon may take: 2-D, in the model, each once, none of the embeddings or the head."""
    matrices = model.hidden_matrices()  # type: ignore[operator]
    ids = [id(p) for p in matrices]
    assert matrices
    assert all(p.ndim == 2 for p in matrices)
    assert len(set(ids)) == len(ids)
    assert set(ids) <= {id(p) for p in model.parameters()}
    assert not set(ids) & {id(p) for p in tables}


def check_state_dict(make: Make, logits: Callable[[nn.Module, Tensor], Tensor], tokens: Tensor) -> None:
    """Another model with the same state gives the same logits."""
    first = made(make).eval()
    torch.manual_seed(SEED + 1)
    second = make().eval()
    second.load_state_dict(first.state_dict(), strict=True)
    assert torch.equal(logits(first, tokens), logits(second, tokens))
