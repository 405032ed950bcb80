"""Models of transformers opened to be judged: what they compute is what transformers computes."""

from __future__ import annotations

import logging

import pytest
import torch
import transformers

from recsysml.data.tokenizers import train_bpe
from recsysml.engine import opening
from recsysml.errors import ConfigError
from recsysml.models import hf, hf_tokenizer
from recsysml.models.generation import generate
from recsysml.models.hf import HFModel
from recsysml.models.hf_gpt2 import load_hf_folder
from recsysml.models.scoring import Request, log_likelihoods

TEXT = "the cat sat on the mat and the dog ran to the cat\n" * 30
COMMON = {"vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    "gpt2": transformers.GPT2Config(n_positions=32, n_embd=16, n_layer=2, n_head=2, **COMMON),
    "llama": transformers.LlamaConfig(
        max_position_embeddings=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, **COMMON,
    ),
    "gpt_neox": transformers.GPTNeoXConfig(
        max_position_embeddings=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        **COMMON,
    ),
    # positions by a bias on the scores: rows with several answers must be found out not to work
    "bloom": transformers.BloomConfig(hidden_size=16, n_layer=2, n_head=2, **COMMON),
}  # fmt: skip


def made(name):
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    for p in model.parameters():
        p.data.add_(0.2 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_scores_are_those_of_whole_rows(name):
    theirs = made(name)
    model = HFModel(theirs, None)
    if name != "bloom":
        assert model.shares
        assert model.head_apart
        assert model.context_length == 32
    generator = torch.Generator().manual_seed(2)
    requests = []
    for question in range(4):
        context = torch.randint(60, (5 + question,), generator=generator).tolist()
        answers = [torch.randint(60, (n,), generator=generator).tolist() for n in (1, 3, 4)]
        requests += [Request(context, answer, question) for answer in answers]
    found = log_likelihoods(model, requests, device=torch.device("cpu"), share=model.shares)
    for request, score in zip(requests, found, strict=True):
        ids = torch.tensor([[*request.context, *request.continuation]])
        logits = theirs(input_ids=ids).logits[0].log_softmax(-1)
        expected = sum(
            logits[len(request.context) - 1 + i, token].item() for i, token in enumerate(request.continuation)
        )
        assert score.nats == pytest.approx(expected, abs=1e-3)


def test_a_head_that_cannot_be_applied_apart_is_found_out():
    class Scaled(transformers.GPT2LMHeadModel):
        def forward(self, **inputs):
            output = super().forward(**inputs)
            output.logits = output.logits * 0.5
            return output

    torch.manual_seed(1)
    theirs = Scaled(CONFIGS["gpt2"]).eval()
    for p in theirs.parameters():
        p.data.add_(0.2 * torch.randn_like(p))
    model = HFModel(theirs, None)
    assert not model.head_apart
    ids, places = torch.tensor([[3, 4, 5]]), torch.arange(3)
    found = model.unembed(model.packed(ids, places, places[1:]))
    torch.testing.assert_close(found, theirs(input_ids=ids).logits[0, 1:])


@pytest.fixture
def folder(tmp_path):
    tokenizer = train_bpe([TEXT], 300)
    torch.manual_seed(3)
    sizes = {"n_positions": 48, "n_embd": 32, "n_layer": 2, "n_head": 2}
    config = transformers.GPT2Config(vocab_size=tokenizer.vocab_size, eos_token_id=tokenizer.eot, **sizes)
    model = transformers.GPT2LMHeadModel(config)
    for p in model.parameters():
        p.data.mul_(4)
    model.save_pretrained(tmp_path / "tiny")
    hf_tokenizer.write_tokenizer(tokenizer, tmp_path / "tiny", 48)
    return tmp_path / "tiny"


def test_greedy_text_is_that_of_the_same_weights_here(folder):
    opened = opening.open_language_model(folder)
    own, _ = load_hf_folder(folder)
    ids = opened.tokenizer.encode("the cat")
    expected = generate(own.eval(), ids, 20, temperature=0, stop_id=opened.tokenizer.eot)
    assert list(opened.greedy(ids, 20)) == expected
    assert opened.tokenizer.decode(ids) == "the cat"
    assert (
        opened.parameters
        == sum(p.numel() for p in own.parameters()) - (own.padded_vocab_size - own.vocab_size) * own.width
    )


def test_the_fingerprint_is_that_of_the_files(folder):
    before = opening.open_language_model(folder).fingerprint
    assert opening.open_language_model(folder).fingerprint == before
    file = folder / "config.json"
    file.write_text(file.read_text() + "\n")
    assert opening.open_language_model(folder).fingerprint != before


def test_a_text_longer_than_the_context_is_encoded_without_a_warning(folder):
    _, tokenizer = hf.load(folder)
    said = []
    handler = logging.Handler()
    handler.emit = said.append
    logging.getLogger("transformers").addHandler(handler)
    try:
        ids = [tokenizer.encode("the cat " * 40, special) for special in (None, False, True)]
        assert min(map(len, ids)) > 48
        assert said == []
        tokenizer.tokenizer.encode("the cat " * 40)  # what it would be
        assert "48" in said[0].getMessage()
    finally:
        logging.getLogger("transformers").removeHandler(handler)


def test_a_folder_that_cannot_be_read_is_one_line(tmp_path, folder):
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        opening.open_language_model(folder)
    assert "\n" not in str(caught.value)
