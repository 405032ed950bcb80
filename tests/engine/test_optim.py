import pytest
import torch

from recsysml.engine import optim
from recsysml.engine.muon import Muon, orthogonalise
from recsysml.errors import ConfigError

COEFFICIENTS = (3.4445, -4.775, 2.0315)


def test_every_parameter_has_one_place_and_decay_falls_on_matrices_only(tiny):
    model = tiny.Model()
    for name in ("adamw", "muon"):
        optimizers = optim.build(model, tiny.config(optimizer=name), bf16=False)
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        places = [id(p) for group in groups for p in group["params"]]
        assert sorted(places) == sorted(id(p) for p in model.parameters())
        for group in groups:
            assert {p.ndim >= 2 for p in group["params"]} == {group["weight_decay"] > 0}
    assert [p.shape for p in optimizers[1].param_groups[0]["params"]] == [model.hidden.weight.shape]


def test_without_a_decay_adamw_has_one_group(tiny):
    model = tiny.Model()
    (optimizer,) = optim.build(model, tiny.config(optimizer="adamw", weight_decay=0.0), bf16=False)
    (group,) = optimizer.param_groups
    assert sorted(map(id, group["params"])) == sorted(map(id, model.parameters()))
    assert group["weight_decay"] == 0


def test_fused_is_the_same_update(tiny):
    def trained(fused):
        torch.manual_seed(0)
        model = tiny.Model()
        (optimizer,) = optim.build(model, tiny.config(optimizer="adamw", fused=fused), bf16=False)
        for _ in range(5):
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape)
            optimizer.step()
        assert optimizer.defaults["fused"] is fused
        return [p.detach() for p in model.parameters()]

    for one, other in zip(trained(True), trained(False), strict=True):
        torch.testing.assert_close(one, other)


def test_muon_is_torchs_to_bfloat16_rounding_and_torchs_own_with_bf16():
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(shape, generator=generator) for shape in ((24, 8), (8, 24), (16, 16))]
    gradients = [[torch.randn(s.shape, generator=generator) for s in starts] for _ in range(4)]

    def run(make):
        parameters = [torch.nn.Parameter(s.clone()) for s in starts]
        optimizer = make(parameters)
        for step in gradients:
            for parameter, gradient in zip(parameters, step, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
        return [p.detach() for p in parameters]

    settings = {"lr": 0.1, "weight_decay": 0.1, "momentum": 0.95}
    reference = run(lambda p: torch.optim.Muon(p, adjust_lr_fn="match_rms_adamw", **settings))
    for ours, theirs in zip(run(lambda p: Muon(p, bf16=True, **settings)), reference, strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs, start in zip(run(lambda p: Muon(p, bf16=False, **settings)), reference, starts, strict=True):
        assert (ours - theirs).norm() / (theirs - start).norm() < 0.02


def test_orthogonalise_keeps_the_singular_vectors_and_levels_the_values():
    matrix = torch.randn(12, 30, generator=torch.Generator().manual_seed(3))
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    level = u.T @ orthogonalise(matrix, COEFFICIENTS, 5, 1e-7) @ vt.T  # diagonal if the vectors are kept
    assert (level - torch.diag(level.diagonal())).abs().max() < 1e-4
    # the scalar iteration on each singular value is the independent answer
    x = s / s.norm()
    for _ in range(5):
        x = COEFFICIENTS[0] * x + COEFFICIENTS[1] * x**3 + COEFFICIENTS[2] * x**5
    assert torch.allclose(level.diagonal(), x, atol=1e-4)
    assert torch.allclose(
        orthogonalise(matrix.T, COEFFICIENTS, 5, 1e-7), orthogonalise(matrix, COEFFICIENTS, 5, 1e-7).T
    )


def test_clip_scales_to_the_norm_and_zero_leaves_it():
    parameter = torch.nn.Parameter(torch.zeros(2))
    for limit, expected in ((1.0, 1.0), (10.0, 5.0), (0.0, 5.0)):
        parameter.grad = torch.tensor([3.0, 4.0])
        assert optim.clip([parameter], limit).item() == pytest.approx(5.0)
        assert parameter.grad.norm().item() == pytest.approx(expected, rel=1e-5)


def test_an_unknown_optimizer_is_named(tiny):
    with pytest.raises(ConfigError, match="adamw, muon"):
        optim.build(tiny.Model(), tiny.config(optimizer="sgd"), bf16=False)


def test_what_a_model_calls_quick_has_a_higher_rate_and_no_decay(tiny):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model.quick_parameters = lambda: list(model[1].parameters())
    (optimizer,) = optim.build(model, tiny.config(optimizer="adamw", weight_decay=0.1), bf16=False)
    optim.set_learning_rate([optimizer], 1e-2)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert [found[id(p)] for p in model[1].parameters()] == [(pytest.approx(3e-2), 0.0)] * 2
    assert found[id(model[0].weight)] == (1e-2, 0.1) and found[id(model[0].bias)] == (1e-2, 0.0)
