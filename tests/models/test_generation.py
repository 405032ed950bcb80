"""Generation: the cache, the cuts, the seeds, the end of the window."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recsysml.errors import ConfigError
from recsysml.models.generation import generate, sample, stream
from recsysml.models.gpt import GPT
from recsysml.schemas.models import GPTConfig


def make(**overrides: Any) -> GPT:
    torch.manual_seed(0)
    fields = {"size": "nano", "n_layers": 2, "n_heads": 4, "d_model": 32, "context_length": 16} | overrides
    model = GPT(GPTConfig(**fields), 23)
    with torch.no_grad():  # far from uniform, so that a wrong logit shows in the tokens
        for parameter in model.parameters():
            parameter.mul_(4)
    return model


MODERN = {"position": "rope", "norm": "rmsnorm", "mlp": "swiglu", "qk_norm": True, "bias": False}
CASES = [{}, MODERN, MODERN | {"n_kv_heads": 2}, {"n_experts": 4}]


@pytest.mark.parametrize("overrides", CASES, ids=str)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("prompt", [[1], [1, 2, 3, 4, 5], list(range(20))])
def test_the_cache_changes_nothing_within_and_beyond_the_context(
    overrides: dict[str, Any], temperature: float, prompt: list[int]
) -> None:
    model = make(**overrides)
    texts = [generate(model, prompt, 40, temperature=temperature, use_cache=cached) for cached in (True, False)]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 40


@pytest.mark.parametrize("overrides", CASES, ids=str)
def test_cached_logits_are_the_uncached(overrides: dict[str, Any]) -> None:
    model = make(**overrides).eval()
    tokens = torch.randint(23, (2, 16))
    whole, cache = model.logits(tokens), model.new_cache(2)
    parts = [model.logits(piece, cache) for piece in tokens.split([5, 1, 1, 6, 3], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.logits(tokens, last_only=True), whole[:, -1:], atol=1e-5, rtol=1e-5)


def test_greedy_is_the_argmax_of_the_whole_text() -> None:
    model = make()
    text = [3, 1]
    for token in generate(model, text, 10, temperature=0):
        assert token == model.eval().logits(torch.tensor([text]))[0, -1].argmax()
        text.append(token)


def test_one_seed_gives_one_text_and_leaves_the_random_state_alone() -> None:
    model = make(dropout=0.1).train()
    state = torch.get_rng_state()
    texts = [generate(model, [1], 12, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training


def test_streaming_and_stopping() -> None:
    model = make()
    text = generate(model, [1], 12, seed=4)
    assert list(stream(model, [1], 12, seed=4)) == text
    stop = text[5]
    assert generate(model, [1], 12, seed=4, stop_id=stop) == text[: text.index(stop)]
    assert generate(model, [1], 0) == []


def test_no_padded_token_is_ever_drawn() -> None:
    model = make()
    with torch.no_grad():
        model.token_embedding.weight[23:] = 100.0
    assert max(generate(model, [1], 200, temperature=5.0, top_k=0)) < 23


def frequencies(temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()
    draws = [sample(logits, temperature, top_k, top_p, generator) for _ in range(4000)]
    return torch.tensor(draws).bincount(minlength=4) / 4000


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ((1.0, 0, 1.0), [0.1, 0.4, 0.2, 0.3]),
        ((1.0, 2, 1.0), [0, 4 / 7, 0, 3 / 7]),
        ((1.0, 0, 0.69), [0, 4 / 7, 0, 3 / 7]),
        ((1.0, 0, 0.71), [0, 4 / 9, 2 / 9, 3 / 9]),
        ((1.0, 3, 0.3), [0, 1, 0, 0]),
        ((0.5, 0, 1.0), [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        ((0.0, 0, 1.0), [0, 1, 0, 0]),
        ((1e-30, 0, 1.0), [0, 1, 0, 0]),
    ],
)
def test_draws_follow_the_distribution(settings: tuple[float, int, float], expected: list[float]) -> None:
    found, wanted = frequencies(*settings), torch.tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(found, wanted, atol=0.03, rtol=0)
    assert torch.equal(found > 0, wanted > 0)


def test_equal_logits_are_cut_to_exactly_k() -> None:
    generator = torch.Generator().manual_seed(0)
    assert {sample(torch.zeros(10), 1.0, 3, 1.0, generator) for _ in range(200)} == {0, 1, 2}


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {}, "prompt is empty"),
        ([23], {}, "outside the model's vocabulary of 23"),
        ([1], {"temperature": -1.0}, "temperature"),
        ([1], {"temperature": float("nan")}, "temperature"),
        ([1], {"top_k": -1}, "top_k"),
        ([1], {"top_p": 0.0}, "top_p"),
        ([1], {"top_p": 1.5}, "top_p"),
    ],
)
def test_mistakes_are_told(prompt: list[int], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stream(make(), prompt, 3, **options)
