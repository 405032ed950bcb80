"""A trained language model, opened to be used: text from it, or a folder for `transformers`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from recsysml.data.tokenizers import Tokenizer, tokenizer_from_json
from recsysml.engine.checkpoint import load_weights, put_weights, read_metadata
from recsysml.errors import ConfigError, JobError
from recsysml.models.generation import stream
from recsysml.models.gpt import GPT
from recsysml.models.hf_gpt2 import save_hf_folder
from recsysml.schemas.models import GPTConfig


def open_language_model(
    checkpoint_dir: str | Path, device: str | torch.device = "cpu"
) -> tuple[GPT, Tokenizer, dict[str, Any]]:
    """(model in eval mode, tokenizer, checkpoint.json) of a checkpoint folder.

    Raises JobError for a damaged checkpoint, ConfigError for one that is no language model's.
    """
    path = Path(checkpoint_dir)
    tensors, metadata = load_weights(path)
    described = metadata.get("model", {})
    if described.get("kind") != "gpt" or "tokenizer" not in metadata:
        raise ConfigError(f"{path} holds a model of kind {described.get('kind')!r}, not a language model")
    try:
        config = GPTConfig(**described["config"])
    except TypeError as error:
        raise JobError(f"{path} was written by another version: {error}") from error
    model = GPT(config, described["vocab_size"])
    put_weights(model, tensors, path)
    return model.to(device).eval(), tokenizer_from_json(metadata["tokenizer"]), metadata


def generate_text(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str = "",
    max_new_tokens: int = 200,
    *,
    temperature: float = 0.8,
    top_k: int = 200,
    top_p: float = 1.0,
    seed: int = 1,
    use_cache: bool = True,
) -> Iterator[str]:
    """Yields the text that follows `prompt` in pieces that are whole characters; their join is the continuation.

    Every prompt stands behind an end-of-text token, as documents do in training; the next one ends the text.
    Raises ConfigError for settings out of range, at the call.
    """
    ids = stream(
        model,
        [tokenizer.eot, *tokenizer.encode(prompt)],
        max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        use_cache=use_cache,
        stop_id=tokenizer.eot,
    )
    return _characters(ids, tokenizer)


def _characters(ids: Iterator[int], tokenizer: Tokenizer) -> Iterator[str]:
    held: list[int] = []  # tokens whose bytes may be a part of a character
    for token in ids:
        held.append(token)
        text = tokenizer.decode(held)
        # a character has at most 4 bytes: what is still broken after 4 tokens is no character at all
        if not text.endswith("\ufffd") or len(held) >= 4:
            yield text
            held = []
    if held:
        yield tokenizer.decode(held)


def export_folder(checkpoint_dir: str | Path, folder: str | Path) -> str:
    """Write a checkpoint as a Hugging Face folder, tokenizer included; returns gpt2, llama or qwen3.

    Raises ConfigError when transformers has no architecture for it, or `folder` is not empty or cannot be written:
    what an earlier model left there would be taken for a part of this one.
    """
    target = Path(folder)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigError(f"{target} is not an empty folder: choose another")
    kind = read_metadata(Path(checkpoint_dir)).get("model", {}).get("kind")
    if kind != "gpt":
        raise ConfigError(
            f"{checkpoint_dir} holds a model of kind {kind!r}; export writes a language model or a retriever"
        )
    model, tokenizer, _ = open_language_model(checkpoint_dir)
    try:
        return save_hf_folder(model, target, tokenizer)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror or error}; choose another folder") from error
