"""A checkpoint opened: text from it, its export, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from recsysml import serving
from recsysml.data.tokenizers import Tokenizer, bytes_tokenizer, train_bpe
from recsysml.engine import checkpoint
from recsysml.errors import ConfigError, JobError
from recsysml.models.generation import generate
from recsysml.models.gpt import GPT, check_initial
from recsysml.models.init_from import load_initial_weights
from recsysml.schemas.models import GPTConfig


def save(root: Path, tokenizer: Tokenizer, **overrides: Any) -> tuple[Path, GPT]:
    torch.manual_seed(0)
    fields = {"size": "nano", "n_layers": 2, "n_heads": 2, "d_model": 32, "context_length": 32} | overrides
    model = GPT(GPTConfig(**fields), tokenizer.vocab_size).eval()
    metadata = {
        "model": {"kind": "gpt", "config": dataclasses.asdict(model.config), "vocab_size": tokenizer.vocab_size},
        "tokenizer": tokenizer.to_json(),
    }
    return checkpoint.save(root, 3, checkpoint.weights(model), {}, metadata, keep=1, is_best=True), model


@pytest.mark.parametrize("overrides", [{}, {"tie_embeddings": False, "position": "rope", "n_experts": 4}])
def test_open_gives_the_model_back(tmp_path: Path, overrides: dict[str, Any]) -> None:
    tokenizer = train_bpe(["one two two three three three"], 262)
    path, model = save(tmp_path, tokenizer, **overrides)
    opened, own, metadata = serving.open_language_model(path)
    tokens = torch.randint(tokenizer.vocab_size, (2, 9))
    assert torch.equal(opened.logits(tokens), model.logits(tokens))
    assert own.fingerprint == tokenizer.fingerprint
    assert metadata["step"] == 3
    assert not opened.training


def test_text_is_the_tokens_decoded(tmp_path: Path) -> None:
    tokenizer = bytes_tokenizer()
    _, model = save(tmp_path, tokenizer)
    pieces = list(serving.generate_text(model, tokenizer, "Hé", 40, seed=5))
    ids = generate(model, [tokenizer.eot, *tokenizer.encode("Hé")], 40, seed=5, stop_id=tokenizer.eot)
    assert len(pieces) > 1
    assert "".join(pieces).replace("\ufffd", "") == tokenizer.decode(ids).replace("\ufffd", "")


def test_characters_of_several_tokens_come_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = bytes_tokenizer()
    _, model = save(tmp_path, tokenizer)
    text = "aé世🙂b"
    monkeypatch.setattr(serving, "stream", lambda *a, **k: iter(tokenizer.encode(text)))
    assert list(serving.generate_text(model, tokenizer)) == list(text)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path, _ = save(tmp_path, bytes_tokenizer())
    weights = path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(JobError, match=r"model.safetensors does not match"):
        serving.open_language_model(path)
    model = GPT(GPTConfig(size="nano"), 257)
    with pytest.raises(ConfigError, match="checksum"):
        load_initial_weights(model, path)


def test_another_kind_is_refused(tmp_path: Path) -> None:
    path, _ = save(tmp_path, bytes_tokenizer())
    metadata = json.loads((path / "checkpoint.json").read_text())
    metadata["model"]["kind"] = "two_tower"
    (path / "checkpoint.json").write_text(json.dumps(metadata))
    with pytest.raises(ConfigError, match="two_tower"):
        serving.open_language_model(path)


def test_a_run_starts_from_a_checkpoint(tmp_path: Path) -> None:
    path, model = save(tmp_path / "run" / "checkpoints", bytes_tokenizer())
    for place in (path, tmp_path / "run", tmp_path / "run" / "checkpoints"):
        other = GPT(model.config, 257)
        report = load_initial_weights(other, place)
        assert report.complete
        assert torch.equal(other.token_embedding.weight[:257], model.token_embedding.weight[:257])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": {}, "model": 3}', '{"files": {}}'])
def test_weights_of_a_damaged_checkpoint_are_refused_in_one_line(tmp_path: Path, content: str) -> None:
    path, _ = save(tmp_path, bytes_tokenizer())
    (path / "checkpoint.json").write_text(content)
    config = GPTConfig(size="nano", d_model=32, init_from=str(path))
    for read in (lambda: check_initial(config), lambda: load_initial_weights(GPT(config, 257), path)):
        with pytest.raises(ConfigError, match=r"checkpoint\.json is damaged"):
            read()


def test_weights_that_cannot_fit_are_refused_before_a_run(tmp_path: Path) -> None:
    path, model = save(tmp_path, bytes_tokenizer())
    check_initial(dataclasses.replace(model.config, init_from=str(path)))
    with pytest.raises(ConfigError, match=r"does not fit model.d_model=64: .* model.d_model=32"):
        check_initial(dataclasses.replace(model.config, d_model=64, init_from=str(path)))
    (path / "checkpoint.json").write_text(json.dumps({"files": {}, "model": {"kind": "two_tower", "config": {}}}))
    with pytest.raises(ConfigError, match="two_tower"):
        check_initial(dataclasses.replace(model.config, init_from=str(path)))


def test_export(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    path, model = save(tmp_path / "c", bytes_tokenizer())
    assert serving.export_folder(path, tmp_path / "out") == "gpt2"
    ranker = tmp_path / "ranker"
    shutil.copytree(path, ranker)
    described = json.loads((ranker / "checkpoint.json").read_text())
    (ranker / "checkpoint.json").write_text(json.dumps({**described, "model": {"kind": "mtml"}}))
    with pytest.raises(ConfigError, match="kind 'mtml'; export writes a language model or a retriever"):
        serving.export_folder(ranker, tmp_path / "none")
    other = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out").eval()
    ids = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("Hello", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(model.logits(ids), other(ids).logits, atol=1e-4, rtol=0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    for place in (tmp_path / "full", tmp_path / "full" / "thesis.txt", tmp_path / "out"):  # out holds another model now
        with pytest.raises(ConfigError, match="not an empty folder"):
            serving.export_folder(path, place)
    with pytest.raises(ConfigError, match="/dev/null/x cannot be written"):
        serving.export_folder(path, "/dev/null/x")
