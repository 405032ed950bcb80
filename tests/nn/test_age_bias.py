"""The bias of age: its ranges, and that it takes a planted bias out of what items are worth."""

import pytest
import torch
import torch.nn.functional as F

from recsysml.nn.age_bias import OCTAVES, AgeBias


def test_ranges_double_and_the_unborn_have_their_own():
    bias = AgeBias(torch.tensor([10.0, torch.inf]), span=512.0)
    with torch.no_grad():
        bias.table.copy_(torch.arange(OCTAVES + 2))
    ages = torch.tensor([-5.0, -1e-3, 0.0, 0.9, 1.0, 1.9, 2.0, 255.0, 256.0, 1e6])
    assert bias(10 + ages, torch.tensor(0)).tolist() == [0, 0, 1, 1, 2, 2, 3, 9, 10, 10]
    assert bias(torch.tensor([[0.0], [600.0]]), torch.tensor([[0, 1]])).tolist() == [[0, 0], [10, 0]]
    with pytest.raises(ValueError, match="takes time"):
        AgeBias(torch.zeros(3), span=0.0)


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_bias_is_taken_out_of_what_items_are_worth(seed):
    """Half of the items are born during the log, and are chosen as if they were worth 3 more while they are fresh."""
    generator = torch.Generator().manual_seed(seed)
    n_items, n_events, span = 30, 10_000, 512.0
    worth = torch.randn(n_items, generator=generator)
    born = torch.cat([torch.full((15,), -span), torch.rand(15, generator=generator) * span / 8])
    times = torch.rand(n_events, generator=generator) * span
    ages = times[:, None] - born  # (N, I)
    logits = worth + 3.0 * ((ages >= 0) & (ages < span / 2))
    chosen = logits.masked_fill(ages < 0, -torch.inf).softmax(dim=1).multinomial(1, generator=generator)[:, 0]

    def error(bias):
        scores = torch.zeros(n_items, requires_grad=True)
        optimizer = torch.optim.Adam([scores, *([] if bias is None else bias.parameters())], lr=0.1)
        for _ in range(100):
            shown = scores if bias is None else scores + bias(times[:, None], torch.arange(n_items))
            loss = F.cross_entropy(shown.expand(n_events, -1), chosen)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found = scores.detach()  # what is served: the bias is left behind
        return ((found - found.mean()) - (worth - worth.mean())).square().mean().sqrt()

    with_bias, without = error(AgeBias(born, span)), error(None)
    assert with_bias < 0.15
    assert without > 3 * with_bias
