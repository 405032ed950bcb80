"""Hugging Face folders in both directions, and old checkpoints, against transformers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recsysml.data.tokenizers import bytes_tokenizer, train_bpe
from recsysml.errors import ConfigError
from recsysml.models.gpt import GPT, resolve_size
from recsysml.models.hf_gpt2 import load_hf_folder, save_hf_folder
from recsysml.models.hf_tokenizer import merge_list
from recsysml.models.init_from import load_initial_weights, read_tensors, stored_dimensions
from recsysml.schemas.models import GPTConfig

transformers = pytest.importorskip("transformers")

VOCABULARY = 101
TINY = {"size": "nano", "n_layers": 2, "n_heads": 4, "d_model": 32, "context_length": 24}
MODERN = {"position": "rope", "norm": "rmsnorm", "mlp": "swiglu", "bias": False}


def make(vocabulary: int = VOCABULARY, **overrides: Any) -> GPT:
    torch.manual_seed(0)
    model = GPT(GPTConfig(**(TINY | overrides)), vocabulary)
    with torch.no_grad():  # norms and biases away from 1 and 0, and logits away from uniform
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def theirs(**settings: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_layer=2, n_head=4, n_embd=32, n_positions=24, initializer_range=0.2, **settings
    )
    return transformers.GPT2LMHeadModel(config).eval()


def tokens() -> Tensor:
    return torch.randint(VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(1))


def agree(ours: GPT, other: Any) -> None:
    with torch.no_grad():
        torch.testing.assert_close(ours.eval().logits(tokens()), other(tokens()).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("tied", [True, False])
def test_gpt2_from_transformers(tmp_path: Path, shards: bool, tied: bool) -> None:
    other = theirs(tie_word_embeddings=tied)
    other.save_pretrained(tmp_path, max_shard_size="20KB" if shards else "1GB")
    assert (tmp_path / "model.safetensors.index.json").is_file() == shards
    model, report = load_hf_folder(tmp_path)
    assert report.complete, report
    agree(model, other)


CASES: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {}),
    ("gpt2", {"tie_embeddings": False}),
    ("gpt2", {"bias": False}),
    ("llama", MODERN),
    ("llama", MODERN | {"bias": True}),
    ("llama", MODERN | {"n_kv_heads": 2, "tie_embeddings": False, "rope_theta": 500.0}),
    ("qwen3", MODERN | {"qk_norm": True}),
    ("qwen3", MODERN | {"qk_norm": True, "n_kv_heads": 1}),
]


@pytest.mark.parametrize(("architecture", "overrides"), CASES, ids=str)
def test_to_transformers_and_back(tmp_path: Path, architecture: str, overrides: dict[str, Any]) -> None:
    model = make(**overrides)
    assert save_hf_folder(model, tmp_path) == architecture
    other, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(other).__name__.lower().startswith(architecture)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    agree(model, other.eval())
    back, report = load_hf_folder(tmp_path)
    assert report.complete
    with torch.no_grad():
        torch.testing.assert_close(back.eval().logits(tokens()), model.logits(tokens()), atol=1e-6, rtol=0)
    assert back.counted_parameters()["total"] >= model.counted_parameters()["total"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"position": "rope"}, "not this mixture"),
        ({"qk_norm": True}, "not this mixture"),
        ({"n_kv_heads": 2}, "not this mixture"),
        ({"n_experts": 2}, "mixture of experts"),
        (MODERN | {"qk_norm": True, "bias": True}, "Qwen3"),
    ],
)
def test_what_transformers_cannot_hold_is_said_in_a_line(
    tmp_path: Path, overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        save_hf_folder(make(**overrides), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("activation_function", "gelu"),
        ("layer_norm_epsilon", 1e-6),
        ("scale_attn_by_inverse_layer_idx", True),
        ("n_inner", 99),
        ("model_type", "opt"),
    ],
)
def test_another_computation_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    theirs().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(ConfigError, match=str(value)):
        load_hf_folder(tmp_path)


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
def test_the_exported_tokenizer_is_the_same(tmp_path: Path, kind: str) -> None:
    text = "def loss(x, y):\n    return (x - y) ** 2  # the loss, the loss: ünïcode too, 世界\n" * 20
    tokenizer = train_bpe([text], 300) if kind == "bpe" else bytes_tokenizer()
    save_hf_folder(make(tokenizer.vocab_size), tmp_path, tokenizer)
    other = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for sample in (text, " the  loss\n\n  is 3.14!", "", "naïve 世"):
        assert other.encode(sample) == tokenizer.encode(sample)
        assert other.decode(tokenizer.encode(sample)) == sample
    assert other.eos_token_id == tokenizer.eot
    assert len(other) == tokenizer.vocab_size


def test_merges_are_found_again() -> None:
    tokens = [b"a", b"b", b"c", b"ab", b"abc", b"cab", b"abcab"]
    expected = [(b"a", b"b"), (b"ab", b"c"), (b"c", b"ab"), (b"abc", b"ab")]
    assert merge_list(tokens) == expected
    with pytest.raises(ValueError, match="byte-pair"):
        merge_list([b"a", b"b", b"aba"])


def old_checkpoint(path: Path) -> GPT:
    """As older training scripts wrote them: matrices (out, in), padded rows, the prefix of a compiled model."""
    model = make()
    save_hf_folder(model, path.parent / "folder")
    import safetensors.torch

    state = safetensors.torch.load_file(path.parent / "folder" / "model.safetensors")
    state = {k: v.T.contiguous() if ".c_" in k and v.ndim == 2 else v for k, v in state.items()}
    table = state["transformer.wte.weight"]
    state["transformer.wte.weight"] = torch.cat([table, torch.randn(27, 32)])  # 128 rows, as padded here
    state["lm_head.weight"] = state["transformer.wte.weight"]
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 24, 24)
    arguments = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 24, "vocab_size": 128}
    torch.save({"model": {f"_orig_mod.{k}": v for k, v in state.items()}, "model_args": arguments, "step": 3}, path)
    return model


def test_old_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    model = old_checkpoint(path)
    assert resolve_size(GPTConfig(init_from=str(path)), on_gpu=True).d_model == 32
    fresh = GPT(resolve_size(GPTConfig(init_from=str(path)), on_gpu=False), VOCABULARY).eval()
    report = load_initial_weights(fresh, path)
    assert report.complete, report
    with torch.no_grad():
        torch.testing.assert_close(fresh.logits(tokens()), model.logits(tokens()), atol=1e-6, rtol=0)


class Surprise:
    def __reduce__(self) -> Any:
        return (print, ("this ran",))


def test_pickled_objects_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"model": {}, "config": Surprise()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="could run code"):
        load_hf_folder(tmp_path)
    assert "this ran" not in capsys.readouterr().out


def test_a_plain_pytorch_model_bin_is_read(tmp_path: Path) -> None:
    other = theirs()
    other.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(other.state_dict(), tmp_path / "pytorch_model.bin")
    agree(load_hf_folder(tmp_path)[0], other)


def test_the_report_names_what_did_not_fit(tmp_path: Path) -> None:
    theirs().save_pretrained(tmp_path)
    modern = GPT(GPTConfig(**(TINY | {"position": "rope", "qk_norm": True, "n_kv_heads": None})), VOCABULARY)
    report = load_initial_weights(modern, tmp_path)
    assert report.unexpected == ["position_embedding.weight"]
    assert report.missing == [f"blocks.{i}.attention.{n}_norm.weight" for i in (0, 1) for n in ("query", "key")]
    assert "missing (4): blocks.0.attention.query_norm.weight" in str(report)
    shorter = GPT(GPTConfig(**(TINY | {"context_length": 10})), VOCABULARY)
    assert "from 24 to 10 positions" in str(load_initial_weights(shorter, tmp_path))


@pytest.mark.parametrize(("overrides", "vocabulary"), [({"d_model": 64}, VOCABULARY), ({}, 90), ({}, 400)])
def test_other_shapes_are_refused_with_the_right_ones(
    tmp_path: Path, overrides: dict[str, Any], vocabulary: int
) -> None:
    theirs().save_pretrained(tmp_path)
    model = GPT(GPTConfig(**(TINY | overrides)), vocabulary)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError, match=r"model.n_layers=2 model.n_heads=4 model.d_model=32") as caught:
        load_initial_weights(model, tmp_path)
    assert "mismatched" in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_paths_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_tensors(tmp_path / "no")
    with pytest.raises(ConfigError, match="no model"):
        read_tensors(tmp_path)
    with pytest.raises(ConfigError, match="neither"):
        stored_dimensions(tmp_path)
