"""Scoring whole splits, against distributions whose loss is known in closed form."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recsysml.data.documents import Document
from recsysml.data.prepare import encode_block
from recsysml.data.token_data import TokenData, TokenSplit
from recsysml.data.tokenizers import bytes_tokenizer, train_bpe
from recsysml.engine.device import Machine
from recsysml.evals import language as evals

CPU = Machine(torch.device("cpu"), "fp32")
TEXTS = ["to be or not to be\n", "that is the question: \u00e9t\u00e9\n" * 700, "whether 'tis nobler\n", "x" * 20_000]


def split(tokenizer, texts=TEXTS):
    documents = [Document(f"doc{i}", text) for i, text in enumerate(texts)]
    block = encode_block(tokenizer, documents)
    size = sum(len(text.encode()) for text in texts)
    return TokenSplit(block.tokens, size, block.unit_starts, block.unit_bytes, block.unit_ids)


def losses_of(log_probability):
    """token_losses of a model that gives every token the same probability everywhere."""

    def token_losses(tokens, targets):
        nats = -log_probability[targets.clamp(min=0)]
        return torch.where(targets == -100, 0.0, nats)

    return token_losses


@pytest.fixture(params=["bytes", "bpe"])
def tokenizer(request):
    return bytes_tokenizer() if request.param == "bytes" else train_bpe(TEXTS, 300)


@pytest.mark.parametrize(("context", "batch"), [(7, 3), (64, 16), (100_000, 1)])
def test_a_uniform_model_costs_the_logarithm_of_the_vocabulary(tokenizer, context, batch):
    data, v = split(tokenizer), tokenizer.vocab_size
    uniform = losses_of(torch.full((v,), -math.log(v), dtype=torch.float64).float())
    score = evals.evaluate(uniform, data, context_length=context, batch_size=batch, machine=CPU)
    assert score.loss[0] == pytest.approx(math.log(v), rel=1e-6)
    n = len(data.tokens) - 1
    assert score.tokens.sum() == n
    expected = n * math.log2(v) / sum(len(text.encode()) for text in TEXTS)
    assert score.bits_per_byte[0] == pytest.approx(expected, rel=1e-6)


def test_a_unigram_model_costs_its_cross_entropy_unit_by_unit(tokenizer):
    data, v = split(tokenizer), tokenizer.vocab_size
    log_probability = torch.log_softmax(torch.randn(v, generator=torch.Generator().manual_seed(1)), 0)
    score = evals.evaluate(losses_of(log_probability), data, context_length=50, batch_size=4, machine=CPU)
    nats = -log_probability.double().numpy()[data.tokens]
    nats[0] = 0.0
    bounds = [*data.unit_starts, len(data.tokens)]
    expected = [nats[a:b].sum() for a, b in itertools.pairwise(bounds)]
    assert score.nats == pytest.approx(expected, rel=1e-6)
    assert score.loss[0] == pytest.approx(nats.sum() / (len(nats) - 1), rel=1e-6)


def test_windows_predict_every_token_after_the_first_once_and_in_order():
    tokens = np.arange(1, 54, dtype=np.uint16)
    seen, contexts = [], []
    for inputs, targets, start in evals.windows(tokens, 10, 2):
        kept = targets[targets != -100]
        assert kept[0] == tokens[start]
        seen += kept.tolist()
        contexts += inputs[targets != -100].tolist()
        assert inputs.shape[1] == 10
    assert seen == tokens[1:].tolist()
    assert contexts == tokens[:-1].tolist()


def test_a_last_unit_that_begins_inside_a_token_has_no_tokens_of_its_own():
    text = "a" + "x" * 8192  # the cut at byte 8192 falls into the last "xx"
    tokenizer = train_bpe(["xx " * 2000], 260)
    data = split(tokenizer, [text])
    assert data.unit_bytes.tolist() == [8192, 1]
    uniform = losses_of(torch.zeros(tokenizer.vocab_size) - 1.0)
    score = evals.evaluate(uniform, data, context_length=64, batch_size=4, machine=CPU)
    assert score.nats.tolist() == score.tokens.tolist() == [len(data.tokens) - 1, 0]


def test_units_and_bytes_agree_across_tokenizers():
    one, two = split(bytes_tokenizer()), split(train_bpe(TEXTS, 300))
    assert one.unit_ids == two.unit_ids
    assert one.unit_bytes.tolist() == two.unit_bytes.tolist()
    assert len(one.unit_ids) > len(TEXTS)  # the long ones are cut


def test_the_same_text_under_another_tokenizer():
    source, target = bytes_tokenizer(), train_bpe(TEXTS, 300)
    again, direct = evals.with_tokenizer(split(source), source, target), split(target)
    assert np.array_equal(again.tokens, direct.tokens)
    assert np.array_equal(again.unit_starts, direct.unit_starts)
    assert again.unit_ids == direct.unit_ids


def test_the_record_holds_baselines_and_examples_whose_mean_is_the_metric(tokenizer):
    data = TokenData("t", "f", tokenizer, {"train": split(tokenizer), "val": split(tokenizer, TEXTS[:2])})
    v = tokenizer.vocab_size
    uniform = losses_of(torch.full((v,), -math.log(v)))
    score = evals.evaluate(uniform, data.splits["val"], context_length=64, batch_size=4, machine=CPU)
    metrics, examples = {}, {}
    run = SimpleNamespace(
        metric=lambda name, value, **more: metrics.update({name: {"value": value, **more}}),
        add_examples=lambda name, ids, values: examples.update({name: values}),
    )
    evals.record(run, "val", score, data)
    train, val = data.splits["train"].tokens, data.splits["val"].tokens
    counts = np.bincount(train, minlength=v) + 1
    unigram = -np.log(counts / counts.sum())[val[1:]]
    assert metrics["val/loss"]["baseline"] == pytest.approx(unigram.mean())
    size = sum(len(text.encode()) for text in TEXTS[:2])
    assert metrics["val/bits_per_byte"]["baseline"] == pytest.approx(unigram.sum() / math.log(2) / size)
    import zlib

    text = "".join(TEXTS[:2]).encode()
    assert metrics["val/bits_per_byte"]["baselines"]["gzip"] == pytest.approx(8 * len(zlib.compress(text, 9)) / size)
    for name in metrics:
        assert examples[name].mean() == pytest.approx(metrics[name]["value"])
