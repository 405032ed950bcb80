"""Mixers against networks run one by one."""

import pytest
import torch
import torch.nn.functional as F

from recsysml.nn.mixers import Experts, _EachLinear, make_mixer


def alone(experts: Experts, expert: int, x: torch.Tensor) -> torch.Tensor:
    """One expert's output for one row, layer by layer."""
    for weight, bias in zip(experts.weights, experts.biases, strict=True):
        out = len(weight) // experts.n
        part = slice(expert * out, (expert + 1) * out)
        x = F.relu(weight[part] @ x + bias[part])
    return x


def made(kind, tasks=3, seed=0):
    torch.manual_seed(seed)
    return make_mixer(kind, 6, tasks, [8, 5], n_experts=4, n_task_experts=2)


@pytest.mark.parametrize("widths", [[5], [8, 5], [8, 7, 5]])
def test_experts_together_are_experts_alone(widths):
    torch.manual_seed(1)
    experts = Experts(3, 6, widths)
    x = torch.randn(4, 6)
    found = experts(x)
    for row in range(4):
        for expert in range(3):
            torch.testing.assert_close(found[row, expert], alone(experts, expert, x[row]))


@pytest.mark.parametrize(("seed", "widths"), [(0, [5]), (1, [8, 5]), (2, [8, 7, 5])])
def test_their_gradients_are_those_of_experts_alone(seed, widths):
    torch.manual_seed(seed)
    experts = Experts(3, 6, widths)
    x, above = torch.randn(4, 6, requires_grad=True), torch.randn(4, 3, 5)
    leaves = [x, *experts.parameters()]
    together = torch.autograd.grad(experts(x), leaves, above)
    one_by_one = torch.stack([torch.stack([alone(experts, expert, row) for expert in range(3)]) for row in x])
    for found, expected in zip(together, torch.autograd.grad(one_by_one, leaves, above), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_each_has_its_own_rows_of_a_weight_under_autocast_too(bias, autocast):
    torch.manual_seed(4)
    leaves = [torch.randn(11, 3, 6), torch.randn(15, 6), *([torch.randn(15)] if bias else [])]
    above, found = torch.randn(11, 15), []
    for together in (True, False):
        x, weight, *biases = (leaf.clone().requires_grad_() for leaf in leaves)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            if together:
                out = _EachLinear.apply(x, weight, biases[0] if bias else None)
            else:
                parts = zip(x.unbind(1), weight.chunk(3), biases[0].chunk(3) if bias else [None] * 3, strict=True)
                out = torch.cat([F.linear(*part) for part in parts], dim=1)
        out.backward(above.to(out.dtype))
        found.append([out, *(leaf.grad for leaf in (x, weight, *biases))])
    near = {"atol": 0.05, "rtol": 0.02} if autocast else {"atol": 1e-5, "rtol": 1e-5}
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **near)


def test_a_biass_gradient_is_a_sum_in_float32():
    """Of 1001 ones: bfloat16 has 1000 and 1008."""
    bias = torch.zeros(2, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        _EachLinear.apply(torch.zeros(1001, 2, 3), torch.zeros(2, 3), bias).sum().backward()
    assert bias.grad.tolist() == [1001, 1001]


@pytest.mark.parametrize("seed", [0, 1])
def test_normed_experts_have_units_of_mean_0_and_deviation_1_over_the_batch(seed):
    torch.manual_seed(seed)
    experts = Experts(3, 6, [8, 5], norm="batch")
    batches = [2 + 3 * torch.randn(16, 6) for _ in range(3)]
    seen = [[(torch.zeros(w), torch.ones(w)) for w in (8, 5)] for _ in range(3)]  # a mean and a variance a unit
    for x in batches:
        found = experts(x)
        for expert in range(3):
            own = x
            for layer, weight in enumerate(experts.weights):
                own = own @ weight.view(3, -1, weight.shape[1])[expert].t()
                mean, variance = own.mean(dim=0), own.var(dim=0, correction=0)
                old = seen[expert][layer]
                seen[expert][layer] = 0.9 * old[0] + 0.1 * mean, 0.9 * old[1] + 0.1 * own.var(dim=0)
                own = ((own - mean) / (variance + 1e-5).sqrt()).relu()
            torch.testing.assert_close(found[:, expert], own, atol=1e-4, rtol=1e-4)
    experts.eval()
    for row in batches[0][:3]:  # alone, by what training has seen
        found = experts(row[None])[0]
        for expert in range(3):
            own = row
            for (mean, variance), weight in zip(seen[expert], experts.weights, strict=True):
                own = weight.view(3, -1, weight.shape[1])[expert] @ own
                own = ((own - mean) / (variance + 1e-5).sqrt()).relu()
            torch.testing.assert_close(found[expert], own, atol=1e-4, rtol=1e-4)


def test_mmoe_weighs_experts_by_each_tasks_gate():
    mixer = made("mmoe")
    x = torch.randn(5, 6)
    found = mixer(x)
    assert found.shape == (5, 3, 5)
    gates = mixer.gates.weight.view(3, 4, 6)
    for row in range(5):
        each = torch.stack([alone(mixer.experts, expert, x[row]) for expert in range(4)])
        for task in range(3):
            torch.testing.assert_close(found[row, task], (gates[task] @ x[row]).softmax(0) @ each)


def test_a_shared_bottom_gives_every_task_the_same():
    mixer = made("shared_bottom")
    x = torch.randn(5, 6)
    found = mixer(x)
    for task in range(3):
        torch.testing.assert_close(found[2, task], alone(mixer.bottom, 0, x[2]))


def test_ple_is_its_levels_and_a_task_reads_no_others_experts_at_the_last():
    mixer = made("ple", tasks=2)
    x = torch.randn(3, 6)
    found = mixer(x)
    for row in range(3):
        tasks, shared = [x[row], x[row]], x[row]
        for level in range(2):
            common = [alone(mixer.shared[level], expert, shared) for expert in range(4)]
            own = [[alone(mixer.own[level][t], expert, tasks[t]) for expert in range(2)] for t in range(2)]
            new = [mixer.gates[level][t](tasks[t]).softmax(0) @ torch.stack([*own[t], *common]) for t in range(2)]
            if level == 0:
                everyone = torch.stack([*own[0], *own[1], *common])
                shared = mixer.shared_gates[0](shared).softmax(0) @ everyone
            tasks = new
        torch.testing.assert_close(found[row], torch.stack(tasks))
    before = found[:, 0].clone()
    with torch.no_grad():
        mixer.own[1][1].weights[0] += 1.0
    assert torch.equal(mixer(x)[:, 0], before)
    assert not torch.equal(mixer(x)[:, 1], found[:, 1])


@pytest.mark.parametrize("kind", ["shared_bottom", "mmoe", "ple"])
def test_every_task_reaches_the_shared_weight(kind):
    mixer = made(kind)
    assert mixer.width == 5
    for task in range(3):
        (gradient,) = torch.autograd.grad(mixer(torch.randn(9, 6))[:, task].sum(), mixer.shared_weight())
        assert gradient.abs().sum() > 0
