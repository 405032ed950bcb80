"""The sampled losses against the full softmax, explicit loops and what theory says of their gradients."""

import math

import pytest
import torch
import torch.nn.functional as F

from recsysml.losses.gbce import gbce
from recsysml.losses.sampled_softmax import draw, excluded, hardest, sampled_softmax


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def setting(n_rows=5, n_items=30, width=6):
    """Queries, item vectors, targets and a skewed probability of each item."""
    queries, items = torch.randn(n_rows, width), torch.randn(n_items, width)
    probability = (1 / torch.arange(1, n_items + 1)).div((1 / torch.arange(1, n_items + 1)).sum())
    return queries, items, torch.randint(n_items, (n_rows,)), probability


def of_candidates(queries, items, targets, candidates, **more):
    positive = (queries * items[targets]).sum(dim=1)
    out = excluded(candidates.ids, targets)
    return sampled_softmax(positive, queries @ items[candidates.ids].T, candidates.log_expected, out, **more)


@pytest.mark.parametrize("seed", range(3))
def test_a_sample_of_all_items_is_the_full_softmax(seed):
    torch.manual_seed(seed)
    queries, items, targets, _ = setting()
    everything = draw(len(items), hard=torch.randperm(len(items)))
    loss = of_candidates(queries, items, targets, everything)
    torch.testing.assert_close(loss, F.cross_entropy(queries @ items.T, targets))


def gradient(queries, items, targets, candidates, **more):
    items = items.clone().requires_grad_()
    return torch.autograd.grad(of_candidates(queries, items, targets, candidates, **more), items)[0]


@pytest.mark.parametrize("source", ["uniform", "in_batch", "mixed", "hard"])
def test_the_corrected_gradient_goes_to_the_full_one_as_the_sample_grows(source):
    """Draws from each source; the wrong sign, and no correction where draws are skewed, stay away from it."""
    queries, items, targets, probability = setting()
    wanted = items.clone().requires_grad_()
    full = torch.autograd.grad(F.cross_entropy(queries @ wanted.T, targets), wanted)[0]

    def error(n, sign=-1.0):
        batch = torch.multinomial(probability, n, replacement=True)
        sources = {
            "uniform": {"uniform": n},
            "in_batch": {"in_batch": n, "batch_items": batch, "probability": probability},
            "mixed": {"uniform": n // 2, "in_batch": n // 2, "batch_items": batch, "probability": probability},
            "hard": {"uniform": n, "hard": hardest(queries, items, 5)},
        }
        candidates = draw(len(items), **sources[source])
        candidates = candidates._replace(log_expected=-sign * candidates.log_expected)
        found = gradient(queries, items, targets, candidates)
        return float((found - full).norm() / full.norm())

    few, many = (sum(error(n) for _ in range(8)) / 8 for n in (200, 20_000))
    assert many < 0.2 * few  # a tenth is expected of a hundred times the sample
    assert many < 0.05
    if source in ("in_batch", "mixed"):
        assert error(20_000, sign=0.0) > 4 * many
        assert error(20_000, sign=1.0) > error(20_000, sign=0.0)


def test_correcting_the_target_too_has_its_optimum_at_the_true_probabilities():
    """Ma & Collins 2018: the expected gradient at logits = log p is 0, for however few draws, repeats kept.

    The expectation is over all targets and all pairs of draws, by enumeration.
    """
    n_items = 5
    p = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
    q = torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15])

    def expected_gradient(correct_target):
        logits = p.log().clone().requires_grad_()
        total = torch.zeros(())
        for target in range(n_items):
            for a in range(n_items):
                for b in range(n_items):
                    ids = torch.tensor([a, b])
                    loss = sampled_softmax(
                        logits[target][None],
                        logits[ids][None],
                        (2 * q[ids]).log(),
                        torch.zeros(1, 2, dtype=torch.bool),
                        positive_log_expected=(2 * q[target]).log()[None] if correct_target else None,
                    )
                    total = total + p[target] * q[a] * q[b] * loss
        return torch.autograd.grad(total, logits)[0]

    assert expected_gradient(True).abs().max() < 1e-6
    assert expected_gradient(False).abs().max() > 1e-2


@pytest.mark.parametrize("seed", range(3))
def test_the_in_batch_loss_is_an_explicit_loop_with_duplicates_masked(seed):
    torch.manual_seed(seed)
    queries, items, targets, probability = setting(n_rows=12, n_items=8)
    assert len(set(targets.tolist())) < len(targets)
    candidates = draw(len(items), in_batch=12, batch_items=targets, probability=probability)
    losses = []
    for i in range(12):
        own = float(queries[i] @ items[targets[i]])
        total = math.exp(own)
        for j in range(12):
            if targets[j] != targets[i]:
                total += math.exp(float(queries[i] @ items[targets[j]])) / (12 * float(probability[targets[j]]))
        losses.append(math.log(total) - own)
    assert float(of_candidates(queries, items, targets, candidates)) == pytest.approx(sum(losses) / 12, rel=1e-5)


def test_the_order_of_rows_and_candidates_does_not_matter():
    queries, items, targets, probability = setting(n_rows=7)
    candidates = draw(len(items), uniform=9, in_batch=7, batch_items=targets, probability=probability)
    order, rows = torch.randperm(16), torch.randperm(7)
    turned = candidates._replace(ids=candidates.ids[order], log_expected=candidates.log_expected[order])
    weights = torch.rand(7)
    loss = of_candidates(queries, items, targets, candidates, weights=weights)
    torch.testing.assert_close(of_candidates(queries[rows], items, targets[rows], turned, weights=weights[rows]), loss)


def test_expected_counts_are_the_counts_seen():
    _, items, _, probability = setting()
    n_items, trials = len(items), 4000
    seen = torch.zeros(n_items)
    for _ in range(trials):
        batch = torch.multinomial(probability, 20, replacement=True)
        candidates = draw(n_items, uniform=15, in_batch=10, batch_items=batch, probability=probability)
        assert len(candidates.ids) == 25
        seen += candidates.ids.bincount(minlength=n_items)
        expected = torch.full((n_items,), math.nan).scatter(0, candidates.ids, candidates.log_expected.exp())
        known = ~expected.isnan()
        torch.testing.assert_close(expected[known], (15 / n_items + 10 * probability)[known])
    truth = 15 / n_items + 10 * probability
    assert ((seen / trials - truth).abs() < 4.5 * (truth / trials).sqrt()).all()


def test_what_a_row_is_known_to_like_is_no_negative_of_it():
    ids, targets = torch.tensor([3, 1, 4, 1, 5]), torch.tensor([1, 5, 3])
    known, group = torch.tensor([[3, 4], [4, -1]]), torch.tensor([1, 0, 1])
    assert excluded(ids, targets, known, group).int().tolist() == [[0, 1, 1, 1, 0], [1, 0, 1, 0, 1], [1, 0, 1, 0, 0]]
    assert excluded(ids, targets).int().tolist() == [[0, 1, 0, 1, 0], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0]]


def test_weights_are_taken_in_proportion():
    queries, items, targets, _ = setting(n_rows=3)
    candidates = draw(len(items), uniform=10)
    each = torch.stack([of_candidates(queries[i : i + 1], items, targets[i : i + 1], candidates) for i in range(3)])
    weights = torch.tensor([1.0, 4.0, 0.0])
    for scale in (1, 50):
        found = of_candidates(queries, items, targets, candidates, weights=scale * weights)
        torch.testing.assert_close(found, (each[0] + 4 * each[1]) / 5)


def test_no_candidates_is_an_error():
    with pytest.raises(ValueError, match="no candidates"):
        draw(10)
    with pytest.raises(ValueError, match="probability"):
        draw(10, in_batch=3, batch_items=torch.arange(3))


def test_gbce_without_calibration_is_binary_cross_entropy():
    positive, negative = torch.randn(4), torch.randn(4, 6)
    labels = torch.cat([torch.ones(4, 1), torch.zeros(4, 6)], dim=1)
    plain = F.binary_cross_entropy_with_logits(torch.cat([positive[:, None], negative], dim=1), labels)
    none = torch.zeros(4, 6, dtype=torch.bool)
    torch.testing.assert_close(gbce(positive, negative, none, 50, 0.0), plain)


@pytest.mark.parametrize(("calibration", "calibrated"), [(1.0, True), (0.0, False)])
def test_full_calibration_makes_the_sigmoid_the_probability(calibration, calibrated):
    """Theorem 5 of the paper, by enumeration: at sigmoid = p the expected gradient is 0, but not for plain BCE."""
    p = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
    logits = p.logit().clone().requires_grad_()
    total = torch.zeros(())
    for target in range(5):
        for other in range(5):
            if other != target:  # one negative, drawn evenly from the four others
                loss = gbce(
                    logits[target][None], logits[other][None, None], torch.zeros(1, 1, dtype=torch.bool), 5, calibration
                )
                total = total + p[target] / 4 * loss
    gradient = torch.autograd.grad(total, logits)[0]
    assert (gradient.abs().max() < 1e-6) == calibrated


def test_gbce_leaves_excluded_candidates_out():
    positive, negative = torch.randn(2), torch.randn(2, 3)
    out = torch.tensor([[False, True, False], [True, True, True]])
    changed = torch.where(out, negative + 5, negative)
    torch.testing.assert_close(gbce(positive, negative, out, 20, 0.5), gbce(positive, changed, out, 20, 0.5))
