"""The ranker: every choice of its parts; padding, places and conditions; and that it is what its config says."""

import dataclasses

import pytest
import torch
from torch import nn

from recsysml.errors import ConfigError
from recsysml.losses.tasks import task_losses
from recsysml.models.mtml import MTML
from recsysml.nn.deduplicated import Deduplicated
from recsysml.schemas.rankers import MTMLConfig
from recsysml.schemas.ranking_shape import RankingShape
from tests.models import contract

SHAPE = RankingShape(
    dense=["age", "length"],
    vectors=["content"],
    vector_width=6,
    sparse={"user": 9, "item": 11, "hour": 4},
    bags={"tags": 5},
    history={"past_item": 11, "past_response": 4},
    target="item",
    user="user",
    positions=3,
    tasks={"click": "binary", "like": "binary", "seconds": "real"},
)
BATCH = 12


def batch(seed=0, n=BATCH):
    g = torch.Generator().manual_seed(seed)

    def ids(low, high, *shape):
        return torch.randint(low, high, shape, generator=g)

    sparse = torch.stack([ids(0, 9, n), ids(0, 11, n), ids(0, 4, n)], dim=1)
    lengths = ids(0, 7, n)
    lengths[0] = 0
    history = torch.stack([ids(0, 11, n, 6), ids(0, 4, n, 6)], dim=2)
    history[torch.arange(6)[None] >= lengths[:, None]] = -1
    dense, vectors = torch.randn(n, 2, generator=g), torch.randn(n, 1, 6, generator=g)
    return dense, vectors, sparse, ids(-1, 5, n, 1, 3), history, ids(0, 3, n)


def labels(seed=0):
    g = torch.Generator().manual_seed(seed)
    click = (torch.rand(BATCH, generator=g) < 0.6).float()
    like = click * (torch.rand(BATCH, generator=g) < 0.5)
    return torch.stack([click, like, torch.randn(BATCH, generator=g)], dim=1)


def config(**changes):
    small = {"d_embedding": 8, "expert_widths": [16, 8], "tower_widths": [8], "n_experts": 2}
    return MTMLConfig(**small | changes)


def made(seed=1, shape=SHAPE, **changes):
    torch.manual_seed(seed)
    model = MTML(config(**changes), shape)
    nn.init.normal_(model.embedding.table.weight)  # so that every part is seen in the logits
    if model.position is not None:
        nn.init.normal_(model.position.places)
    return model


CHOICES = [
    {"history": "din", "interaction": "dcn", "mixer": "mmoe"},
    {"history": "multi_head", "interaction": "dot", "mixer": "ple"},
    {"history": "hstu", "interaction": "concat", "mixer": "shared_bottom"},
    {"history": "none", "user": "deep_hash"},
    {"user": "cohort"},
    {"user": "mixture", "user_dropout": 0.3},
    {"weighting": "uncertainty", "tower_widths": []},
    {"norm": "batch", "mixer": "ple"},
    {"norm": "batch", "history": "none"},
]


@pytest.mark.parametrize("changes", CHOICES, ids=str)
def test_every_choice_gives_logits_that_padding_does_not_change(changes):
    model = made(**changes).eval()
    dense, vectors, sparse, bags, history, positions = batch()
    found = model(dense, vectors, sparse, bags, history, positions)
    assert found.shape == (BATCH, 3)
    assert found.dtype == torch.float32
    longer = nn.functional.pad(history, (0, 0, 0, 5), value=-1)
    wider = nn.functional.pad(bags, (0, 2), value=-1)
    again = model(dense, vectors, sparse, wider, longer, positions)
    torch.testing.assert_close(again, found, atol=1e-5, rtol=1e-4)
    alone = torch.cat([model(*(part[[row]] for part in batch())) for row in range(BATCH)])
    torch.testing.assert_close(alone, found, atol=1e-5, rtol=1e-4)  # a row's score is its own


@pytest.mark.parametrize("changes", CHOICES, ids=str)
def test_the_loss_reaches_every_parameter_and_is_the_same_again(changes):
    def loss(model):
        losses = task_losses(model(*batch()), labels(), ["binary", "binary", "real"], model.parents)
        return model.task_weights(losses)

    contract.check_determinism(lambda: made(**changes, calibration="none"), loss)
    contract.check_gradients(lambda: made(**changes | {"user_dropout": 0.0, "calibration": "none"}), loss)


SHARING = [
    {"mixer": "mmoe"},
    {"mixer": "ple", "history": "none", "norm": "batch"},
    {"mixer": "shared_bottom", "expert_widths": [16], "weighting": "uncertainty"},
    {"user_dropout": 0.3},
]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("changes", SHARING, ids=str)
def test_what_a_users_rows_share_is_multiplied_once_and_nothing_else_changes(changes, seed):
    """Nine users' town is their own, but for one row; an evening of sixty rows."""
    towned = {"user": 9, "town": 4, "item": 11, "hour": 4}
    dense, vectors, sparse, bags, history, positions = batch(seed, n=60)
    town = (sparse[:, :1] + seed) % 4
    town[7] = (town[7] + 1) % 4
    sparse = torch.cat([sparse[:, :1], town, sparse[:, 1:]], dim=1)
    found = []
    for of_user in (2, 0):
        model = made(
            shape=dataclasses.replace(SHAPE, sparse=towned, of_user=of_user), interaction="concat",
            calibration="none", **changes,
        )  # fmt: skip
        torch.manual_seed(seed)
        features = model.features(dense, vectors, sparse, bags, history)
        assert isinstance(features, Deduplicated) == (of_user == 2)
        torch.manual_seed(seed)
        logits = model(dense, vectors, sparse, bags, history, positions)
        logits.square().sum().backward()
        found.append([logits, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 10
    for once, plain in zip(*found, strict=True):
        torch.testing.assert_close(once, plain, atol=1e-4, rtol=1e-4)


def test_what_meets_before_the_first_layer_is_not_shared():
    shape = dataclasses.replace(SHAPE, of_user=1)
    for changes in ({"interaction": "dcn"}, {"interaction": "dot"}, {"interaction": "concat", "user": "mixture"}):
        assert made(shape=shape, **changes).n_shared == 0


@pytest.mark.parametrize("kind", ["din", "multi_head", "hstu"])
def test_the_past_counts_and_an_events_kind_with_it(kind):
    model = made(history=kind).eval()
    dense, vectors, sparse, bags, history, positions = batch()
    found = model(dense, vectors, sparse, bags, history, positions)
    other = history.clone()
    other[..., 1] = torch.where(other[..., 1] >= 0, (other[..., 1] + 1) % 4, -1)
    changed = (model(dense, vectors, sparse, bags, other, positions) - found).abs().amax(dim=1)
    assert (changed[(history[..., 0] >= 0).any(dim=1)] > 1e-6).all()
    assert not changed[~(history[..., 0] >= 0).any(dim=1)].any()


def test_the_past_of_the_target_has_the_targets_vector():
    """An event of item i and the target i read the same row of the table."""
    model = made()
    ids = torch.tensor([[[7, -1]]])
    event = model.embedding.summed(ids, model.event_fields)[0, 0]
    assert torch.equal(event, model.embedding(torch.tensor([[7]]), ["item"])[0, 0])


@pytest.mark.parametrize("position", ["additive", "examination"])
def test_without_places_everything_stands_at_the_top(position):
    shape = dataclasses.replace(SHAPE, tasks={"click": "binary", "like": "binary"})
    model = made(shape=shape, position=position).eval()
    *features, positions = batch()
    served = model(*features)
    torch.testing.assert_close(model(*features, torch.zeros_like(positions)), served)
    placed = model(*features, positions)
    assert not torch.allclose(placed[positions > 0], served[positions > 0])
    if position == "examination":
        assert (placed <= served + 1e-5).all()
    none = made(shape=shape, position="none").eval()
    assert none.position is None
    assert torch.equal(none(*features, positions), none(*features))


def test_a_factorised_task_is_a_product_and_its_condition_is_learnt_where_it_holds():
    model = made(factorised={"like": "click"}).eval()
    logits = model(*batch())
    joint = model.joint(logits)
    p = torch.sigmoid(logits)
    torch.testing.assert_close(torch.sigmoid(joint[:, 1]), p[:, 0] * p[:, 1])
    assert torch.equal(joint[:, [0, 2]], logits[:, [0, 2]])
    assert (joint[:, 1] <= joint[:, 0] + 1e-5).all()
    assert model.parents == {1: 0}


def test_examination_hides_the_parent_alone():
    shape = dataclasses.replace(SHAPE, tasks={"click": "binary", "like": "binary"})
    model = made(shape=shape, position="examination", factorised={"like": "click"}).eval()
    *features, positions = batch()
    placed, served = model(*features, positions), model(*features)
    assert torch.equal(placed[:, 1], served[:, 1])
    assert not torch.allclose(placed[:, 0], served[:, 0])


def test_tasks_are_chosen_and_ordered_by_the_config():
    model = made(tasks=["like", "click"])
    assert model.tasks == ["like", "click"]
    assert model(*batch()).shape == (BATCH, 2)


def test_a_user_never_met_is_hidden_in_training_only():
    model = made(user_dropout=0.99)
    features = batch()
    unmet = features[2].clone()
    unmet[:, 0] = 0
    nobody = model.eval()(*features[:2], unmet, *features[3:])
    known = model(*features)
    assert not torch.allclose(nobody, known)
    torch.manual_seed(0)
    hidden = model.train()(*features)
    assert (hidden - nobody).abs().amax(dim=1).lt(1e-5).float().mean() > 0.8


@pytest.mark.parametrize("std", [1e-4, 0.01, 0.1])
def test_vectors_begin_as_wide_as_the_config_says_and_those_never_met_at_zero(std):
    shape = dataclasses.replace(SHAPE, sparse={"user": 800, "item": 600, "hour": 24})
    for seed in (1, 2):
        torch.manual_seed(seed)
        table = MTML(config(embedding_std=std), shape).embedding.table.weight.detach()
        zero = table.eq(0).all(dim=1)
        assert zero[[0, 800, 1400]].all()
        # over 11,000 numbers a sample's deviation is off by 0.7% in one of three draws
        assert float(table[~zero].std()) == pytest.approx(std, rel=0.04)


def test_of_a_user_never_met_the_mixture_knows_nothing_whatever_they_did():
    """The gate goes by the events of the past, but the id's vector of a user never met is nobody's."""
    model, features = made(user="mixture").eval(), batch()
    told = []
    model.mixture.register_forward_hook(lambda _, inputs, __: told.append(inputs[2]))
    features[2][::2, 0] = 0
    features[2][1::2, 0] = 1
    model(*features)
    events = (features[4][..., 0] >= 0).sum(dim=1)
    assert events[::2].sum() > 0
    torch.testing.assert_close(told[0], torch.where(features[2][:, 0] == 0, 0, events))


def test_data_with_ids_alone_is_enough():
    shape = RankingShape(sparse={"a": 3, "b": 4}, tasks={"click": "binary"})
    model = made(shape=shape, user="mixture").eval()
    nothing = torch.zeros(5, 0), torch.zeros(5, 0, 0), torch.zeros(5, 0, 0, dtype=torch.int64)
    sparse, history = torch.zeros(5, 2, dtype=torch.int64), torch.zeros(5, 0, 0, dtype=torch.int64)
    assert model(nothing[0], nothing[1], sparse, nothing[2], history).shape == (5, 1)


def test_what_muon_may_take():
    model = made()
    contract.check_hidden_matrices(model, [model.embedding.table.weight])
    names = {id(p): name for name, p in model.named_parameters()}
    hidden = {names[id(p)] for p in model.hidden_matrices()}
    assert "towers.weights.0" in hidden and "towers.last" not in hidden  # what gives logits is AdamW's


def test_what_cannot_be_is_said():
    with pytest.raises(ConfigError, match="real labels need additive"):
        made(position="examination")
    for changes, words in (
        ({"history": "dim"}, "Did you mean: din"),
        ({"history": "hstu", "n_heads": 3}, r"not a multiple of model\.n_heads=3"),
        ({"expert_widths": []}, "expert_widths is empty"),
        ({"norm": "batches"}, "Did you mean: batch"),
        ({"embedding_std": 0.0}, r"model\.embedding_std=0\.0: it must be greater than 0"),
        ({"task_weights": {"click": 1.0}}, "use fixed"),
        ({"weighting": "fixed"}, r"weighting=fixed needs model\.task_weights"),
        ({"factorised": {"a": "b", "b": "c"}}, "b stands on both sides"),
    ):
        with pytest.raises(ConfigError, match=words):
            config(**changes).validate()


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_a_calibration_begins_as_the_identity_and_leaves_real_labels_as_they_are(kind):
    model = made(calibration=kind, calibrate_cohorts=False).eval()
    sparse = batch()[2]
    logits = 3 * torch.randn(len(sparse), 3)
    assert torch.allclose(model.calibrated(logits, sparse), logits, atol=1e-2)
    with torch.no_grad():
        for tensor in (*model.calibration.parameters(), *model.calibration.buffers()):
            tensor.mul_(0.5)
    changed = model.calibrated(logits, sparse)
    assert not torch.allclose(changed[:, :2], logits[:, :2], atol=1e-2)
    assert torch.equal(changed[:, 2], logits[:, 2])
