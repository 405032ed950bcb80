"""GPT: the contract under every switch, GPT-2's exact size, padding, sizes, compilation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from recsysml.errors import ConfigError
from recsysml.models.gpt import GPT, resolve_size
from recsysml.schemas.models import SIZES, GPTConfig
from tests.models import contract

ROOT = Path(__file__).resolve().parents[2]
TINY = {"size": "nano", "n_layers": 2, "n_heads": 4, "d_model": 32, "context_length": 16}
YAMLS = ("gpt2", "gpt2_modern")
SWITCHES: list[dict[str, Any]] = [
    {},
    {"position": "rope"},
    {"position": "learned"},
    {"norm": "rmsnorm"},
    {"norm": "layernorm"},
    {"mlp": "swiglu"},
    {"mlp": "gelu"},
    {"qk_norm": True},
    {"qk_norm": False},
    {"n_kv_heads": 2},
    {"n_experts": 4},
    {"n_experts": 4, "n_experts_per_token": 1},
    {"bias": False},
    {"bias": True},
    {"tie_embeddings": False},
    {"attention": "sdpa"},
]
CASES = [pytest.param(name, switch, id=f"{name}-{switch}") for name in YAMLS for switch in SWITCHES]
VOCABULARY = 11


def config_of(name: str, **overrides: Any) -> GPTConfig:
    content = yaml.safe_load((ROOT / "conf" / "model" / f"{name}.yaml").read_text())
    del content["defaults"]
    return GPTConfig(**(content | TINY | overrides))


def batch(length: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(VOCABULARY, (4, length + 1), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


def logits_of(model: nn.Module, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model.logits(tokens)  # type: ignore[operator, no-any-return]


def loss_of(model: nn.Module) -> Tensor:
    return model(*batch()).loss  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", YAMLS)
def test_the_yaml_lists_every_field(name: str) -> None:
    path = ROOT / "conf" / "model" / f"{name}.yaml"
    content = yaml.safe_load(path.read_text())
    assert set(content) - {"defaults"} == {field.name for field in dataclasses.fields(GPTConfig)}
    assert path.read_text().startswith("# ")
    assert content["name"] == name


@pytest.mark.parametrize(("name", "switch"), CASES)
def test_contract(name: str, switch: dict[str, Any]) -> None:
    config = config_of(name, **switch)

    def make() -> GPT:
        return GPT(config, VOCABULARY)

    tokens, _ = batch()
    contract.check_causality(make, logits_of, tokens)
    contract.check_determinism(make, loss_of)
    contract.check_gradients(make, loss_of)
    contract.check_state_dict(make, logits_of, tokens)
    model = make()
    tables = [model.token_embedding.weight]
    tables += [model.position_embedding.weight] if model.position_embedding is not None else []
    tables += [model.head.weight] if model.head is not None else []
    contract.check_hidden_matrices(model, tables)


def test_gpt2_has_exactly_its_parameters() -> None:
    published = {"small": 124_439_808, "medium": 354_823_168, "large": 774_030_080, "xl": 1_557_611_200}
    with torch.device("meta"):
        for size, total in published.items():
            model = GPT(GPTConfig(size=size), 50257)
            assert model.counted_parameters()["total"] == total
            assert model.padded_vocab_size == 50304


@pytest.mark.parametrize("size", list(SIZES))
def test_modern_is_as_large_as_gpt2_at_every_size(size: str) -> None:
    own = {"n_layers": None, "n_heads": None, "d_model": None, "context_length": None, "size": size}
    with torch.device("meta"):
        classic, modern = (GPT(config_of(name, **own), 50257).counted_parameters() for name in YAMLS)
    assert abs(modern["non_embedding"] / classic["non_embedding"] - 1) < 0.01
    assert classic["non_embedding"] == 12 * (n := SIZES[size])[0] * n[2] ** 2 + (13 * n[0] + 2) * n[2]


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("chunk", [0, 5])
def test_padded_rows_change_nothing(tie: bool, chunk: int) -> None:
    padded = GPT(config_of("gpt2_modern", tie_embeddings=tie, pad_vocab_to=64), VOCABULARY)
    plain = GPT(config_of("gpt2_modern", tie_embeddings=tie, pad_vocab_to=1), VOCABULARY)
    state = {n: t[:VOCABULARY] if n.startswith(("token_emb", "head")) else t for n, t in padded.state_dict().items()}
    plain.load_state_dict(state)
    with torch.no_grad():  # were they to count, it would show
        for name, parameter in padded.named_parameters():
            if name.startswith(("token_emb", "head")):
                parameter[VOCABULARY:] = 50.0
    tokens, targets = batch()
    ours, theirs = padded(tokens, targets, loss_chunk=chunk), plain(tokens, targets)
    torch.testing.assert_close(ours.loss, theirs.loss)
    ours.loss.backward()
    theirs.loss.backward()
    grads = dict(plain.named_parameters())
    for name, parameter in padded.named_parameters():
        expected = grads[name].grad
        torch.testing.assert_close(parameter.grad[: len(expected)], expected, atol=1e-6, rtol=1e-4)
        assert not parameter.grad[len(expected) :].any()
    assert padded.logits(tokens).shape == (4, 9, VOCABULARY)
    assert padded.counted_parameters() == plain.counted_parameters()


def test_the_losses_agree() -> None:
    model = GPT(config_of("gpt2", n_experts=4), VOCABULARY).eval()
    tokens, targets = batch()
    targets = targets.clone()
    targets[0, 3:] = -100
    output = model(tokens, targets)
    each = model.token_losses(tokens, targets)
    assert not each[0, 3:].any()
    torch.testing.assert_close(output.cross_entropy, each.sum() / (targets != -100).sum())
    assert output.loss > output.cross_entropy  # the routers' share
    assert output.logits is None
    torch.testing.assert_close(model(tokens).logits, model.logits(tokens))
    assert model.logits(tokens).dtype == torch.float32


def test_initial_weights() -> None:
    torch.manual_seed(0)
    model = GPT(config_of("gpt2_modern", d_model=128, n_layers=8), 500)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            expected = 0.02 / 4 if name.endswith(".out.weight") else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
    model = GPT(config_of("gpt2"), VOCABULARY)
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith("bias"))


def bytes_kept(work: Callable[[], Tensor]) -> int:
    """What `work` keeps for its backward pass, each storage once, parameters and all."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        work().backward()
    return sum(kept.values())


@pytest.mark.parametrize("name", YAMLS)
def test_gradient_checkpointing_keeps_less_and_changes_no_gradient(name: str) -> None:
    model = contract.made(lambda: GPT(config_of(name, n_experts=4, n_layers=4), VOCABULARY))
    parameters = sum(p.numel() * 4 for p in model.parameters())
    grads, kept = [], []
    for switch in (False, True):
        model.gradient_checkpointing = switch
        model.zero_grad()
        kept.append(bytes_kept(lambda: loss_of(model)))
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)
    assert kept[0] > parameters
    assert kept[1] < kept[0] / 4


def test_a_loss_in_rows_keeps_no_logits() -> None:
    vocabulary = 5000
    model = contract.made(lambda: GPT(config_of("gpt2"), vocabulary))
    logits = 4 * 9 * vocabulary * 4  # bytes
    whole = bytes_kept(lambda: model(*batch()).loss)
    rows = bytes_kept(lambda: model(*batch(), loss_chunk=4).loss)
    assert whole - rows > 0.9 * logits


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("name", "overrides"), [("gpt2", {}), ("gpt2_modern", {"n_experts": 4, "n_kv_heads": 2})], ids=str
)
def test_the_graph_is_whole(name: str, overrides: dict[str, Any], bf16: bool) -> None:
    torch.compiler.reset()
    model = contract.made(lambda: GPT(config_of(name, **overrides), VOCABULARY))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        expected = model(*batch()).loss
        torch._dynamo.reset()  # tests of one process share the limit on recompilations of a function
        compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")
        torch.testing.assert_close(compiled(*batch()).loss, expected)
        torch.testing.assert_close(compiled(*batch(), loss_chunk=12).loss, expected)


@pytest.mark.parametrize("experts", [0, 4])
@pytest.mark.parametrize("name", YAMLS)
def test_in_bfloat16_products_are_short_and_the_loss_is_whole(name: str, experts: int) -> None:
    model = contract.made(lambda: GPT(config_of(name, n_experts=experts), VOCABULARY))
    exact = model(*batch()).loss
    products: set[torch.dtype] = set()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda module, given, output: products.add(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model)
        rows = model(*batch(), loss_chunk=5).loss
        logits = model.logits(batch()[0])
    assert products == {torch.bfloat16}
    assert loss.dtype == rows.dtype == logits.dtype == torch.float32
    assert 0 < abs(loss.item() - exact.item()) < 5e-3
    assert rows.item() == pytest.approx(loss.item(), abs=1e-5)
    loss.backward()
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}


def test_sizes() -> None:
    assert resolve_size(GPTConfig(), on_gpu=False).size == "nano"
    resolved = resolve_size(GPTConfig(n_layers=3), on_gpu=True)
    assert (resolved.size, resolved.n_layers, resolved.n_heads, resolved.d_model) == ("small", 3, 12, 768)
    assert resolve_size(resolved, on_gpu=False) == resolved
    with pytest.raises(ConfigError, match="resolve"):
        GPT(GPTConfig(), 10)


def test_too_many_tokens() -> None:
    with pytest.raises(ValueError, match="the context is 16"):
        GPT(config_of("gpt2"), VOCABULARY).logits(torch.zeros(1, 17, dtype=torch.long))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"position": "sinus"}, "model.position=sinus: choose one of learned, rope"),
        ({"norm": "rms"}, "model.norm=rms: choose one of layernorm, rmsnorm"),
        ({"mlp": "relu"}, "choose one of gelu, swiglu"),
        ({"attention": "flash"}, "choose one of auto, sdpa, matmul"),
        ({"size": "huge"}, "choose one of nano, micro, small, medium, large, xl, auto"),
        ({"d_model": 250}, "model.d_model=250 is not a multiple"),
        ({"n_kv_heads": 5}, "does not divide model.n_heads=4: use one of 1, 2, 4"),
        ({"size": "small", "n_kv_heads": 5}, "use one of 1, 2, 3, 4, 6, 12"),
        ({"n_experts": 2, "n_experts_per_token": 3}, "use at most 2"),
        ({"n_experts": 1}, "use 0, or at least 2"),
        ({"dropout": 1.0}, "below 1"),
        ({"n_layers": 0}, "at least 1"),
        ({"position": "rope", "d_model": 12, "n_heads": 4}, "even head width"),
    ],
)
def test_mistakes_are_told_with_their_mend(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GPTConfig(**fields).validate()


def test_flops_by_hand() -> None:
    model = GPT(config_of("gpt2"), VOCABULARY)
    weights = model.counted_parameters()["non_embedding"] + VOCABULARY * 32
    assert model.flops_per_token() == 6 * weights + 12 * 2 * 32 * 16
    dense = GPT(config_of("gpt2_modern"), VOCABULARY)
    sparse = GPT(config_of("gpt2_modern", n_experts=8, n_experts_per_token=1), VOCABULARY)
    assert sparse.flops_per_token() == dense.flops_per_token() + 6 * 2 * 8 * 32  # one expert's work, and two routers
