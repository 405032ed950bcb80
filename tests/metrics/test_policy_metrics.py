"""Off-policy estimators against explicit loops, closed forms and the true value of enumerable worlds."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from recsysml.metrics import policy as ope

LOGS, N = 400, 600


class World:
    """Contexts with a slate each: every policy's value is a finite sum. Rewards are 0/1 with known chances."""

    def __init__(self, seed, contexts=40, items=7, sharpness=1.0, low=0.05, high=0.95):
        rng = np.random.default_rng(seed)
        self.rng = rng
        self.chance = rng.uniform(low, high, (contexts, items))
        self.mask = rng.random((contexts, items)) < 0.85
        self.mask[:, 0] = True
        self.share = rng.dirichlet(np.full(contexts, 5.0))
        belief = self.chance + rng.normal(0, 0.4, self.chance.shape)
        self.logging = self.softmax(belief)
        self.policy = self.softmax(2.5 * sharpness * self.chance)
        self.value = float((self.share[:, None] * self.policy * self.chance).sum())

    def softmax(self, scores):
        e = np.where(self.mask, np.exp(scores), 0)
        return e / e.sum(axis=1, keepdims=True)

    def draw(self, n, policy=None):
        """contexts, shown, rewards: each (n,)."""
        c = self.rng.choice(len(self.share), n, p=self.share)
        p = self.logging if policy is None else policy
        edges = np.cumsum(p[c], axis=1)
        shown = (self.rng.random((n, 1)) * edges[:, -1:] >= edges).sum(axis=1)
        return c, shown, (self.rng.random(n) < self.chance[c, shown]).astype(float)

    def judge(self, c, shown, reward, predicted, policy=None, propensity=None, clip=None):
        policy = self.policy[c] if policy is None else policy
        propensity = self.logging[c, shown] if propensity is None else propensity
        return ope.estimate(policy, self.mask[c], shown, propensity, reward, predicted[c], clip=clip)


def loops(policy, shown, propensity, reward, predicted, clip, shrinkage, most):
    """Every estimator but replay, a request at a time."""
    n = len(shown)
    total = dict.fromkeys(("ips", "clipped_ips", "dm", "dr", "dr_os", "switch_dr"), 0.0)
    above = below = 0.0
    for i in range(n):
        w = policy[i][shown[i]] / propensity[i]
        e = sum(p * q for p, q in zip(policy[i], predicted[i], strict=True))
        gap = reward[i] - predicted[i][shown[i]]
        total["ips"] += w * reward[i] / n
        total["clipped_ips"] += (w if w < clip else clip) * reward[i] / n
        total["dm"] += e / n
        total["dr"] += (e + w * gap) / n
        total["dr_os"] += (e + shrinkage / (w**2 + shrinkage) * w * gap) / n
        total["switch_dr"] += (e + (w * gap if w <= most else 0.0)) / n
        above, below = above + w * reward[i], below + w
    return total | {"snips": above / below}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_values_are_those_of_explicit_loops(seed):
    world = World(seed)
    c, shown, reward = world.draw(150)
    guess = np.where(world.mask, np.random.default_rng(seed).random(world.chance.shape), 0)
    policy, propensity = world.policy[c], world.logging[c, shown]
    expected = loops(policy, shown, propensity, reward, guess[c], 1.3, 0.7, 1.1)
    found = world.judge(c, shown, reward, guess, clip=1.3)
    rows = np.arange(len(c))
    w, residual = policy[rows, shown] / propensity, reward - guess[c, shown]
    e = (policy * guess[c]).sum(axis=1)
    root = ope.clipped_ips(w, reward, math.sqrt(150))
    assert world.judge(c, shown, reward, guess)["clipped_ips"].value == root.value  # what is usual
    wild = ope.estimate(policy, world.mask[c], shown, propensity / 1e3, reward, guess[c])["clipped_ips"]
    assert wild.value == pytest.approx(
        np.mean([min(1e3 * each, math.sqrt(150)) * r for each, r in zip(w, reward, strict=True)])
    )
    found["dr_os"] = ope.shrunk_dr(w, residual, e, 0.7)
    found["switch_dr"] = ope.switch_dr(w, residual, e, 1.1)
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-12), name
        assert found[name].scores.mean() == pytest.approx(value, abs=1e-12), name
        assert found[name].ess == pytest.approx(sum(w) ** 2 / sum(x**2 for x in w)), name
        low, high = found[name].low, found[name].high
        if name in ("ips", "clipped_ips"):
            assert low < value < high, name  # not in the middle: tested below
            continue
        assert (low + high) / 2 == pytest.approx(value)
        if name not in ("dr_os", "switch_dr"):
            freedom = 2 * len(c) / (stats.kurtosis(found[name].scores, fisher=False) - 1)
            assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, freedom) * found[name].stderr)


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_the_logging_policy_itself_gets_the_logged_mean(seed):
    world = World(seed)
    c, shown, reward = world.draw(300)
    flat = np.full(world.chance.shape, reward.mean())  # a reward model that knows the mean and nothing else
    found = world.judge(c, shown, reward, flat, policy=world.logging[c])
    assert set(found) == set(ope.ESTIMATORS)
    for name, one in found.items():
        assert one.value == pytest.approx(reward.mean(), abs=1e-12), name
        assert one.ess == pytest.approx(300), name
    for name in ("replay", "ips", "snips", "dr"):
        assert found[name].stderr == pytest.approx(reward.std(ddof=1) / math.sqrt(300)), name


def test_replay_of_a_uniform_log_keeps_where_both_agree():
    rng = np.random.default_rng(0)
    best, shown, reward = rng.integers(0, 5, 2000), rng.integers(0, 5, 2000), rng.random(2000)
    found = ope.replay((best == shown) / 0.2, reward)
    agree = best == shown
    assert found.value == pytest.approx(reward[agree].mean())
    assert found.ess == agree.sum()
    assert found.stderr == pytest.approx(reward[agree].std() / math.sqrt(agree.sum()), rel=0.01)


def test_snips_shifts_with_the_reward_and_its_error_does_not_change():
    world = World(6)
    c, shown, reward = world.draw(400)
    w = world.policy[c, shown] / world.logging[c, shown]
    plain, shifted = ope.snips(w, reward), ope.snips(w, reward - 3)
    assert shifted.value == pytest.approx(plain.value - 3)
    assert shifted.stderr == pytest.approx(plain.stderr)
    assert ope.ips(w, reward - 3).stderr > 1.5 * ope.ips(w, reward).stderr  # what IPS has not


def test_snips_error_is_the_bootstraps():
    world = World(7)
    c, shown, reward = world.draw(800)
    w = world.policy[c, shown] / world.logging[c, shown]
    rows = np.random.default_rng(1).integers(0, 800, (2000, 800))
    again = (w[rows] * reward[rows]).mean(axis=1) / w[rows].mean(axis=1)
    assert ope.snips(w, reward).stderr == pytest.approx(again.std(), rel=0.08)


def judged(seed):
    """LOGS logs of one world: its value, and of every estimator values and stderrs (LOGS,), inside (LOGS,) bool."""
    world = World(seed)
    blurred = np.clip(world.chance + world.rng.normal(0, 0.1, world.chance.shape), 0, 1)
    runs = [world.judge(*world.draw(N), blurred) for _ in range(LOGS)]
    assert np.mean([run["ips"].ess_share for run in runs]) >= ope.LEAST_ESS
    value, stderr, low, high = (
        {name: np.array([getattr(run[name], what) for run in runs]) for name in ope.ESTIMATORS}
        for what in ("value", "stderr", "low", "high")
    )
    inside = {name: (low[name] <= world.value) & (world.value <= high[name]) for name in ope.ESTIMATORS}
    return world, value, stderr, inside


def test_intervals_hold_the_true_value_as_often_as_they_say():
    unbiased, one_sd = ("replay", "ips", "snips", "dr"), math.sqrt(0.95 * 0.05 / LOGS)  # binomial, of LOGS logs: .011
    pooled = dict.fromkeys(unbiased, 0.0)
    for seed in (10, 11, 12):
        world, value, stderr, inside = judged(seed)
        for name in unbiased:
            pooled[name] += inside[name].mean() / 3
            assert inside[name].mean() == pytest.approx(0.95, abs=3 * one_sd), name
            off = 4 * value[name].std() / math.sqrt(LOGS)
            assert value[name].mean() == pytest.approx(world.value, abs=off), name
            assert stderr[name].mean() == pytest.approx(value[name].std(), rel=0.12), name  # 3.4 sd of an sd of LOGS
        for name in ("dr_os", "switch_dr"):  # a little bias for less noise, within the interval of DR
            assert inside[name].mean() == pytest.approx(0.95, abs=3 * one_sd), name
            assert math.sqrt(((value[name] - world.value) ** 2).mean()) < value["dr"].std(), name
    for name, share in pooled.items():
        assert 0.93 <= share <= 0.97, (name, share)  # three sd of all three worlds together: .019


def test_dr_is_right_when_either_model_is_broken():
    world = World(20)
    c, shown, reward = world.draw(20_000)
    nonsense = np.where(world.mask, world.rng.random(world.chance.shape), 0)
    no_log = np.clip(world.logging[c, shown] * world.rng.uniform(0.5, 2.0, len(c)) + 0.1, 0, 1)

    def off(one):
        return abs(one.value - world.value) / one.stderr

    wrong_model = world.judge(c, shown, reward, nonsense)
    assert off(wrong_model["dr"]) < 3
    assert off(wrong_model["dm"]) > 6
    wrong_log = world.judge(c, shown, reward, world.chance, propensity=no_log)
    assert off(wrong_log["dr"]) < 3
    assert off(wrong_log["ips"]) > 6
    both = world.judge(c, shown, reward, nonsense, propensity=no_log)
    assert off(both["dr"]) > 6


def test_shrinkage_and_switch_go_from_the_direct_method_to_dr():
    world = World(21)
    c, shown, reward = world.draw(500)
    guess = world.rng.random(world.chance.shape)
    w = world.policy[c, shown] / world.logging[c, shown]
    residual, e = reward - guess[c, shown], (world.policy[c] * guess[c]).sum(axis=1)
    dm, dr = ope.direct_method(w, e).value, ope.doubly_robust(w, residual, e).value
    assert ope.shrunk_dr(w, residual, e, 0.0).value == pytest.approx(dm)
    assert ope.shrunk_dr(w, residual, e, math.inf).value == pytest.approx(dr)
    assert ope.switch_dr(w, residual, e, 0.0).value == pytest.approx(dm)
    assert ope.switch_dr(w, residual, e, math.inf).value == pytest.approx(dr)
    # a large weight never counts for more than sqrt(lambda) / 2
    assert ope._shrink(np.array([0.1, 2.0, 1e6]), 4.0).max() == pytest.approx(1.0)


def test_shrinkage_helps_where_weights_are_wild():
    errors = {name: [] for name in ("ips", "dr", "dr_os", "switch_dr")}
    for seed in range(6):
        world = World(30 + seed, items=12, sharpness=4.0)
        world.logging = world.softmax(-5 * world.chance)  # the log avoids what the policy likes
        blurred = np.clip(world.chance + world.rng.normal(0, 0.05, world.chance.shape), 0, 1)
        for _ in range(25):
            found = world.judge(*world.draw(300), blurred)
            for name, each in errors.items():
                each.append(found[name].value - world.value)
    rmse = {name: math.sqrt(np.mean(np.square(each))) for name, each in errors.items()}
    assert rmse["dr_os"] < 0.9 * rmse["dr"], rmse
    assert rmse["switch_dr"] < 0.9 * rmse["dr"], rmse
    assert rmse["dr"] < rmse["ips"], rmse


def test_intervals_widen_where_one_request_makes_the_variance():
    scores = np.zeros(1000)
    scores[3] = 1.0
    one = ope.direct_method(np.ones(1000), scores)
    assert one.high - one.value == pytest.approx(stats.t.ppf(0.975, 2) * one.stderr, rel=0.01)  # 4.3, not 1.96
    same = ope.direct_method(np.ones(10), np.ones(10))
    assert (same.low, same.high) == (1, 1)


def pivot(t, scores):
    """Hall's transformation of t = (mean - truth) / stderr, as his paper has it."""
    lean = stats.skew(scores) / math.sqrt(len(scores))
    return t + lean * t**2 / 3 + lean**2 * t**3 / 27 + lean / 6


@pytest.mark.parametrize(("seed", "n", "sign"), [(0, 40, 1), (1, 300, 1), (2, 300, -1), (3, 2000, 1)])
def test_the_interval_of_ips_ends_where_halls_transformation_is_the_quantile(seed, n, sign):
    reward = sign * np.random.default_rng(seed).exponential(size=n) ** 1.5
    one = ope.ips(np.ones(n), reward)
    quantile = stats.t.ppf(0.975, 2 * n / (stats.kurtosis(reward, fisher=False) - 1))
    ends = [optimize.brentq(lambda t, end=end: pivot(t, reward) - end, -60, 60) for end in (quantile, -quantile)]
    found = (one.value - one.low) / one.stderr, (one.value - one.high) / one.stderr
    assert found == pytest.approx(ends, abs=1e-9)
    further = (one.high - one.value) / (one.value - one.low)
    assert further**sign > 1.1


def test_the_interval_of_ips_is_the_usual_one_where_rewards_do_not_lean():
    half = np.random.default_rng(4).exponential(size=500)
    even = np.concatenate([5 + half, 5 - half])
    one, usual = ope.ips(np.ones(1000), even), ope.direct_method(np.ones(1000), even)
    assert (one.low, one.high) == pytest.approx((usual.low, usual.high), rel=1e-9)
    near = even + 1e-3 * np.eye(1000)[0]  # leans by next to nothing
    assert ope.ips(np.ones(1000), near).high == pytest.approx(ope.direct_method(np.ones(1000), near).high, rel=1e-5)
    lean = np.concatenate([half, np.zeros(100)])
    up, down = ope.ips(np.ones(600), lean), ope.ips(np.ones(600), -lean)
    assert (down.low, down.high) == pytest.approx((-up.high, -up.low))


def test_the_interval_of_ips_is_near_the_bootstraps_t():
    rng = np.random.default_rng(5)
    reward = rng.lognormal(size=400)
    one = ope.ips(np.ones(400), reward)
    again = reward[rng.integers(0, 400, (20_000, 400))]
    t = (again.mean(axis=1) - one.value) / (again.std(axis=1, ddof=1) / 20)
    low, high = one.value - one.stderr * np.quantile(t, 0.975), one.value - one.stderr * np.quantile(t, 0.025)
    plain = ope.direct_method(np.ones(400), reward)
    assert abs(one.high - high) < 0.5 * abs(plain.high - high)
    assert abs(one.low - low) < 0.5 * abs(plain.low - low)


def test_the_interval_of_ips_holds_the_mean_of_rewards_that_lean():
    rng, missed = np.random.default_rng(6), {"ips": np.zeros(2), "usual": np.zeros(2)}
    draws = [(rng.exponential(size=40), 1.0) for _ in range(2000)]
    draws += [(rng.lognormal(size=400), math.exp(0.5)) for _ in range(2000)]
    for scores, mean in draws:
        ones = np.ones(len(scores))
        for name, one in (("ips", ope.ips(ones, scores)), ("usual", ope.direct_method(ones, scores))):
            missed[name] += np.array([mean > one.high, mean < one.low]) / len(draws)
    assert missed["ips"].sum() == pytest.approx(0.05, abs=0.012)  # 3.5 binomial deviations
    assert missed["usual"][0] > missed["ips"][0] + 0.01
    assert missed["usual"][1] < 0.01 < missed["ips"][1]


def test_few_effective_requests_are_said():
    w = np.full(1000, 1e-3)
    w[0] = 1000.0
    found = ope.ips(w, np.ones(1000))
    assert found.ess == pytest.approx(1, rel=0.01)
    assert found.unreliable == (
        "its effective sample size is 1.0 of 1,000 requests (0.10%); under 10% it is not to be believed"
    )
    assert ope.ips(np.ones(1000), np.ones(1000)).unreliable is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"propensity": np.array([0.5, 0.0])}, "propensity"),
        ({"propensity": np.array([0.5, np.nan])}, "propensity"),
        ({"shown": np.array([0, 2])}, "none of its request's candidates"),
        ({"policy": np.array([[0.5, 0.5, 0], [0.6, 0.6, 0]])}, "sum to 1"),
        ({"policy": np.array([[0.5, 0.0, 0.5], [0.5, 0.5, 0]])}, "sum to 1"),  # half of it on no candidate
        ({"policy": np.array([[1.5, -0.5, 0], [0.5, 0.5, 0]])}, "negative"),
        ({"policy": np.array([[np.nan, 0.5, 0], [0.5, 0.5, 0]])}, "negative"),
        ({"reward": np.array([1.0, np.inf])}, "reward"),
    ],
)
def test_what_is_no_log_is_refused(wrong, said):
    given = {
        "policy": np.full((2, 3), [0.5, 0.5, 0.0]),
        "mask": np.full((2, 3), [True, True, False]),
        "shown": np.array([0, 1]),
        "propensity": np.array([0.5, 0.5]),
        "reward": np.array([0.0, 1.0]),
        "predicted": np.zeros((2, 3)),
    }
    ope.estimate(**given)
    with pytest.raises(ValueError, match=said):
        ope.estimate(**{**given, **wrong})


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1])
def test_requests_that_all_say_the_same_say_nothing_of_their_spread(reward):
    rng = np.random.default_rng(0)
    pi = rng.dirichlet(np.ones(3), 50)
    given = {
        "policy": pi, "mask": np.ones((50, 3), bool), "shown": rng.integers(3, size=50),
        "propensity": np.full(50, 1 / 3), "reward": np.full(50, reward), "predicted": np.full((50, 3), reward),
    }  # fmt: skip
    for name, one in ope.estimate(**given).items():
        bare = reward == 0 or not name.endswith("ips") or name == "snips"  # weights that vary have a spread
        assert (one.stderr is None) == (one.low is None) == (one.high is None) == bare, name
        assert one.value == pytest.approx(reward, abs=1e-12 if bare else 3 * one.stderr)
    one_off = ope.estimate(**{**given, "reward": np.where(np.arange(50) == 7, reward + 1, reward)})
    assert all(one.stderr for name, one in one_off.items() if name not in ("replay", "dm"))


def test_edges():
    one = ope.ips(np.ones(1), np.ones(1))
    assert (one.value, one.stderr, one.low) == (1, None, None)
    nothing = ope.snips(np.zeros(4), np.ones(4))
    assert math.isnan(nothing.value)
    assert nothing.unreliable
    alone = ope.snips(np.array([0.0, 2.0, 0.0]), np.array([0.0, 1.0, 0.0]))
    assert (alone.value, alone.stderr, alone.ess) == (1, None, 1)
    assert ope.effective_sample_size(np.zeros(4)) == 0
    with pytest.raises(ValueError, match="no request"):
        ope.check(*(np.zeros((0, 2)),) * 2, *(np.zeros(0),) * 3, np.zeros((0, 2)))
