"""Products of probabilities in logits, against the same in float64 without any trick; the place in the slate."""

import pytest
import torch

from recsysml.nn.probabilities import PositionBias, joint_logit, logit_of_log


def test_the_logit_of_a_log_is_exact_at_both_ends():
    p = torch.tensor([1e-30, 1e-9, 1e-3, 0.3, 0.5, 0.7, 0.999, 0.99999], dtype=torch.float64)
    torch.testing.assert_close(logit_of_log(p.log()), p.log() - torch.log1p(-p))
    ends = torch.tensor([-200.0, -1e-12, 0.0], requires_grad=True)
    found = logit_of_log(ends)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(ends.grad).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_joint_logit_is_that_of_the_product(seed):
    torch.manual_seed(seed)
    a, b = torch.randn(2, 100, dtype=torch.float64) * 4
    torch.testing.assert_close(torch.sigmoid(joint_logit(a, b)), torch.sigmoid(a) * torch.sigmoid(b))
    assert (joint_logit(a, b) < torch.minimum(a, b)).all()


def test_the_top_place_changes_nothing_and_the_others_do_what_they_learnt():
    torch.manual_seed(0)
    logits, positions = torch.randn(6, 2), torch.tensor([0, 1, 2, 0, 2, 1])
    for kind in ("additive", "examination"):
        bias = PositionBias(kind, 3, 2)
        with torch.no_grad():
            bias.places.copy_(torch.randn(2, 2))
        found = bias(logits, positions)
        torch.testing.assert_close(found[positions == 0], logits[positions == 0])
        for row in range(6):
            if positions[row]:
                raw = bias.places[positions[row] - 1]
                if kind == "additive":
                    torch.testing.assert_close(found[row], logits[row] + raw)
                else:
                    seen = torch.sigmoid(3.0 - raw)  # exp(-softplus(raw - 3))
                    torch.testing.assert_close(torch.sigmoid(found[row]), seen * torch.sigmoid(logits[row]))


def test_an_examination_that_was_planted_is_found():
    """Relevance and place drawn apart: what is learnt of places is the fall that made the clicks."""
    torch.manual_seed(0)
    n, fall = 200_000, torch.tensor([1.0, 0.6, 0.3])
    items, positions = torch.randint(5, (n,)), torch.randint(3, (n,))
    relevance = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    clicks = (torch.rand(n) < relevance[items] * fall[positions]).float()
    logits = torch.nn.Parameter(torch.zeros(5))
    bias = PositionBias("examination", 3, 1)
    optimizer = torch.optim.LBFGS([logits, bias.places], max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        found = bias(logits[items, None], positions)[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(found, clicks)
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(bias.bias().exp()[:, 0].detach(), fall, atol=0.02, rtol=0)
    torch.testing.assert_close(torch.sigmoid(logits).detach(), relevance, atol=0.02, rtol=0)
