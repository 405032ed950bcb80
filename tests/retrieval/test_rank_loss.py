"""The ranker's loss against a loop over places, and its teachers."""

import dataclasses

import numpy as np
import polars as pl
import pytest
import torch

from recsysml.data.interactions import load
from recsysml.errors import ConfigError
from recsysml.models.ease import Ease
from recsysml.models.multi_stage import MultiStage
from recsysml.models.stages import events_of
from recsysml.retrieval.questions import training
from recsysml.retrieval.rank_loss import RankLoss
from recsysml.retrieval.teacher import teacher_of
from recsysml.schemas.data import InteractionsConfig
from recsysml.schemas.retrievers import EaseConfig, MultiStageConfig

N_ITEMS = 9


class Counting:
    """A teacher whose word hangs on the user and on the order and number of the events."""

    n_items = N_ITEMS

    def scores(self, histories):
        told = []
        for row in range(len(histories)):
            items = histories.items[histories.offsets[row] : histories.offsets[row + 1]]
            base = np.sin(np.arange(N_ITEMS) * (1 + histories.users[row]))
            told.append(
                1000 * (base + sum((place + 1) * np.cos(np.arange(N_ITEMS) - i) for place, i in enumerate(items)))
            )
        return np.array(told, np.float32)


def batch():
    inputs = torch.tensor([[9, 2, 5, 1], [4, 4, 3, 9], [9, 9, 9, 9]])  # the second row begins within a history
    targets = torch.tensor([[2, 5, 1, 0], [4, 3, -100, -100], [8, -100, -100, -100]])
    return inputs, targets, torch.tensor([0, 2, 1])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mask_seen", [True, False])
@pytest.mark.parametrize("taught", [True, False])
@pytest.mark.parametrize("rows", [50, 3])
def test_it_is_a_loop_over_places(seed, mask_seen, taught, rows):
    torch.manual_seed(seed)
    config = MultiStageConfig(d_model=8, n_candidates=4, d_ranker=6, ranker_rows=rows, distillation=0.3)
    model = MultiStage(config, N_ITEMS, 3)
    torch.nn.init.normal_(model.ranker.out.weight)
    teacher = Counting() if taught else None
    states, items = torch.randn(3, 4, 8, requires_grad=True), torch.randn(N_ITEMS, 8, requires_grad=True)
    inputs, targets, users = batch()
    found = RankLoss(model, teacher, mask_seen=mask_seen)(states, items, inputs, targets, users)
    found.backward()
    assert states.grad is None
    assert items.grad is None
    assert model.ranker.past.weight.grad is not None

    places = (targets != -100).nonzero().tolist()
    places = [places[i * len(places) // min(rows, len(places))] for i in range(min(rows, len(places)))]
    chosen, told = [], []
    for b, t in places:
        past = [i for i in inputs[b, : t + 1].tolist() if i != N_ITEMS]
        order = (items @ states[b, t]).argsort(descending=True).tolist()
        candidates = [i for i in order if not (mask_seen and i in past)][:4]
        known = torch.tensor([past or [N_ITEMS]])
        vectors, real = events_of(items, known)
        scores = model.ranker(states[b, t][None], items[candidates][None], vectors, real)[0]
        shares = torch.log_softmax(scores, dim=0).tolist()
        if int(targets[b, t]) in candidates:
            chosen.append(-shares[candidates.index(int(targets[b, t]))])
        if taught:
            base = np.sin(np.arange(N_ITEMS) * (1 + int(users[b])))
            word = base + sum((place + 1) * np.cos(np.arange(N_ITEMS) - i) for place, i in enumerate(past))
            word = word[candidates]
            word = np.exp((word - word.mean()) / word.std())
            told.append(-float((word / word.sum()) @ np.array(shares)))
    label = float(np.mean(chosen)) if chosen else 0.0
    expected = 0.7 * label + 0.3 * float(np.mean(told)) if taught else label
    assert found.item() == pytest.approx(expected, rel=1e-4)


@pytest.fixture
def events(tmp_path):
    rng = np.random.default_rng(0)
    rows = [(f"u{rng.integers(9)}", f"i{rng.integers(12):02d}", step) for step in range(200)]
    file = tmp_path / "events.csv"
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(file)
    return load(InteractionsConfig(path=str(file)))


def test_a_counted_teacher_is_fitted_on_the_training_events(events):
    known = training(events)
    device = torch.device("cpu")
    found = teacher_of(MultiStageConfig(teacher="ease"), events, known, device)
    alone = Ease(EaseConfig(), len(events.item_ids))
    alone.fit(known)
    assert np.array_equal(found.scores(known), alone.scores(known))
    assert teacher_of(MultiStageConfig(teacher="none"), events, known, device) is None
    large = dataclasses.replace(events, item_ids=[str(i) for i in range(20_001)])
    with pytest.raises(ConfigError, match=r"model\.teacher=ease: .*; or use seq_knn"):
        teacher_of(MultiStageConfig(teacher="ease"), large, known, device)
