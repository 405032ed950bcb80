"""Sampling from a language model, token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from recsysml.errors import ConfigError
from recsysml.models.gpt import GPT
from recsysml.nn.attention import KVCache


def generate(
    model: GPT,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    *,
    temperature: float = 0.8,
    top_k: int = 200,
    top_p: float = 1.0,
    seed: int = 1,
    use_cache: bool = True,
    stop_id: int | None = None,
) -> list[int]:
    """The new tokens, without the prompt and without `stop_id`. Arguments as in `stream`."""
    return list(
        stream(
            model,
            prompt_ids,
            max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            use_cache=use_cache,
            stop_id=stop_id,
        )
    )


def stream(
    model: GPT,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    *,
    temperature: float = 0.8,
    top_k: int = 200,
    top_p: float = 1.0,
    seed: int = 1,
    use_cache: bool = True,
    stop_id: int | None = None,
) -> Iterator[int]:
    """Yields each new token as it is drawn, until `max_new_tokens` or `stop_id` (which is not yielded).

    temperature 0 takes the likeliest token; top_k 0 and top_p 1 cut nothing. Draws come from a generator of their own,
    so the global random state is left alone and one seed gives one text.

    Beyond `context_length`: of a longer prompt the last `context_length` tokens are read. When the window is full, its
    older half is dropped and the cache built again from the rest, so a token costs the same on average however long
    the text; with or without the cache the windows, and so the result, are the same.

    Raises ConfigError for an empty prompt, tokens outside the vocabulary and settings out of range.
    """
    _check(model, prompt_ids, temperature, top_k, top_p)
    return _stream(model, list(prompt_ids), max_new_tokens, (temperature, top_k, top_p), seed, use_cache, stop_id)


def _stream(
    model: GPT,
    ids: list[int],
    max_new_tokens: int,
    settings: tuple[float, int, float],
    seed: int,
    use_cache: bool,
    stop_id: int | None,
) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    start = max(0, len(ids) - model.context_length)  # where the window begins
    cache = model.new_cache() if use_cache else None
    for _ in range(max_new_tokens):
        if len(ids) - start > model.context_length:
            start += max(1, model.context_length // 2)
            cache = model.new_cache() if use_cache else None
        logits = _next_logits(model, ids[start:], cache)
        token = sample(logits, *settings, generator=generator)
        if token == stop_id:
            return
        ids.append(token)
        yield token


@torch.no_grad()
def _next_logits(model: GPT, window: list[int], cache: KVCache | None) -> Tensor:
    """(V,) fp32 on the CPU, for the token after `window`; the cache gets what of the window it has not seen."""
    was_training = model.training
    if was_training:  # here and not around the loop: between two tokens the caller may go on training
        model.eval()
    try:
        device = model.token_embedding.weight.device
        new = window[cache.length :] if cache is not None else window
        return model.logits(torch.tensor([new], device=device), cache, last_only=True)[0, -1].cpu()
    finally:
        if was_training:
            model.train()


def sample(logits: Tensor, temperature: float, top_k: int, top_p: float, generator: torch.Generator) -> int:
    """One index drawn from logits (V,): the `top_k` highest, then of those the fewest that reach `top_p` together
    (nucleus sampling, Holtzman et al. 2020), at the temperature given. Of equal logits the lower index goes first.
    """
    if temperature == 0:
        return int(logits.argmax())
    ordered, indices = logits.double().sort(descending=True, stable=True)
    if top_k:
        ordered, indices = ordered[:top_k], indices[:top_k]
    probabilities = ((ordered - ordered[0]) / temperature).softmax(dim=0)
    before = probabilities.cumsum(dim=0) - probabilities
    probabilities = probabilities.where(before < top_p, 0.0)  # the first always stays
    return int(indices[torch.multinomial(probabilities, 1, generator=generator)])


def _check(model: GPT, prompt_ids: Sequence[int], temperature: float, top_k: int, top_p: float) -> None:
    if not prompt_ids:
        raise ConfigError("the prompt is empty: start from one token at least, such as end-of-text")
    if min(prompt_ids) < 0 or max(prompt_ids) >= model.vocab_size:
        raise ConfigError(f"the prompt has tokens outside the model's vocabulary of {model.vocab_size}")
    if not temperature >= 0:
        raise ConfigError(f"temperature={temperature} must be 0 (always the likeliest token) or more")
    if top_k < 0:
        raise ConfigError(f"top_k={top_k} must be 0 (no cut) or more")
    if not 0 < top_p <= 1:
        raise ConfigError(f"top_p={top_p} must be above 0 and at most 1 (no cut)")
