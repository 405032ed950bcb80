"""The sampled losses with every switch, against sums over rows and candidates one by one."""

import math

import pytest
import torch

from recsysml.losses import sampled_softmax
from recsysml.nn.age_bias import AgeBias
from recsysml.retrieval import row_loss
from recsysml.schemas.trainers import RetrievalTrainerConfig

N_ITEMS = 11
COUNTS, LENGTHS = torch.tensor([5, 1, 3, 8, 2, 9, 4, 1, 7, 6, 2]), torch.tensor([4, 9, 1])
TARGETS = torch.tensor([[1, 2, 1, -100], [3, -100, -100, -100], [6, 5, 4, 10]])
USERS = torch.tensor([2, 0, 1])
SOURCES = {"uniform_negatives": 6, "in_batch_negatives": 3, "hard_negatives": 2}
SWITCHES = [
    {"loss": "sampled", **SOURCES},
    {"loss": "sampled", **SOURCES, "mask_known": True},
    {"loss": "sampled", **SOURCES, "row_weights": "user", "logq": False},
    {"loss": "sampled", **SOURCES, "row_weights": "item", "logq_positive": True, "hard_negatives": 0},
    {"loss": "sampled", **SOURCES, "debias": "age", "mask_known": True, "row_weights": "item"},
    {"loss": "gbce", "uniform_negatives": 6},
    {"loss": "gbce", "uniform_negatives": 6, "mask_known": True, "row_weights": "user", "calibration": 0.3},
    {"loss": "gbce", "uniform_negatives": 6, "debias": "age", "row_weights": "item"},
]


def expected(settings, drawn, states, items, times, bias):
    """The mean over places, each in its weight. drawn: uniform, in-batch and hard ids."""
    uniform, in_batch, hard = drawn
    share = COUNTS.double() / COUNTS.sum()
    losses, weights = [], []
    for b, t in (TARGETS >= 0).nonzero().tolist():
        own = int(TARGETS[b, t])
        forbidden = {own} | (set(TARGETS[b].tolist()) if settings.mask_known else set())

        def score(item, b=b, t=t):
            product = float(states[b, t].double() @ items[item].double()) / settings.temperature
            if settings.debias == "none":
                return product
            age = float(times[b, t] - bias.born[item])
            return product + float(bias.table.detach()[sum(age >= bound for bound in bias.bounds.tolist())])

        def often(item):
            return settings.uniform_negatives / N_ITEMS + len(in_batch) * float(share[item])

        others = [item for item in (*uniform, *in_batch) if item not in hard]
        kept = [(item, often(item)) for item in others] + [(item, 1.0) for item in hard]
        kept = [(item, count) for item, count in kept if item not in forbidden]
        if settings.loss == "gbce":
            alpha = len(uniform) / (N_ITEMS - 1)
            power = alpha * (settings.calibration * (1 - 1 / alpha) + 1 / alpha)
            likely = power * math.log(1 / (1 + math.exp(-score(own))))
            likely += sum(math.log(1 - 1 / (1 + math.exp(-score(item)))) for item, _ in kept)
            losses.append(-likely / (len(uniform) + 1))
        else:
            top = math.exp(score(own)) / (often(own) if settings.logq_positive else 1)
            rest = sum(math.exp(score(item)) / (count if settings.logq else 1) for item, count in kept)
            losses.append(-math.log(top / (top + rest)))
        weight_of = {"none": 1.0, "user": float(LENGTHS[USERS[b]]) ** -0.5, "item": float(COUNTS[own]) ** -0.5}
        weights.append(weight_of[settings.row_weights])
    return sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("settings", SWITCHES, ids=lambda s: "-".join(f"{k}={v}" for k, v in s.items()))
def test_a_sampled_loss_is_its_sum_over_places_and_candidates(monkeypatch, settings, seed):
    torch.manual_seed(seed)
    states, items, times = torch.randn(3, 4, 5), torch.randn(N_ITEMS, 5), torch.rand(3, 4) * 64
    config = RetrievalTrainerConfig(**settings, temperature=0.7)
    config.validate()
    bias = AgeBias(torch.rand(N_ITEMS) * 40, span=64.0)
    torch.nn.init.normal_(bias.table)
    made = []

    def draw(*arguments, **more):
        made.append(sampled_softmax.draw(*arguments, **more))
        return made[-1]

    monkeypatch.setattr(row_loss, "draw", draw)
    loss = row_loss.RowLoss(config, COUNTS, LENGTHS, bias=bias if config.debias == "age" else None)
    found = loss(states, items, TARGETS, USERS, times)
    ids = made[0].ids.tolist()
    ends = [config.uniform_negatives, config.uniform_negatives + config.in_batch_negatives]
    drawn = ids[: ends[0]], ids[ends[0] : ends[1]], ids[ends[1] :]
    assert len(drawn[2]) == config.hard_negatives
    assert set(drawn[1]) <= set(TARGETS.flatten().tolist())
    assert found.item() == pytest.approx(expected(config, drawn, states, items, times, bias), rel=1e-5)
    best = (states[TARGETS >= 0] @ items.T).amax(dim=0).topk(config.hard_negatives).indices
    assert sorted(drawn[2]) == sorted(best.tolist())
