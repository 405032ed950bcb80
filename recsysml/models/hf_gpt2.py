"""A GPT from a Hugging Face folder, and to one that `transformers` loads: GPT-2, or Llama and Qwen3 for modern ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch

from recsysml.errors import ConfigError
from recsysml.files import write_atomic, write_json
from recsysml.models import hf_layouts
from recsysml.models.gpt import GPT
from recsysml.models.hf_tokenizer import write_tokenizer
from recsysml.models.init_from import LoadReport, copy_tensors, read_tensors
from recsysml.schemas.models import GPTConfig

if TYPE_CHECKING:
    from recsysml.models.hf_tokenizer import ByteLevelTokenizer


def load_hf_folder(path: str | Path) -> tuple[GPT, LoadReport]:
    """The model a folder's config.json describes, with its weights, and what did not fit.

    Raises ConfigError for an architecture that is not computed here, for weights that could run code and for shapes
    that contradict config.json.
    """
    config = hf_layouts.read_config(Path(path))
    model = GPT(GPTConfig(size="small", **hf_layouts.config_to_own(config)), config["vocab_size"])
    report = copy_tensors(model, read_tensors(path), str(path))
    if report.mismatched:
        raise ConfigError(f"the folder's weights are not what its config.json describes\n{report}")
    return model, report


def save_hf_folder(model: GPT, path: str | Path, tokenizer: ByteLevelTokenizer | None = None) -> str:
    """Write config.json, model.safetensors and, with a tokenizer, its files; returns the architecture's name.

    The folder is made; its own files are replaced. Padded vocabulary rows are left out. Raises ConfigError, and
    writes nothing, for a model that no architecture of transformers holds exactly.
    """
    architecture = hf_layouts.choose_architecture(model.config)
    if tokenizer is not None and tokenizer.vocab_size != model.vocab_size:
        raise ConfigError(f"the tokenizer has {tokenizer.vocab_size} tokens and the model {model.vocab_size}")
    tensors = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    for name in ("token_embedding.weight", "head.weight"):
        if name in tensors:
            tensors[name] = tensors[name][: model.vocab_size]
    if architecture == "gpt2" and not model.config.bias:  # GPT-2 always has biases: zeros are the same model
        for name in [name for name in tensors if name.startswith(("blocks.", "norm."))]:
            tensors[name.removesuffix("weight") + "bias"] = torch.zeros(tensors[name].shape[0])
    folder = Path(path)
    eot = tokenizer.eot if tokenizer is not None else None
    write_json(folder / "config.json", hf_layouts.own_to_config(model.config, model.vocab_size, architecture, eot))
    named = hf_layouts.to_hf_names(tensors, architecture)
    write_atomic(folder / "model.safetensors", safetensors.torch.save(named, metadata={"format": "pt"}))
    if tokenizer is not None:
        write_tokenizer(tokenizer, folder, model.context_length)
    return architecture
