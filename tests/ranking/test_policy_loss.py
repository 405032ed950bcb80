"""What a policy's step minimises, against closed forms by hand: settings reach the losses, snapshots their steps."""

import numpy as np
import pytest
import torch

from recsysml.data import world
from recsysml.data.slate_batches import SlateBatches
from recsysml.errors import JobError
from recsysml.ranking.policies import build, log_probabilities
from recsysml.ranking.policy_loss import PolicyLoss
from recsysml.schemas.data import WorldConfig
from recsysml.schemas.policies import PolicyRankerConfig
from recsysml.schemas.policy_trainers import POLICY_LOSSES, SNAPSHOT_LOSSES, PolicyTrainerConfig

EPS, DELTA, MOST = 0.07, 0.05, 0.6


class Setting:
    """A small world's log, a model, predicted rewards and anchor by chance, and a batch of rows in no order."""

    def __init__(self, log, folder):
        self.log = log
        torch.manual_seed(0)
        self.model = build(PolicyRankerConfig(temperature=0.3), self.log, dict(self.log.weights), 8)
        random = np.random.default_rng(0)
        self.q = random.random(self.log.mask.shape).astype(np.float32)
        noise = np.where(self.log.mask, random.normal(size=self.log.mask.shape), -np.inf)
        self.anchor = noise - np.logaddexp.reduce(noise, axis=1, keepdims=True)
        self.batches = SlateBatches(self.log, self.log.fitted, batch_size=64, seed=0, tasks=list(self.log.weights))
        self.folder = folder

    def loss(self, kind, **more):
        how = PolicyTrainerConfig(policy_loss=kind, eps=EPS, delta=DELTA, **{"max_weight": MOST, **more})
        return PolicyLoss(self.model, self.log, how, self.q, self.anchor, self.folder / kind)

    def batch(self, number=0, rows=slice(None)):
        return [part[rows] for part in self.batches[number]]

    def move(self, scale, seed=1):
        torch.manual_seed(seed)
        with torch.no_grad():
            for weights in self.model.parameters():
                weights += scale * torch.randn_like(weights)

    def log_pi(self, batch):
        return self.model.log_policy(self.model(*batch[:3]), batch[3])

    def old(self):
        rows = np.arange(*self.log.fitted)
        return torch.from_numpy(log_probabilities(self.model, self.log, rows, batch_size=512)[0])


@pytest.fixture(scope="module")
def log():
    return world.load_slates(WorldConfig(users=150, items=150, events=3000))


@pytest.fixture
def setting(log, tmp_path):
    return Setting(log, tmp_path)


def gradient(setting, value):
    found = torch.autograd.grad(value, [part.weight for part in setting.model.parts], retain_graph=True)
    return torch.cat([each.flatten() for each in found])


def by_hand(kind, setting, batch, old):
    """(B,) c A of every request and, of dr and dm, the sum over its slate."""
    log, rows, shown = setting.log, batch[6].numpy(), batch[4].numpy()
    at, reward = np.arange(len(rows)), log.rewards()[rows]
    pi = setting.log_pi(batch).exp().detach().double().numpy()
    own, q = pi[at, shown], np.where(log.mask[rows], setting.q[rows], 0)
    rho = own / log.propensity[rows]
    clipped = np.minimum(rho, MOST)
    if kind == "ips":
        return clipped * reward
    if kind == "ips_baseline":
        return clipped * (reward - log.rewards()[slice(*log.fitted)].mean())
    if kind == "snips":
        return clipped / clipped.mean() * (reward - (clipped * reward).mean() / clipped.mean())
    if kind == "dr":
        return clipped * (reward - q[at, shown])
    if kind == "dm":
        return np.zeros(len(rows))
    p = old.exp().numpy()[rows]
    mean = (p * q).sum(1)
    a = (reward - mean) / np.sqrt((p * (q - mean[:, None]) ** 2).sum(1))
    r, up = own / p[at, shown], a >= 0
    c = {
        "grpo": np.where(up, np.where(r <= 1 + EPS, r, 0), np.where(r >= 1 - EPS, r, 0)),
        "ecpo": np.where(up, np.where(r <= 1 + EPS, r, 0), np.where(r >= 1 - EPS, np.minimum(r, 1 + EPS + DELTA), 0)),
        "gbpo": np.minimum(r, np.where(up, 1, own / (1 - own))),
        "cispo": np.minimum(r, 1 + EPS),
    }[kind]
    return c * a * np.minimum(p[at, shown] / log.propensity[rows], MOST)


@pytest.mark.parametrize("kind", POLICY_LOSSES)
def test_the_gradient_of_a_step_is_the_closed_form(setting, kind):
    loss, batch = setting.loss(kind), setting.batch()
    loss(setting.model, *batch)  # snapshot losses look at the policy as it is now
    old = setting.old()
    setting.move(0.02)
    _, named = loss(setting.model, *[*batch[:-1], batch[-1] + 1])
    log_pi = setting.log_pi(batch)
    shown = log_pi[torch.arange(64), batch[4]]
    surrogate = (torch.from_numpy(by_hand(kind, setting, batch, old)) * shown).mean()
    if kind in ("dr", "dm"):
        surrogate = surrogate + (log_pi.exp() * torch.from_numpy(setting.q)[batch[6]]).sum(1).mean()
    expected = -gradient(setting, surrogate)
    found = gradient(setting, named["train/policy_loss"])
    assert torch.allclose(found, expected, rtol=2e-3, atol=1e-4 * float(expected.abs().max())), kind
    assert expected.abs().max() > 1e-3


@pytest.mark.parametrize("kind", POLICY_LOSSES)
def test_the_size_of_a_step_does_not_depend_on_the_batch(setting, kind):
    """So that one policy_weight serves every batch size: a batch is the mean of its halves, and the same twice over."""
    loss = setting.loss(kind, kl_weight=0.7, policy_weight=1.3)
    whole, named = loss(setting.model, *setting.batch())
    twice, _ = loss(setting.model, *[torch.cat([part, part]) for part in setting.batch()])
    assert twice.item() == pytest.approx(whole.item(), rel=1e-5)
    halves = [loss(setting.model, *setting.batch(rows=rows))[1] for rows in (slice(32), slice(32, 64))]
    for name, value in named.items():
        if (kind, name) != ("snips", "train/policy_loss"):  # a ratio of means
            assert value.item() == pytest.approx(np.mean([half[name].item() for half in halves]), rel=1e-4, abs=1e-6)


def test_the_anchor_is_that_of_the_batchs_requests(setting):
    batch = setting.batch()
    _, named = setting.loss("dr", kl_weight=0.5)(setting.model, *batch)
    log_pi = setting.log_pi(batch).detach().double().numpy()
    gap = np.subtract(log_pi, setting.anchor[batch[6]], out=np.zeros_like(log_pi), where=batch[3].numpy())
    assert named["train/kl"].item() == pytest.approx((np.exp(log_pi) * gap).sum(1).mean(), rel=1e-4)
    assert "train/kl" not in setting.loss("dr")(setting.model, *batch)[1]


def test_snapshots_are_taken_on_schedule_and_found_again(setting):
    kind = SNAPSHOT_LOSSES[0]
    loss, kept = setting.loss(kind, refresh_every=3), {}
    for step in range(8):
        setting.move(0.05, seed=step)
        kept[step] = setting.old()
        loss(setting.model, *setting.batch(step))
        assert torch.allclose(loss.old.double(), kept[step - step % 3], atol=1e-5), step
    assert not torch.allclose(kept[6], kept[7], atol=1e-3)
    again = setting.loss(kind, refresh_every=3)  # as after a stop, between two snapshots
    again(setting.model, *setting.batch(5))
    assert torch.allclose(again.old.double(), kept[3], atol=1e-5)
    (setting.folder / kind / "step-00000003.safetensors").unlink()
    with pytest.raises(JobError, match="step-00000003"):
        setting.loss(kind, refresh_every=3)(setting.model, *setting.batch(5))
