"""How Hugging Face's GPT-2, Llama and Qwen3 name, shape and configure what a GPT here holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recsysml.errors import ConfigError
from recsysml.nn.mlp import hidden_width
from recsysml.nn.norm import EPSILON
from recsysml.schemas.models import GPTConfig

# (theirs, ours); a block's names follow "h.N." there and "blocks.N." here
_GPT2_TOP = {"wte": "token_embedding", "wpe": "position_embedding", "ln_f": "norm", "lm_head": "head"}
_GPT2_BLOCK = {
    "ln_1": "attention_norm",
    "attn.c_proj": "attention.out",
    "ln_2": "mlp_norm",
    "mlp.c_fc": "mlp.up",
    "mlp.c_proj": "mlp.out",
}
_LLAMA_TOP = {"model.embed_tokens": "token_embedding", "model.norm": "norm", "lm_head": "head"}
_LLAMA_BLOCK = {
    "input_layernorm": "attention_norm",
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.o_proj": "attention.out",
    "self_attn.q_norm": "attention.query_norm",
    "self_attn.k_norm": "attention.key_norm",
    "post_attention_layernorm": "mlp_norm",
    "mlp.gate_proj": "mlp.gate",
    "mlp.up_proj": "mlp.up",
    "mlp.down_proj": "mlp.out",
}
_QKV = ("attention.query", "attention.key", "attention.value")


def to_own_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """GPT-2's and Llama's names and shapes to ours; tensors already ours, or unknown, keep their names."""
    if any(".attn.c_attn." in name for name in tensors):
        return _from_gpt2(tensors)
    if any(".self_attn.q_proj." in name for name in tensors):
        return _rename(tensors, _LLAMA_TOP, _LLAMA_BLOCK, r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
    return tensors


def _from_gpt2(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """GPT-2 keeps its four matrices (in, out), and query, key and value in one. Older codes keep them (out, in).

    Which of the two it is shows in c_attn, (d, 3d) or (3d, d): c_proj is square and could be either.
    """
    tensors = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    fused = next(value for name, value in tensors.items() if name.endswith("attn.c_attn.weight"))
    transposed = fused.shape[0] < fused.shape[1]
    tied = "lm_head.weight" in tensors and torch.equal(tensors["lm_head.weight"], tensors["wte.weight"])
    split: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if re.fullmatch(r"h\.\d+\.attn\.(bias|masked_bias)", name) or (tied and name == "lm_head.weight"):
            continue  # causal masks that old versions stored, and a second copy of the embedding
        if transposed and re.search(r"\.c_(attn|proj|fc)\.weight$", name):
            value = value.T
        if match := re.fullmatch(r"h\.(\d+)\.attn\.c_attn\.(weight|bias)", name):
            for part, piece in zip(_QKV, value.chunk(3), strict=True):
                split[f"blocks.{match[1]}.{part}.{match[2]}"] = piece
        else:
            split[name] = value
    return _rename(split, _GPT2_TOP, _GPT2_BLOCK, r"h\.(\d+)\.(.+)\.(weight|bias)")


def _rename(tensors: dict[str, Tensor], top: dict[str, str], block: dict[str, str], pattern: str) -> dict[str, Tensor]:
    renamed = {}
    for name, value in tensors.items():
        stem, _, leaf = name.rpartition(".")
        match = re.fullmatch(pattern, name)
        if stem in top:
            name = f"{top[stem]}.{leaf}"
        elif match and match[2] in block:
            name = f"blocks.{match[1]}.{block[match[2]]}.{match[3]}"
        renamed[name] = value
    return renamed


def to_hf_names(tensors: dict[str, Tensor], architecture: str) -> dict[str, Tensor]:
    """Our tensors under Hugging Face's names, contiguous. `architecture` as `choose_architecture` gave it."""
    gpt2 = architecture == "gpt2"
    top = {ours: theirs for theirs, ours in (_GPT2_TOP if gpt2 else _LLAMA_TOP).items()}
    block = {ours: theirs for theirs, ours in (_GPT2_BLOCK if gpt2 else _LLAMA_BLOCK).items()}
    block_prefix, top_prefix = ("transformer.h", "transformer.") if gpt2 else ("model.layers", "")
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        stem, _, leaf = name.rpartition(".")
        if stem in top:
            prefix = "" if stem == "head" else top_prefix
            found[f"{prefix}{top[stem]}.{leaf}"] = value
            continue
        _, number, part = stem.split(".", 2)
        if gpt2 and part in _QKV:
            if part == _QKV[0]:
                value = torch.cat([tensors[f"blocks.{number}.{each}.{leaf}"] for each in _QKV])
                found[f"{block_prefix}.{number}.attn.c_attn.{leaf}"] = value.T if value.ndim == 2 else value
            continue
        if gpt2 and value.ndim == 2:
            value = value.T
        found[f"{block_prefix}.{number}.{block[part]}.{leaf}"] = value
    return {name: value.contiguous() for name, value in found.items()}


def choose_architecture(config: GPTConfig) -> str:
    """gpt2, llama or qwen3: the one that holds a model of `config` exactly. Raises ConfigError where none does."""
    modern = [config.position == "rope", config.norm == "rmsnorm", config.mlp == "swiglu"]
    if config.n_experts:
        raise ConfigError(
            "cannot be exported: no architecture of transformers holds a mixture of experts as it is here"
        )
    if all(modern):
        if config.qk_norm and config.bias:
            raise ConfigError(
                "cannot be exported: Qwen3 holds qk_norm but not bias=true; Llama holds biases but no qk_norm"
            )
        return "qwen3" if config.qk_norm else "llama"
    if any(modern) or config.qk_norm or config.n_kv_heads not in (None, config.n_heads):
        raise ConfigError(
            "cannot be exported: transformers holds either GPT-2 (position=learned norm=layernorm mlp=gelu, no "
            "qk_norm, no n_kv_heads) or all of position=rope norm=rmsnorm mlp=swiglu, not this mixture of them"
        )
    return "gpt2"


def own_to_config(config: GPTConfig, vocab_size: int, architecture: str, eot: int | None) -> dict[str, Any]:
    """The content of config.json for a resolved `config`."""
    shared = {
        "model_type": architecture,
        "vocab_size": vocab_size,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": eot,
        "eos_token_id": eot,
        "torch_dtype": "float32",
    }
    if architecture == "gpt2":
        return shared | {
            "architectures": ["GPT2LMHeadModel"],
            "n_layer": config.n_layers,
            "n_head": config.n_heads,
            "n_embd": config.d_model,
            "n_positions": config.context_length,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": EPSILON,
            "embd_pdrop": config.dropout,
            "resid_pdrop": config.dropout,
            "attn_pdrop": config.dropout,
        }
    assert config.d_model is not None
    assert config.n_heads is not None
    return shared | {
        "architectures": ["LlamaForCausalLM" if architecture == "llama" else "Qwen3ForCausalLM"],
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads or config.n_heads,
        "head_dim": config.d_model // config.n_heads,
        "hidden_size": config.d_model,
        "intermediate_size": hidden_width("swiglu", config.d_model),
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": EPSILON,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": config.bias,
        "mlp_bias": config.bias,
        "use_sliding_window": False,
    }


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a Hugging Face folder. Raises ConfigError without one."""
    file = folder / "config.json"
    if not file.is_file():
        raise ConfigError(
            f"{folder} is neither a Hugging Face folder (no config.json) nor a checkpoint (no checkpoint.json)"
        )
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ConfigError(f"{file} is no JSON: {error}") from error


def config_to_own(config: dict[str, Any]) -> dict[str, Any]:
    """config.json's content as fields of GPTConfig. Raises ConfigError for what a GPT here cannot compute."""
    kind = config.get("model_type")
    if kind == "gpt2":
        _require(config, "activation_function", ("gelu_new", "gelu_pytorch_tanh"), "gelu_new")
        _require(config, "layer_norm_epsilon", (EPSILON,), EPSILON)
        _require(config, "scale_attn_by_inverse_layer_idx", (False,), False)
        _require(config, "n_inner", (None, 4 * config["n_embd"]), None)
        return {
            "n_layers": config["n_layer"],
            "n_heads": config["n_head"],
            "d_model": config["n_embd"],
            "context_length": config.get("n_positions", config.get("n_ctx", 1024)),
            "tie_embeddings": config.get("tie_word_embeddings", True),
        }
    if kind not in ("llama", "qwen3"):
        raise ConfigError(
            f"a Hugging Face folder of type {kind!r} cannot be read: only gpt2, and llama and qwen3 as exported here"
        )
    width, heads = config["hidden_size"], config["num_attention_heads"]
    _require(config, "rms_norm_eps", (EPSILON,), 1e-6)
    _require(config, "hidden_act", ("silu",), "silu")
    _require(config, "intermediate_size", (hidden_width("swiglu", width),), None)
    _require(config, "head_dim", (None, width // heads), None)
    _require(config, "use_sliding_window", (False,), False)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    _require(rope, "rope_type", ("default",), "default")
    bias = bool(config.get("attention_bias", False))
    if kind == "llama":
        _require(config, "mlp_bias", (bias,), False)
    elif bias:
        raise ConfigError("attention_bias=True of a qwen3 folder is not what a GPT here computes")
    return {
        "n_layers": config["num_hidden_layers"],
        "n_heads": heads,
        "d_model": width,
        "context_length": config["max_position_embeddings"],
        "n_kv_heads": config.get("num_key_value_heads") or heads,
        "position": "rope",
        "rope_theta": float(rope.get("rope_theta", config.get("rope_theta", 10000.0))),
        "norm": "rmsnorm",
        "mlp": "swiglu",
        "qk_norm": kind == "qwen3",
        "bias": bias,
        "tie_embeddings": config.get("tie_word_embeddings", False),
    }


def _require(config: dict[str, Any], key: str, allowed: tuple[Any, ...], default: Any) -> None:
    value = config.get(key, default)
    if value not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise ConfigError(f"{key}={value} of the Hugging Face folder is not what a GPT here computes ({wanted})")
