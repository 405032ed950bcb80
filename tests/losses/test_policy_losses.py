"""Policy losses against exact gradients on slates small enough to enumerate, and against closed forms."""

import itertools

import pytest
import torch

from recsysml.losses import policy as losses


@pytest.fixture
def slates():
    """R slates of up to 5 candidates, a logging policy, true expected rewards and a target policy."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    mask = torch.ones(6, 5, dtype=torch.bool)
    mask[0, 3:], mask[1, 4] = False, False
    logging = losses.log_policy(torch.randn(6, 5, generator=generator, dtype=torch.float64) * 0.5, mask).exp()
    true = torch.rand(6, 5, generator=generator, dtype=torch.float64) * 2 - 0.5
    return scores, mask, logging, true


def draws(slates, n, seed):
    """n logged requests: which slate, what was shown, its propensity, its noisy reward."""
    _, _, logging, true = slates
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(logging), (n,), generator=generator)
    shown = torch.multinomial(logging[rows], 1, generator=generator)[:, 0]
    reward = true[rows, shown] + 0.3 * torch.randn(n, generator=generator, dtype=torch.float64)
    return rows, shown, logging[rows, shown], reward


def gradient(loss, scores):
    return torch.autograd.grad(loss, scores, retain_graph=True)[0]


def test_the_direct_method_is_exact_with_true_rewards_and_wrong_with_wrong_ones(slates):
    scores, mask, _, true = slates
    scores = scores.clone().requires_grad_(True)
    pi = losses.log_policy(scores, mask).exp()
    exact = gradient(-(pi * true).sum(1).mean(), scores)
    found = [gradient(losses.dm(losses.log_policy(scores, mask), q), scores) for q in (true, true - 3.0, -true)]
    for own, sign in zip(found, (1, 1, -1), strict=True):
        assert torch.allclose(own, sign * exact)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", ["ips", "ips_baseline", "dr", "dr_wrong_model", "snips"])
def test_the_estimated_gradient_is_that_of_the_true_value(slates, kind, seed):
    scores, mask, _, true = slates
    scores = scores.clone().requires_grad_(True)
    exact = gradient(-(losses.log_policy(scores, mask).exp() * true).sum(1).mean(), scores)
    found = []
    for part in range(40):
        rows, shown, propensity, reward = draws(slates, 3000, 1000 * seed + part)
        log_pi = losses.log_policy(scores, mask)[rows]
        if kind == "dr":
            loss = losses.dr(log_pi, shown, propensity, reward, true[rows] + 0.1)
        elif kind == "dr_wrong_model":
            loss = losses.dr(log_pi, shown, propensity, reward, -true[rows])
        elif kind == "snips":
            loss = losses.snips(log_pi, shown, propensity, reward)
        else:
            loss = losses.ips(log_pi, shown, propensity, reward - (0.4 if kind == "ips_baseline" else 0))
        found.append(gradient(loss, scores))
    together = torch.stack(found)
    error = together.std(0) / len(found) ** 0.5
    # 28 free numbers a test, 15 tests: one beyond 3 standard errors is to be expected, one beyond 4.5 is not
    gap = (together.mean(0) - exact).abs()
    assert (gap <= 4.5 * error + 1e-9).all()
    assert (gap[mask] > 3 * error[mask]).sum() <= 2
    assert error.max() < 0.02 and exact.abs().max() > 0.02  # it could have failed


def test_a_better_reward_model_makes_less_noise_and_a_clipped_weight_too(slates):
    scores, mask, _, true = slates
    scores = scores.clone().requires_grad_(True)
    spread = {}
    for kind in ("ips", "clipped", "dr"):
        found = []
        for part in range(30):
            rows, shown, propensity, reward = draws(slates, 500, part)
            log_pi = losses.log_policy(scores, mask)[rows]
            if kind == "dr":
                loss = losses.dr(log_pi, shown, propensity, reward, true[rows])
            else:
                loss = losses.ips(log_pi, shown, propensity, reward, 1.0 if kind == "clipped" else 0.0)
            found.append(gradient(loss, scores))
        spread[kind] = float(torch.stack(found).std(0).norm())
    assert spread["dr"] < 0.6 * spread["ips"] and spread["clipped"] < 0.9 * spread["ips"]


# on both sides of every edge: of eps (0.2 and 0.05), of delta beyond it (0.1 and 0.03), of a clip at 1.5
EDGES = torch.tensor([0.8, 0.95, 1.0, 1.05, 1.08, 1.2, 1.3, 1.5], dtype=torch.float64)
RATIOS = torch.cat([torch.tensor([0.05, 0.5, 0.9, 1.1, 2.0, 8.0], dtype=torch.float64), EDGES - 1e-7, EDGES + 1e-7])


@pytest.mark.parametrize("sign", [1.7, -0.6])
@pytest.mark.parametrize("kind", ["ips", "clipped", "grpo", "ecpo", "gbpo", "cispo"])
@pytest.mark.parametrize(("eps", "delta"), [(0.2, 0.1), (0.05, 0.03)])
def test_the_coefficient_is_the_closed_form(kind, sign, eps, delta):
    """d loss / d log pi(shown) = -c A, where log pi is a number of its own."""
    settings = {"grpo": {"eps": eps}, "ecpo": {"eps": eps, "delta": delta}, "cispo": {"eps_high": eps}}.get(kind, {})
    for share in (0.02, 0.3, 0.7):
        log_pi = torch.full((len(RATIOS), 2), share, dtype=torch.float64).log()
        log_pi[:, 1] = torch.log1p(-log_pi[:, 0].exp())
        log_pi.requires_grad_(True)
        shown = torch.zeros(len(RATIOS), dtype=torch.long)
        old = torch.stack([(share / RATIOS).log(), torch.zeros_like(RATIOS)], dim=1)
        advantage = torch.full_like(RATIOS, sign)
        if kind in ("ips", "clipped"):
            clip = 1.5 if kind == "clipped" else 0.0
            loss = losses.ips(log_pi, shown, share / RATIOS, advantage, clip)
            expected = losses.coefficient("ips", RATIOS, advantage, clip=clip)
        else:
            loss = getattr(losses, kind)(log_pi, shown, old, advantage, **settings)
            own = torch.full_like(RATIOS, share)
            expected = losses.coefficient(kind, RATIOS, advantage, own, eps=eps, delta=delta)
        found = gradient(loss, log_pi)[:, 0] * len(RATIOS)
        assert torch.allclose(found, -expected * advantage, atol=1e-6), (kind, share)


@pytest.mark.parametrize("clip", [0.0, 1.5])
@pytest.mark.parametrize("kind", ["snips", "dr"])
def test_the_terms_of_snips_and_dr_are_their_closed_forms(kind, clip):
    """Of snips rho / mean rho and the reward less its weighted mean; of dr rho and the residual, beside pi q."""
    n, generator = len(RATIOS), torch.Generator().manual_seed(4)
    reward, q = (torch.randn(n, generator=generator, dtype=torch.float64) for _ in range(2))  # of either sign
    log_pi = torch.full((n, 2), 0.3, dtype=torch.float64).log()
    log_pi[:, 1] = torch.log1p(-log_pi[:, 0].exp())
    log_pi.requires_grad_(True)
    shown, propensity = torch.zeros(n, dtype=torch.long), 0.3 / RATIOS
    c = RATIOS.clamp(max=clip) if clip else RATIOS
    if kind == "snips":
        loss = losses.snips(log_pi, shown, propensity, reward, clip)
        expected = c / c.mean() * (reward - (c * reward).mean() / c.mean())
    else:
        loss = losses.dr(log_pi, shown, propensity, reward, torch.stack([q, 2 * q], dim=1), clip)
        expected = 0.3 * q + c * (reward - q)
    assert torch.allclose(gradient(loss, log_pi)[:, 0] * n, -expected)


def test_what_the_closed_forms_say_of_the_papers():
    ratio, up, down = torch.tensor([0.5, 1.0, 1.25, 5.0]), torch.ones(4), -torch.ones(4)
    assert losses.coefficient("grpo", ratio, up).tolist() == [0.5, 1.0, 0.0, 0.0]
    assert losses.coefficient("grpo", ratio, down).tolist() == [0.0, 1.0, 1.25, 5.0]  # without a bound: ecpo's reason
    assert torch.allclose(losses.coefficient("ecpo", ratio, down), torch.tensor([0.0, 1.0, 1.25, 1.3]))
    pi = torch.tensor([0.1, 0.5, 0.9, 0.5])
    assert torch.allclose(losses.coefficient("gbpo", ratio, down, pi), torch.tensor([1 / 9, 1.0, 1.25, 1.0]))
    assert torch.allclose(losses.coefficient("cispo", ratio, up), torch.tensor([0.5, 1.0, 1.2, 1.2]))
    with pytest.raises(ValueError, match="dr has no coefficient"):
        losses.coefficient("dr", ratio, up)


def test_a_weight_multiplies_and_carries_no_gradient_of_its_own(slates):
    scores, mask, _, _ = slates
    scores = scores.clone().requires_grad_(True)
    rows, shown, propensity, reward = draws(slates, 200, 1)
    log_pi = losses.log_policy(scores, mask)[rows]
    old = losses.log_policy(scores.detach() + 0.1, mask)[rows]
    weight = (old.gather(1, shown[:, None])[:, 0].exp() / propensity).clamp(max=2.0)
    for kind in losses.ON_SNAPSHOT:
        loss = getattr(losses, kind)
        parts = [slice(i, i + 1) for i in range(9)]
        each = torch.stack([loss(log_pi[part], shown[part], old[part], reward[part]) for part in parts])
        whole = loss(log_pi[:9], shown[:9], old[:9], reward[:9], weight[:9])
        assert torch.allclose(whole, (each * weight[:9]).mean())


def test_advantages_of_a_slate_sum_to_zero_and_know_no_constant():
    generator = torch.Generator().manual_seed(5)
    predicted = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    policy = torch.softmax(torch.randn(7, 4, generator=generator, dtype=torch.float64), dim=1)
    each = torch.stack([losses.advantages(predicted[:, i], predicted, policy) for i in range(4)], dim=1)
    assert torch.allclose((policy * each).sum(1), torch.zeros(7, dtype=torch.float64), atol=1e-12)
    assert torch.allclose((policy * each**2).sum(1), torch.ones(7, dtype=torch.float64))
    reward = torch.randn(7, generator=generator, dtype=torch.float64)
    shifted = losses.advantages(reward - 3, predicted - 3, policy)
    assert torch.allclose(shifted, losses.advantages(reward, predicted, policy))
    alike = torch.ones(7, 4, dtype=torch.float64)
    assert torch.isfinite(losses.advantages(reward, alike, policy)).all()


def test_shifting_every_reward_changes_nothing_that_baselined_losses_learn(slates):
    scores, mask, _, true = slates
    scores = scores.clone().requires_grad_(True)
    rows, shown, propensity, reward = draws(slates, 400, 2)
    log_pi, q = losses.log_policy(scores, mask)[rows], true[rows]
    before = {
        "snips": losses.snips(log_pi, shown, propensity, reward),
        "dr": losses.dr(log_pi, shown, propensity, reward, q),
        "ips_baseline": losses.ips(log_pi, shown, propensity, reward - reward.mean()),
    }
    after = {
        "snips": losses.snips(log_pi, shown, propensity, reward - 3),
        "dr": losses.dr(log_pi, shown, propensity, reward - 3, q - 3),
        "ips_baseline": losses.ips(log_pi, shown, propensity, reward - 3 - (reward - 3).mean()),
    }
    for name in before:
        assert torch.allclose(gradient(before[name], scores), gradient(after[name], scores), atol=1e-12), name
    plain = losses.ips(log_pi, shown, propensity, reward), losses.ips(log_pi, shown, propensity, reward - 3)
    assert not torch.allclose(gradient(plain[0], scores), gradient(plain[1], scores))


def test_permuting_candidates_permutes_the_policy(slates):
    scores, mask, _, _ = slates
    order = torch.tensor([3, 0, 4, 1, 2])
    whole = losses.log_policy(scores, mask)
    assert torch.allclose(losses.log_policy(scores[:, order], mask[:, order]).exp(), whole.exp()[:, order], atol=1e-15)
    assert torch.allclose(whole.exp().sum(1), torch.ones(6, dtype=torch.float64))
    assert (whole.exp()[~mask] == 0).all()


def test_plackett_luce_is_a_distribution_over_all_orders_and_its_first_place_is_the_policy():
    scores = torch.tensor([[0.3, -1.0, 2.0, 0.5]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False]])
    orders = torch.tensor([[*order, -1] for order in itertools.permutations(range(3))])
    p = losses.plackett_luce(scores.expand(6, 4), mask.expand(6, 4), orders).exp()
    assert torch.allclose(p.sum(), torch.ones((), dtype=torch.float64))
    first = torch.stack([p[orders[:, 0] == item].sum() for item in range(3)])
    assert torch.allclose(first, losses.log_policy(scores, mask).exp()[0, :3])
    by_hand = 1.0
    left = scores.exp()[0, :3].tolist()
    for item in (2, 0, 1):
        by_hand *= scores.exp()[0, item].item() / sum(left)
        left.remove(scores.exp()[0, item].item())
    assert p[(orders[:, :3] == torch.tensor([2, 0, 1])).all(1)].item() == pytest.approx(by_hand)
    grown = scores.clone().requires_grad_(True)
    losses.plackett_luce(grown.expand(6, 4), mask.expand(6, 4), orders).sum().backward()
    assert torch.isfinite(grown.grad).all()


def test_kl_is_exact_and_finite_with_masked_candidates(slates):
    scores, mask, logging, _ = slates
    scores = scores.clone().requires_grad_(True)
    anchor = torch.where(mask, logging, 1.0).log().masked_fill(~mask, -torch.inf)
    log_pi = losses.log_policy(scores, mask)
    found = losses.kl(log_pi, anchor, mask)
    by_hand = (
        sum(log_pi[r, i].exp() * (log_pi[r, i] - anchor[r, i]) for r in range(6) for i in range(5) if mask[r, i]) / 6
    )
    assert torch.allclose(found, by_hand) and found > 0
    assert torch.isfinite(gradient(found, scores)).all()
    assert losses.kl(anchor, anchor, mask) == 0
